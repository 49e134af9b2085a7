#include "tokenizer/utf8.h"

namespace fl::tokenizer {
namespace {

struct Lead {
  uint8_t length;     // 0: no character starts with this byte
  uint8_t low, high;  // range of the second byte; the third and fourth are always 80..BF
};

// Unicode standard, table 3-7 "Well-Formed UTF-8 Byte Sequences".
constexpr Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, size_t pos) {
  using State = Utf8Char::State;
  const auto first = static_cast<uint8_t>(text[pos]);
  const Lead lead = lead_of(first);
  if (lead.length == 1) {
    return {first, 1, State::valid};
  }
  if (lead.length == 0) {
    return {0, 1, State::invalid};
  }
  uint32_t code_point = first & (0x7FU >> lead.length);
  for (uint8_t i = 1; i < lead.length; ++i) {
    if (pos + i >= text.size()) {
      return {0, i, State::truncated};
    }
    const auto byte = static_cast<uint8_t>(text[pos + i]);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) {
      return {0, i, State::invalid};
    }
    code_point = (code_point << 6) | (byte & 0x3FU);
  }
  return {code_point, lead.length, State::valid};
}

bool is_valid_utf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = decode_utf8(text, pos);
    if (c.state != Utf8Char::State::valid) {
      return false;
    }
    pos += c.bytes;
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = decode_utf8(text, pos);
    if (c.state == Utf8Char::State::valid) {
      out.append(text.substr(pos, c.bytes));
      pos += c.bytes;
    } else {
      out.append(kReplacement);
      ++pos;
    }
  }
  return out;
}

void append_utf8(std::string& out, uint32_t code_point) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace fl::tokenizer
