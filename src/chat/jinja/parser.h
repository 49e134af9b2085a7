// Tokens to a tree. Grammar: palletsprojects/jinja, src/jinja2/parser.py. Includes, imports, inheritance and
// custom extensions do not exist here: a chat template is one text.
#pragma once

#include <string_view>

#include "chat/jinja/ast.h"
#include "chat/jinja/lexer.h"

namespace fl::chat::jinja {

/// Nesting of statements and brackets, and height of an expression: what the parser and the evaluator recurse
/// into.
inline constexpr int kMaxSyntaxNesting = 128;
inline constexpr int kMaxExpressionHeight = 400;
inline constexpr size_t kMaxSourceBytes = size_t{4} << 20;

/// Throws TemplateError with the line.
Body parse(std::string_view source);

}  // namespace fl::chat::jinja
