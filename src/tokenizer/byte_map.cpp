#include "tokenizer/byte_map.h"

#include "tokenizer/utf8.h"

namespace fl::tokenizer {
namespace {

constexpr uint32_t kFirstShifted = 0x100;
constexpr uint32_t kShifted = 68;

constexpr bool stands_for_itself(uint32_t byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

struct Map {
  std::array<uint32_t, 256> to_code_point{};
  std::array<int16_t, kFirstShifted + kShifted> to_byte{};  // -1: stands for no byte
};

constexpr Map make_map() {
  Map map;
  for (auto& byte : map.to_byte) {
    byte = -1;
  }
  uint32_t shifted = kFirstShifted;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint32_t code_point = stands_for_itself(byte) ? byte : shifted++;
    map.to_code_point[byte] = code_point;
    map.to_byte[code_point] = static_cast<int16_t>(byte);
  }
  return map;
}

constexpr Map kMap = make_map();

}  // namespace

std::optional<std::string> bytes_of_token_text(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = decode_utf8(text, pos);
    if (c.state != Utf8Char::State::valid || c.code_point >= kMap.to_byte.size() ||
        kMap.to_byte[c.code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kMap.to_byte[c.code_point]));
    pos += c.bytes;
  }
  return bytes;
}

uint32_t code_point_of_byte(uint8_t byte) {
  return kMap.to_code_point[byte];
}

}  // namespace fl::tokenizer
