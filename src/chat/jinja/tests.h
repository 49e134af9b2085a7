// The tests of the template language (`x is defined`), by name.
#pragma once

#include <string_view>

#include "chat/jinja/context.h"

namespace fl::chat::jinja {

using Test = bool (*)(const Value& input, const Args& args, Context& context);

/// Null if there is none.
Test find_test(std::string_view name);

}  // namespace fl::chat::jinja
