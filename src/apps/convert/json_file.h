// A JSON file of a checkpoint, with errors that name it.
#pragma once

#include <filesystem>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"

namespace fl::apps::convert {

Result<nlohmann::json> read_json(const std::filesystem::path& path);

/// An integer member. bad_file names the file and the key.
Result<int64_t> json_int(const nlohmann::json& json, const char* key, const std::filesystem::path& path);
Result<double> json_float(const nlohmann::json& json, const char* key, const std::filesystem::path& path);

}  // namespace fl::apps::convert
