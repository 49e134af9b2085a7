#include "apps/convert/json_file.h"

#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/mapped_file.h"

namespace fl::apps::convert {
namespace {

using Json = nlohmann::json;

// The files of a checkpoint nest less than ten deep; the library's copies and dumps recurse.
constexpr int kMaxDepth = 64;
constexpr size_t kBriefChars = 60;

// The deepest nesting of brackets outside strings, or more than kMaxDepth.
int depth_of(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size() && deepest <= kMaxDepth; ++i) {
    const char c = text[i];
    if (quoted && c == '\\') {
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == '[' || c == '{')) {
      deepest = std::max(deepest, ++depth);
    } else if (!quoted && (c == ']' || c == '}')) {
      --depth;
    }
  }
  return deepest;
}

tl::unexpected<Error> wrong(const std::filesystem::path& path, const char* key, const std::string& expected,
                            const Json* found) {
  return fail(ErrorCode::bad_file,
              fmt::format("'{}': '{}': expected {}, found {}", path.string(), key, expected,
                          found == nullptr ? "no such key" : json_brief(*found)));
}

// The member, or null when it is absent or null.
const Json* member(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() || found->is_null() ? nullptr : &*found;
}

}  // namespace

std::string json_brief(const Json& json) {
  if (json.is_array() || json.is_object()) {
    return fmt::format("{} of {}", json.is_array() ? "a list" : "an object", json.size());
  }
  const std::string text = json.dump();
  return text.size() > kBriefChars ? text.substr(0, kBriefChars) + "..." : text;
}

Result<Json> parse_json(std::string_view text, const std::string& where) {
  if (depth_of(text) > kMaxDepth) {
    return fail(ErrorCode::bad_file,
                fmt::format("{}: expected at most {} levels of nesting, found more", where, kMaxDepth));
  }
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) {
    return fail(ErrorCode::bad_file,
                fmt::format("{}: expected a JSON object, found {}", where,
                            json.is_discarded() ? "text that is no JSON" : json_brief(json)));
  }
  return json;
}

Result<Json> read_json(const std::filesystem::path& path) {
  FL_ASSIGN(const MappedFile file, MappedFile::open(path));
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()},
                    fmt::format("'{}'", path.string()));
}

Result<int64_t> json_int(const Json& json, const char* key, const std::filesystem::path& path, int64_t least,
                         int64_t most) {
  const Json* found = member(json, key);
  // A number above 2^63 is stored unsigned and would come out negative.
  const bool fits = found != nullptr && found->is_number_integer() &&
                    (!found->is_number_unsigned() || found->get<uint64_t>() <= static_cast<uint64_t>(most));
  if (!fits || found->get<int64_t>() < least || found->get<int64_t>() > most) {
    return wrong(path, key, fmt::format("a whole number from {} to {}", least, most), found);
  }
  return found->get<int64_t>();
}

Result<double> json_float(const Json& json, const char* key, const std::filesystem::path& path) {
  const Json* found = member(json, key);
  if (found == nullptr || !found->is_number() || !std::isfinite(static_cast<float>(found->get<double>()))) {
    return wrong(path, key, "a finite number", found);
  }
  return found->get<double>();
}

Result<std::string> json_text_or(const Json& json, const char* key, const std::string& fallback,
                                 const std::filesystem::path& path) {
  const Json* found = member(json, key);
  if (found == nullptr) {
    return fallback;
  }
  if (!found->is_string()) {
    return wrong(path, key, "a text", found);
  }
  return found->get<std::string>();
}

Result<bool> json_bool_or(const Json& json, const char* key, bool fallback,
                          const std::filesystem::path& path) {
  const Json* found = member(json, key);
  if (found == nullptr) {
    return fallback;
  }
  if (!found->is_boolean()) {
    return wrong(path, key, "true or false", found);
  }
  return found->get<bool>();
}

}  // namespace fl::apps::convert
