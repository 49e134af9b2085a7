#include "server/stop_strings.h"

#include <algorithm>
#include <utility>

namespace fl::server {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
  for (const std::string& stop : stops_) {
    longest_ = std::max(longest_, stop.size());
  }
}

size_t StopStrings::held_from(size_t begin) const {
  for (size_t from = begin; from < held_.size(); ++from) {
    const std::string_view tail = std::string_view(held_).substr(from);
    for (const std::string& stop : stops_) {
      if (tail.size() < stop.size() && stop.starts_with(tail)) {
        return from;
      }
    }
  }
  return held_.size();
}

std::string StopStrings::push(std::string_view text) {
  if (stops_.empty()) {
    return std::string(text);
  }
  if (found_) {
    return {};
  }
  held_ += text;
  size_t end = std::string::npos;
  size_t begin = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) {
      continue;
    }
    const size_t stop_end = at + stop.size();
    if (end == std::string::npos || stop_end < end || (stop_end == end && at < begin)) {
      begin = at;
      end = stop_end;
      word_ = stop;
    }
  }
  std::string shown;
  if (end != std::string::npos) {
    found_ = true;
    shown = held_.substr(0, begin);
    held_.clear();
    return shown;
  }
  // Only the last longest_ - 1 bytes can begin a stop string.
  const size_t from = held_from(held_.size() - std::min(held_.size(), longest_ - 1));
  shown = held_.substr(0, from);
  held_.erase(0, from);
  return shown;
}

std::string StopStrings::finish() {
  return std::exchange(held_, {});
}

}  // namespace fl::server
