#include "server/json.h"

#include <unordered_set>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fl::server {
namespace {

constexpr size_t kExcerptBytes = 60;
constexpr size_t kReasonBytes = 200;
constexpr size_t kFewKeys = 8;  ///< below this many a linear search is the faster one

// Builds the value by hand: the library's own builder has no limits, and looks through all keys at each
// insertion.
class Builder {
 public:
  explicit Builder(Json& root) : root_(root) {}

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(int64_t value) { return put(value); }
  bool number_unsigned(uint64_t value) { return put(value); }
  bool number_float(double value, const std::string& /*text*/) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(std::vector<uint8_t>& /*value*/) { return refuse("binary values are not JSON"); }
  bool start_object(size_t /*size*/) { return open(Json::object()); }
  bool start_array(size_t /*size*/) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    Frame& frame = frames_.back();
    auto& members = frame.node->get_ref<Json::object_t&>();
    if (members.size() >= kMaxJsonKeys) {
      return refuse(fmt::format("expected at most {} keys in an object, found more", kMaxJsonKeys));
    }
    bool known = false;
    if (members.size() < kFewKeys) {
      for (const auto& member : members) {
        known = known || member.first == name;
      }
    } else {
      if (frame.keys.empty()) {
        for (const auto& member : members) {
          frame.keys.insert(member.first);
        }
      }
      known = !frame.keys.insert(name).second;
    }
    if (known) {
      return refuse(fmt::format("the key '{}' is given twice in one object", name.substr(0, kExcerptBytes)));
    }
    frame.key = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string& /*last*/, const nlohmann::detail::exception& why) {
    std::string text = why.what();
    const size_t colon = text.find(": ");
    text = colon == std::string::npos ? text : text.substr(colon + 2);
    return refuse(fmt::format("not valid JSON at byte {}: {}", position, text.substr(0, kReasonBytes)));
  }

  const std::string& error() const { return error_; }

 private:
  struct Frame {
    Json* node = nullptr;
    std::string key;
    std::unordered_set<std::string> keys;  ///< of a large object
  };

  bool refuse(std::string why) {
    error_ = std::move(why);
    return false;
  }

  Json* place(Json value) {
    if (++n_values_ > kMaxJsonValues) {
      refuse(fmt::format("expected at most {} values, found more", kMaxJsonValues));
      return nullptr;
    }
    if (frames_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Frame& frame = frames_.back();
    if (frame.node->is_array()) {
      auto& items = frame.node->get_ref<Json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    auto& members = frame.node->get_ref<Json::object_t&>();
    members.emplace_back(std::move(frame.key),
                         std::move(value));  // the vector's own: key() has looked already
    return &members.back().second;
  }

  bool put(Json value) { return place(std::move(value)) != nullptr; }

  bool open(Json value) {
    if (frames_.size() >= kMaxJsonDepth) {
      return refuse(fmt::format("expected at most {} levels of nesting, found more", kMaxJsonDepth));
    }
    Json* node = place(std::move(value));
    if (node == nullptr) {
      return false;
    }
    frames_.push_back({node, {}, {}});
    return true;
  }

  bool close() {
    frames_.pop_back();
    return true;
  }

  Json& root_;
  std::vector<Frame> frames_;
  size_t n_values_ = 0;
  std::string error_;
};

}  // namespace

Status parse_json(std::string_view text, Json& out) {
  Builder builder(out);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return fail(ErrorCode::invalid_argument, builder.error());
  }
  return {};
}

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string excerpt(const Json& value) {
  // Containers are not printed: they may be as large as the body.
  if (value.is_array()) {
    return fmt::format("an array of {}", value.size());
  }
  if (value.is_object()) {
    return "an object";
  }
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return text.size() <= kExcerptBytes ? dump(value) : fmt::format("a string of {} bytes", text.size());
  }
  return dump(value);
}

}  // namespace fl::server
