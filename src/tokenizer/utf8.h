// UTF-8, strictly as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fl::tokenizer {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  ///< U+FFFD

struct Utf8Char {
  uint32_t code_point = 0;
  /// Length of the character, or, if it is not valid, of the longest start of a character found here (at
  /// least 1).
  uint8_t bytes = 0;
  enum class State : uint8_t {
    valid,
    invalid,    ///< these bytes can never become a character
    truncated,  ///< the text ends inside a character that more bytes could complete
  } state = State::invalid;
};

/// The character at `text[pos]`; pos < text.size().
Utf8Char decode_utf8(std::string_view text, size_t pos);

bool is_valid_utf8(std::string_view text);

/// Every byte that is no part of a valid character becomes one U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

void append_utf8(std::string& out, uint32_t code_point);

}  // namespace fl::tokenizer
