#include <utf8proc.h>

#include "tokenizer/tokenizer.h"

namespace fl::tokenizer {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// Length of the character that this first byte announces, 0 when no character starts with it.
size_t announced(uint8_t first) {
  if (first < 0x80) {
    return 1;
  }
  if (first >= 0xC2 && first < 0xE0) {
    return 2;
  }
  if (first >= 0xE0 && first < 0xF0) {
    return 3;
  }
  return first >= 0xF0 && first < 0xF5 ? 4 : 0;
}

// Whether more bytes could still make this a character (Unicode 15, table 3-7: the second byte's range
// depends on the first).
bool can_become_char(std::string_view start) {
  const auto first = static_cast<uint8_t>(start[0]);
  if (start.size() >= announced(first)) {
    return false;
  }
  for (size_t i = 1; i < start.size(); ++i) {
    const auto byte = static_cast<uint8_t>(start[i]);
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (i == 1) {
      low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : low;
      high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : high;
    }
    if (byte < low || byte > high) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  size_t at = 0;
  while (at < pending_.size()) {
    int32_t code = 0;
    const utf8proc_ssize_t n =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(pending_.data() + at),
                         static_cast<utf8proc_ssize_t>(pending_.size() - at), &code);
    if (n > 0) {
      out.append(pending_, at, static_cast<size_t>(n));
      at += static_cast<size_t>(n);
      continue;
    }
    if (can_become_char(std::string_view(pending_).substr(at))) {
      break;
    }
    // One replacement for the longest start of a character that these bytes are, as browsers do.
    size_t bad = 1;
    while (at + bad < pending_.size() && can_become_char(std::string_view(pending_).substr(at, bad + 1))) {
      ++bad;
    }
    out += kReplacement;
    at += bad;
  }
  pending_.erase(0, at);
  return out;
}

std::string Utf8Stream::finish() {
  const bool held = !pending_.empty();
  pending_.clear();
  return held ? kReplacement : std::string();
}

}  // namespace fl::tokenizer
