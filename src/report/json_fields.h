// Writing and reading any struct that has a Fields list. Included by .cpp files only (nlohmann).
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "report/fields.h"

namespace fl::report {

using Json = nlohmann::ordered_json;

template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};
template <typename T>
inline constexpr bool kIsPlain = std::is_arithmetic_v<T> || std::is_same_v<T, std::string>;

template <typename T>
Json json_of(const T& value) {
  if constexpr (kIsPlain<T>) {
    return value;
  } else if constexpr (IsVector<T>::value) {
    Json out = Json::array();
    for (const auto& item : value) {
      out.push_back(json_of(item));
    }
    return out;
  } else {
    Json out = Json::object();
    Fields<T>::visit([&](const char* name, auto member, const char*) {
      const auto& field = value.*member;
      if constexpr (IsOptional<std::decay_t<decltype(field)>>::value) {
        if (field) {
          out[name] = json_of(*field);
        }
      } else {
        out[name] = json_of(field);
      }
    });
    return out;
  }
}

/// Thrown while reading, and caught in the same file: the path of the field, and what was expected.
struct FieldError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename T>
void read_json(const Json& json, T& out, const std::string& path);

template <typename T>
void read_plain(const Json& json, T& out, const std::string& path) {
  const auto expect = [&](bool ok, const char* type) {
    if (!ok) {
      throw FieldError(fmt::format("{}: expected {}, found {}", path, type, json.type_name()));
    }
  };
  if constexpr (std::is_same_v<T, bool>) {
    expect(json.is_boolean(), "true or false");
  } else if constexpr (std::is_integral_v<T>) {
    expect(json.is_number_integer(), "a whole number");
  } else if constexpr (std::is_floating_point_v<T>) {
    expect(json.is_number(), "a number");
  } else {
    expect(json.is_string(), "a string");
  }
  out = json.get<T>();
}

template <typename T>
void read_json(const Json& json, T& out, const std::string& path) {
  if constexpr (kIsPlain<T>) {
    read_plain(json, out, path);
  } else if constexpr (IsVector<T>::value) {
    if (!json.is_array()) {
      throw FieldError(fmt::format("{}: expected a list, found {}", path, json.type_name()));
    }
    out.clear();
    for (size_t i = 0; i < json.size(); ++i) {
      read_json(json[i], out.emplace_back(), fmt::format("{}/{}", path, i));
    }
  } else {
    if (!json.is_object()) {
      throw FieldError(fmt::format("{}: expected an object, found {}", path, json.type_name()));
    }
    Fields<T>::visit([&](const char* name, auto member, const char*) {
      auto& field = out.*member;
      const auto found = json.find(name);
      if constexpr (IsOptional<std::decay_t<decltype(field)>>::value) {
        if (found != json.end() && !found->is_null()) {
          read_json(*found, field.emplace(), path + "/" + name);
        }
      } else {
        if (found == json.end()) {
          throw FieldError(fmt::format("{}/{} is missing", path, name));
        }
        read_json(*found, field, path + "/" + name);
      }
    });
  }
}

}  // namespace fl::report
