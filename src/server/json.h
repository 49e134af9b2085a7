// JSON from clients, within limits, and JSON to clients, which cannot fail.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"

namespace fl::server {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxJsonDepth = 64;
constexpr size_t kMaxJsonValues = 4'000'000;  ///< of one body; a prompt of a million ids fits
constexpr size_t kMaxJsonKeys = 4096;         ///< of one object

/// Linear in the text. invalid_argument: not JSON or not UTF-8 (with the byte), too deep, too many values, a
/// key twice in an object.
Status parse_json(std::string_view text, Json& out);

/// One line; invalid UTF-8 becomes U+FFFD.
std::string dump(const Json& value);

/// A value for an error message: shortened, on one line.
std::string excerpt(const Json& value);

}  // namespace fl::server
