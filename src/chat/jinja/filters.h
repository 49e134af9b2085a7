// The filters of the template language, by name.
#pragma once

#include <string_view>

#include "chat/jinja/context.h"

namespace fl::chat::jinja {

using Filter = Value (*)(const Value& input, const Args& args, Context& context);

/// Null if there is none. Texts: filters_text.cpp; sequences and the rest: filters.cpp.
Filter find_filter(std::string_view name);

struct NamedFilter {
  std::string_view name;
  Filter filter;
};
Filter find_text_filter(std::string_view name);

}  // namespace fl::chat::jinja
