// Operations on texts that both methods and filters need. All keep origins.
#pragma once

#include <string>
#include <vector>

#include "chat/jinja/context.h"

namespace fl::chat::jinja {

Value call_text_method(const Text& self, const std::string& name, const Args& args, Context& context);

Text upper(const Text& text);
Text lower(const Text& text);
Text capitalize(const Text& text);
Text strip_text(const Text& text, bool left, bool right, const Value* chars);
/// At most `limit` replacements, -1: all.
Text replace(const Text& text, const Text& from, const Text& to, Int limit, Context& context);
/// In the middle of `width` characters, filled with `fill`; sides: -1 left, 0 centre, 1 right.
Text justify(const Text& text, Int width, const Text& fill, int side, Context& context);
std::vector<Text> split_lines(const Text& text, bool keep_ends);

}  // namespace fl::chat::jinja
