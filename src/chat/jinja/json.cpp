#include "chat/jinja/json.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tokenizer/utf8.h"

namespace fl::chat::jinja {
namespace {

using Json = nlohmann::ordered_json;

Value convert(const Json& json, int depth, uint64_t& n_values, uint64_t& n_bytes) {
  if (depth > kMaxNesting) {
    throw TemplateError(fmt::format("the messages or tools are nested deeper than {}", kMaxNesting));
  }
  ++n_values;
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return Int{json.get<int64_t>()};
    case Json::value_t::number_unsigned:
      return static_cast<Int>(json.get<uint64_t>());
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      n_bytes += text.size();
      return Text(text, false);
    }
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) {
        items.push_back(convert(item, depth + 1, n_values, n_bytes));
      }
      return make_sequence(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      entries.reserve(json.size());
      for (const auto& [key, item] : json.items()) {
        n_bytes += key.size();
        entries.emplace_back(Text(key, false), convert(item, depth + 1, n_values, n_bytes));
      }
      return make_dict(std::move(entries));
    }
    case Json::value_t::null:
    case Json::value_t::binary:
    case Json::value_t::discarded:
      break;
  }
  return None{};
}

class Writer {
 public:
  Writer(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  void write(const Value& value, int level) {
    budget_.step();
    if (const Text* text = value.text()) {
      string(*text);
    } else if (const Sequence* s = value.sequence(); s != nullptr && s->type != Sequence::generator) {
      list(s->items, level);
    } else if (const Dict* dict = value.dict()) {
      object(*dict, level);
    } else if (is_scalar(value)) {
      put(scalar(value));
    } else {
      throw TemplateError(fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
  }

  Text take() { return std::move(out_); }

 private:
  void put(std::string_view text) { out_.append(text, true); }

  static bool is_scalar(const Value& value) {
    return value.is_none() || value.is<bool>() || value.is<Int>() || value.is<double>();
  }

  static std::string scalar(const Value& value) {
    if (value.is_none()) {
      return "null";
    }
    if (const bool* b = std::get_if<bool>(&value.storage())) {
      return *b ? "true" : "false";
    }
    if (const double* d = std::get_if<double>(&value.storage())) {
      return std::isnan(*d) ? "NaN" : std::isinf(*d) ? (*d < 0 ? "-Infinity" : "Infinity") : format_real(*d);
    }
    return format_integer(std::get<Int>(value.storage()));
  }

  void string(const Text& text) {
    budget_.bytes(text.size());
    const std::string& s = text.str();
    put("\"");
    for (size_t pos = 0; pos < s.size();) {
      const auto c = tokenizer::decode_utf8(s, pos);
      const bool trusted = text.trusted_at(pos);
      std::string part = s.substr(pos, c.bytes);
      switch (c.code_point) {
        case '"':
          part = "\\\"";
          break;
        case '\\':
          part = "\\\\";
          break;
        case '\n':
          part = "\\n";
          break;
        case '\r':
          part = "\\r";
          break;
        case '\t':
          part = "\\t";
          break;
        case '\b':
          part = "\\b";
          break;
        case '\f':
          part = "\\f";
          break;
        default:
          if (c.code_point < 0x20) {
            part = fmt::format("\\u{:04x}", c.code_point);
          } else if (style_.ensure_ascii && c.code_point >= 0x10000) {
            const uint32_t high = 0xD800 + ((c.code_point - 0x10000) >> 10);
            const uint32_t low = 0xDC00 + ((c.code_point - 0x10000) & 0x3FF);
            part = fmt::format("\\u{:04x}\\u{:04x}", high, low);
          } else if (style_.ensure_ascii && c.code_point > 0x7E) {
            part = c.code_point == 0x7F ? part : fmt::format("\\u{:04x}", c.code_point);
          }
      }
      out_.append(part, trusted);
      pos += c.bytes;
    }
    put("\"");
  }

  void line_break(int level) {
    if (style_.indent >= 0) {
      const auto blanks = static_cast<size_t>(style_.indent) * static_cast<size_t>(level);
      budget_.bytes(blanks);
      put("\n" + std::string(blanks, ' '));
    }
  }

  void list(const std::vector<Value>& items, int level) {
    put("[");
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) {
        out_.append(style_.item_separator);
      }
      line_break(level + 1);
      write(items[i], level + 1);
    }
    if (!items.empty()) {
      line_break(level);
    }
    put("]");
  }

  void object(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) {
      entries.push_back(&entry);
    }
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return compare(a->first, b->first, budget_) < 0;
      });
    }
    put("{");
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) {
        out_.append(style_.item_separator);
      }
      first = false;
      line_break(level + 1);
      if (const Text* key = entry->first.text()) {
        string(*key);
      } else if (is_scalar(entry->first)) {
        put("\"" + scalar(entry->first) + "\"");
      } else {
        throw TemplateError(
            fmt::format("keys must be str, int, float, bool or None, not {}", type_name(entry->first)));
      }
      out_.append(style_.key_separator);
      write(entry->second, level + 1);
    }
    if (!entries.empty()) {
      line_break(level);
    }
    put("}");
  }

  const JsonStyle& style_;
  Budget& budget_;
  Text out_;
};

}  // namespace

Value from_json(const Json& json, uint64_t& n_values, uint64_t& n_bytes) {
  return convert(json, 1, n_values, n_bytes);
}

Text to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  Writer writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace fl::chat::jinja
