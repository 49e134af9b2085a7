// A JSON file of a checkpoint, with errors that name it, the key, and what was expected and found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"

namespace fl::apps::convert {

/// An object of bounded depth. `where` is for errors. bad_file: no JSON, no object, nested too deeply.
Result<nlohmann::json> parse_json(std::string_view text, const std::string& where);
Result<nlohmann::json> read_json(const std::filesystem::path& path);

/// Members by key, with the kind checked; bad_file names the file and the key. The `_or` forms return the
/// default when the key is absent or null.
Result<int64_t> json_int(const nlohmann::json& json, const char* key, const std::filesystem::path& path,
                         int64_t least, int64_t most);
Result<double> json_float(const nlohmann::json& json, const char* key, const std::filesystem::path& path);
Result<std::string> json_text_or(const nlohmann::json& json, const char* key, const std::string& fallback,
                                 const std::filesystem::path& path);
Result<bool> json_bool_or(const nlohmann::json& json, const char* key, bool fallback,
                          const std::filesystem::path& path);

/// A short text of a value for error messages.
std::string json_brief(const nlohmann::json& json);

}  // namespace fl::apps::convert
