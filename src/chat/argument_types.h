// From a tool's JSON schema to how its arguments are read.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace fl::chat {

enum class ArgumentType {
  text,   ///< only a string: taken as it is
  value,  ///< never a string: JSON
  any,    ///< JSON if it is JSON, else a string
};

class ToolTypes {
 public:
  ToolTypes() = default;
  /// `tools` as the OpenAI API has them; what is not understood counts as `any`.
  explicit ToolTypes(const nlohmann::ordered_json& tools);
  ArgumentType find(const std::string& function, const std::string& parameter) const;

 private:
  std::map<std::string, std::map<std::string, ArgumentType>> functions_;
};

/// JSON of a value written by a model: as it is if it is JSON, with True, False, None and single quotes of
/// Python translated if that makes it JSON, else empty. Never a JSON string unless `strings`.
std::string json_of_value(std::string_view text, bool strings);

/// The inside of a JSON string.
std::string json_escape(std::string_view text);

}  // namespace fl::chat
