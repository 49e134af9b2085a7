// Template source to tokens, with Jinja's white-space rules as Hugging Face sets them: trim_blocks and
// lstrip_blocks on, one trailing newline dropped. Reference: palletsprojects/jinja, src/jinja2/lexer.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chat/jinja/value.h"

namespace fl::chat::jinja {

struct Token {
  enum class Kind {
    data,         ///< text outside of tags
    block_begin,  ///< {%
    block_end,
    output_begin,  ///< {{
    output_end,
    name,
    string,
    integer,
    real,
    symbol,  ///< operator or bracket, in `text`
    end,
  };
  Kind kind = Kind::end;
  std::string text;
  int line = 1;
  Int integer = 0;
  double real = 0;

  bool is_symbol(std::string_view s) const { return kind == Kind::symbol && text == s; }
  bool is_name(std::string_view s) const { return kind == Kind::name && text == s; }
};

/// Throws TemplateError with the line. The last token is `end`.
std::vector<Token> tokenize(std::string_view source);

}  // namespace fl::chat::jinja
