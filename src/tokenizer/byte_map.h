// How byte-level vocabularies write bytes as printable characters. Source: openai/gpt-2, encoder.py
// (bytes_to_unicode): 33-126, 161-172 and 174-255 stand for themselves, the other 68 bytes, in order, are
// U+0100 and up.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fl::tokenizer {

/// The bytes that a token's text stands for; nothing if it holds a character that stands for no byte.
std::optional<std::string> bytes_of_token_text(std::string_view text);

/// The code point that stands for a byte.
uint32_t code_point_of_byte(uint8_t byte);

}  // namespace fl::tokenizer
