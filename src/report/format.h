// Numbers and foreign text as the forms print them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fl::report {

std::string format_rate(double per_second);  ///< three significant digits: "111", "44.1", "8.52"
std::string format_seconds(double seconds);  ///< "8.1 ms", "260 ms", "3.63 s", "7 min 30 s", "2 h 5 min"
std::string format_bytes(int64_t bytes);     ///< "18.4 GiB", "512 MiB"
std::string format_tokens(int64_t tokens);   ///< "128k" for whole multiples of 1024, else "16 128"
std::string format_count(int64_t n);         ///< thousands apart: "26 900 000 000"
std::string format_percent(double share, int decimals = 0);  ///< 0.95: "95 %"
std::string format_chats(int64_t chats);                     ///< "1 chat", "4 chats"

/// Valid UTF-8 without control characters and without characters that turn the direction of text: what is
/// neither becomes U+FFFD. Line breaks stay, tabs become blanks.
std::string clean(std::string_view text);
/// clean(), and line breaks become blanks.
std::string one_line(std::string_view text);

/// For text and for attribute values in double quotes, in HTML and XML alike.
std::string escape_html(std::string_view text);
/// For text in a paragraph or a cell of a table; on one line.
std::string escape_markdown(std::string_view text);

/// Columns of a terminal.
int columns(std::string_view text);
/// Cut with an ellipsis, or padded; `width` columns. Right: padded on the left.
std::string fit(std::string_view text, int width, bool right = false);
/// Words into lines of at most `width` columns; the last of `max_lines` ends with an ellipsis when cut.
std::vector<std::string> wrap(std::string_view text, int width, size_t max_lines = SIZE_MAX);

}  // namespace fl::report
