#include "chat/argument_types.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fl::chat {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxSchemaNesting = 16;

struct Kinds {
  bool text = false;
  bool other = false;

  void add(const Kinds& more) {
    text = text || more.text;
    other = other || more.other;
  }
};

constexpr Kinds kAnything{true, true};

Kinds kinds_of(const Json& schema, int nesting) {
  if (!schema.is_object() || nesting > kMaxSchemaNesting) {
    return kAnything;
  }
  Kinds kinds;
  const auto add_name = [&kinds](const Json& name) {
    kinds.add(!name.is_string() ? kAnything : name == "string" ? Kinds{true, false} : Kinds{false, true});
  };
  const auto add_value = [&kinds](const Json& value) { kinds.add({value.is_string(), !value.is_string()}); };
  if (const auto type = schema.find("type"); type != schema.end()) {
    if (type->is_array() && !type->empty()) {
      std::for_each(type->begin(), type->end(), add_name);
    } else {
      add_name(*type);
    }
  } else if (const auto values = schema.find("enum"); values != schema.end() && values->is_array()) {
    std::for_each(values->begin(), values->end(), add_value);
  } else if (schema.contains("const")) {
    add_value(schema["const"]);
  } else {
    bool found = false;
    for (const char* choice : {"anyOf", "oneOf"}) {
      if (const auto options = schema.find(choice); options != schema.end() && options->is_array()) {
        found = found || !options->empty();
        for (const Json& option : *options) {
          kinds.add(kinds_of(option, nesting + 1));
        }
      }
    }
    if (!found) {
      return kAnything;
    }
  }
  if (const auto nullable = schema.find("nullable"); nullable != schema.end() && *nullable == true) {
    kinds.other = true;
  }
  return kinds;
}

const Json* member(const Json& object, const char* name) {
  if (!object.is_object()) {
    return nullptr;
  }
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

// Python's literals to JSON's. Only the spelling: whether the result is JSON is checked afterwards.
std::string from_python(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '"' || c == '\'') {
      out.push_back('"');
      for (++i; i < text.size() && text[i] != c; ++i) {
        if (text[i] == '\\' && i + 1 < text.size()) {
          ++i;
          out += text[i] == '\'' ? "'" : std::string{'\\', text[i]};
        } else if (text[i] == '"') {
          out += "\\\"";
        } else {
          out.push_back(text[i]);
        }
      }
      out.push_back('"');
      ++i;
      continue;
    }
    bool replaced = false;
    for (const auto& [python, json] : {std::pair{"True", "true"}, {"False", "false"}, {"None", "null"}}) {
      if (text.substr(i).starts_with(python)) {
        out += json;
        i += std::string_view(python).size();
        replaced = true;
        break;
      }
    }
    if (!replaced) {
      out.push_back(c);
      ++i;
    }
  }
  return out;
}

}  // namespace

ToolTypes::ToolTypes(const Json& tools) {
  if (!tools.is_array()) {
    return;
  }
  for (const Json& tool : tools) {
    const Json* wrapped = member(tool, "function");
    const Json& function = wrapped != nullptr ? *wrapped : tool;
    const Json* name = member(function, "name");
    const Json* parameters = member(function, "parameters");
    if (name == nullptr || !name->is_string() || parameters == nullptr) {
      continue;
    }
    auto& types = functions_[name->get<std::string>()];
    const Json* properties = member(*parameters, "properties");
    if (properties == nullptr || !properties->is_object()) {
      continue;
    }
    for (const auto& [key, schema] : properties->items()) {
      const Kinds kinds = kinds_of(schema, 0);
      types[key] = kinds.text == kinds.other ? ArgumentType::any
                   : kinds.text              ? ArgumentType::text
                                             : ArgumentType::value;
    }
  }
}

ArgumentType ToolTypes::find(const std::string& function, const std::string& parameter) const {
  const auto types = functions_.find(function);
  if (types == functions_.end()) {
    return ArgumentType::any;
  }
  const auto type = types->second.find(parameter);
  return type == types->second.end() ? ArgumentType::any : type->second;
}

std::string json_of_value(std::string_view text, bool strings) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) {
    return {};
  }
  text = text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
  const bool is_string = text.front() == '"' || text.front() == '\'';
  if (is_string && !strings) {
    return {};
  }
  if (Json::accept(text)) {
    return std::string(text);
  }
  std::string translated = from_python(text);
  return Json::accept(translated) ? translated : std::string();
}

std::string json_escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out.push_back(c);
        }
    }
  }
  return out;
}

}  // namespace fl::chat
