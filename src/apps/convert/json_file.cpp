#include "apps/convert/json_file.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/mapped_file.h"

namespace fl::apps::convert {

using Json = nlohmann::json;

Result<Json> read_json(const std::filesystem::path& path) {
  FL_ASSIGN(const MappedFile file, MappedFile::open(path));
  const auto* text = reinterpret_cast<const char*>(file.bytes().data());
  Json json = Json::parse(text, text + file.bytes().size(), nullptr, false);
  if (!json.is_object()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}' is not a JSON object", path.string()));
  }
  return json;
}

Result<int64_t> json_int(const Json& json, const char* key, const std::filesystem::path& path) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_integer()) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected a whole number in '{}'", path.string(), key));
  }
  return found->get<int64_t>();
}

Result<double> json_float(const Json& json, const char* key, const std::filesystem::path& path) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': expected a number in '{}'", path.string(), key));
  }
  return found->get<double>();
}

}  // namespace fl::apps::convert
