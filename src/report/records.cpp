#include "report/records.h"

#include <chrono>
#include <ctime>

#include <fmt/format.h>

#include "report/json_fields.h"

namespace fl::report {
namespace {

constexpr size_t kMaxDifferences = 5;
constexpr size_t kMaxShown = 120;

// clang-format off
template <typename T> constexpr const char* kType = nullptr;
template <> constexpr const char* kType<RunRecord> = "run";
template <> constexpr const char* kType<Facts> = "server";
template <> constexpr const char* kType<Start> = "start";
template <> constexpr const char* kType<Lost> = "lost";
template <> constexpr const char* kType<ConfigPlan> = "plan";
template <> constexpr const char* kType<Batch> = "batch";
template <> constexpr const char* kType<AnswerRecord> = "answer";
template <> constexpr const char* kType<QualityRecord> = "quality";
template <> constexpr const char* kType<ProfileVisits> = "profile_visits";
template <> constexpr const char* kType<EndRecord> = "end";
// clang-format on

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

template <typename T>
Result<T> read_object(const Json& json) {
  T out;
  try {
    read_json(json, out, "");
  } catch (const FieldError& error) {
    return fail(ErrorCode::bad_file, error.what());
  }
  return out;
}

template <size_t I = 0>
Result<Record> read_as(const std::string& type, const Json& json) {
  if constexpr (I == std::variant_size_v<Record>) {
    return fail(ErrorCode::bad_file, fmt::format("a record of unknown type '{}'", type));
  } else {
    using T = std::variant_alternative_t<I, Record>;
    if (type != kType<T>) {
      return read_as<I + 1>(type, json);
    }
    FL_ASSIGN(T record, read_object<T>(json));
    return Record(std::move(record));
  }
}

void compare(const Json& before, const Json& now, const std::string& path, std::vector<std::string>& out) {
  if (before == now) {
    return;
  }
  if (before.is_object() && now.is_object()) {
    const auto inside = [&](const std::string& key) {
      return path.empty() ? key : fmt::format("{}/{}", path, key);
    };
    for (const auto& [key, value] : now.items()) {
      compare(before.contains(key) ? before[key] : Json(), value, inside(key), out);
    }
    for (const auto& [key, value] : before.items()) {
      if (!now.contains(key)) {
        compare(value, Json(), inside(key), out);
      }
    }
    return;
  }
  out.push_back(fmt::format("{} was {}, now {}", path, dump(before).substr(0, kMaxShown),
                            dump(now).substr(0, kMaxShown)));
}

}  // namespace

std::string to_line(const Record& record) {
  return std::visit(
      [](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        Json json = {{"type", kType<T>}};
        json.update(json_of(value));
        return dump(json);
      },
      record);
}

Result<Record> record_from_line(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("type") || !json["type"].is_string()) {
    return fail(ErrorCode::bad_file, "a record is expected to be a JSON object with a type");
  }
  return read_as(json["type"].get<std::string>(), json);
}

std::string to_line(const Manifest& manifest) {
  return dump(json_of(manifest));
}

Result<Manifest> manifest_from_line(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) {
    return fail(ErrorCode::bad_file, "a manifest is expected to be a JSON object");
  }
  return read_object<Manifest>(json);
}

std::string difference(const Manifest& recorded, const Manifest& now) {
  std::vector<std::string> all;
  compare(json_of(recorded), json_of(now), "", all);
  const size_t n = all.size();
  if (n > kMaxDifferences) {
    all.resize(kMaxDifferences);
    all.push_back(fmt::format("and {} more", n - kMaxDifferences));
  }
  return fmt::format("{}", fmt::join(all, "; "));
}

std::string now_utc() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace fl::report
