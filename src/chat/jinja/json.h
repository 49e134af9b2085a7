// JSON to values and back. Everything that comes from JSON came from a request: its strings are not trusted.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "chat/jinja/value.h"

namespace fl::chat::jinja {

/// TemplateError if nested deeper than kMaxNesting. `n_values` and `n_bytes` grow by what was read.
Value from_json(const nlohmann::ordered_json& json, uint64_t& n_values, uint64_t& n_bytes);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  int indent = -1;  ///< -1: one line
  Text item_separator, key_separator;
};

/// Python's json.dumps with `ensure_ascii=False`, as Hugging Face's `tojson` filter calls it.
Text to_json(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace fl::chat::jinja
