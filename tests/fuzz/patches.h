// Changes to a valid file, so that a fuzzer gets past its magic and lengths at once.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace fl::fuzz {

/// The input as patches of five bytes: where (two bytes, from the start), what to do, two bytes for it.
inline std::string patched(std::string bytes, std::span<const uint8_t> input) {
  constexpr size_t kPatch = 5;
  for (; input.size() >= kPatch && !bytes.empty(); input = input.subspan(kPatch)) {
    const size_t at = (input[0] | size_t{input[1]} << 8) % bytes.size();
    const char value = static_cast<char>(input[3]);
    switch (input[2] % 6) {
      case 0:
        bytes[at] = value;
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << input[3] % 8));
        break;
      case 2:  // the extremes of a number
        bytes.replace(at, std::min<size_t>(8, bytes.size() - at), 8, (input[3] & 1) != 0 ? '\xFF' : '\0');
        break;
      case 3:
        bytes.insert(at, 1 + input[4] % 16, value);
        break;
      case 4:
        bytes.erase(at, 1 + input[4] % 16);
        break;
      default:
        bytes.resize(bytes.size() - std::min<size_t>(bytes.size() - 1, input[3] | size_t{input[4]} << 8));
        break;
    }
  }
  return bytes;
}

}  // namespace fl::fuzz
