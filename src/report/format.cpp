#include "report/format.h"

#include <utf8proc.h>

#include <cmath>

#include <fmt/format.h>

namespace fl::report {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr const char* kNotANumber = "\xE2\x80\x94";
constexpr double kMostSeconds = 1e12;  // what is longer is no measurement
constexpr std::string_view kEllipsis = "\xE2\x80\xA6";

struct Character {
  utf8proc_int32_t code = -1;  ///< -1: not UTF-8
  size_t bytes = 1;
};

Character next_character(std::string_view text) {
  Character character;
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &character.code);
  character.bytes = n > 0 ? static_cast<size_t>(n) : 1;
  return character;
}

// Cc and Cf but the soft hyphen and joiners that scripts and emoji need, private use and non-characters.
bool is_hostile(utf8proc_int32_t code) {
  if (code < 0) {
    return true;
  }
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return true;
    case UTF8PROC_CATEGORY_CF:
      return code != 0x200C && code != 0x200D;
    default:
      return (code & 0xFFFE) == 0xFFFE;
  }
}

std::string with_blanks(std::string digits) {
  for (auto at = static_cast<ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<size_t>(at), "\xE2\x80\xAF");  // narrow no-break space
  }
  return digits;
}

}  // namespace

std::string format_rate(double per_second) {
  if (!std::isfinite(per_second)) {
    return kNotANumber;
  }
  const double size = std::fabs(per_second);
  if (size >= 99.95) {
    return size >= 10000 ? with_blanks(fmt::format("{:.0f}", per_second)) : fmt::format("{:.0f}", per_second);
  }
  return size >= 9.995 ? fmt::format("{:.1f}", per_second) : fmt::format("{:.2f}", per_second);
}

std::string format_seconds(double seconds) {
  if (!(std::fabs(seconds) < kMostSeconds)) {
    return kNotANumber;
  }
  if (seconds < 0.9995) {
    const double ms = seconds * 1000;
    return ms >= 9.995 ? fmt::format("{:.0f} ms", ms) : fmt::format("{:.2g} ms", ms);
  }
  if (seconds < 99.5) {
    return seconds >= 9.995 ? fmt::format("{:.1f} s", seconds) : fmt::format("{:.2f} s", seconds);
  }
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) {
    return fmt::format("{} min {} s", whole / 60, whole % 60);
  }
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string format_bytes(int64_t bytes) {
  const auto count = static_cast<double>(bytes);
  if (count >= 0x1p30) {
    return fmt::format("{:.{}f} GiB", count / 0x1p30,
                       count >= 100 * 0x1p30  ? 0
                       : count >= 10 * 0x1p30 ? 1
                                              : 2);
  }
  if (count >= 0x1p20) {
    return fmt::format("{:.{}f} MiB", count / 0x1p20, count >= 10 * 0x1p20 ? 0 : 1);
  }
  return count >= 0x1p10 ? fmt::format("{:.1f} KiB", count / 0x1p10) : fmt::format("{} B", bytes);
}

std::string format_tokens(int64_t tokens) {
  return tokens >= 1024 && tokens % 1024 == 0 ? fmt::format("{}k", tokens / 1024) : format_count(tokens);
}

std::string format_count(int64_t n) {
  const std::string digits = std::to_string(n);
  return n < 0 ? fmt::format("-{}", with_blanks(digits.substr(1))) : with_blanks(digits);
}

std::string format_percent(double share, int decimals) {
  return fmt::format("{:.{}f} %", 100 * share, decimals);
}

std::string format_chats(int64_t chats) {
  return fmt::format("{} chat{}", chats, chats == 1 ? "" : "s");
}

std::string clean(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Character character = next_character(text);
    if (character.code == '\t') {
      out += ' ';
    } else if (character.code != '\n' && is_hostile(character.code)) {
      out += kReplacement;
    } else {
      out += text.substr(0, character.bytes);
    }
    text.remove_prefix(character.bytes);
  }
  return out;
}

std::string one_line(std::string_view text) {
  std::string out = clean(text);
  for (char& c : out) {
    c = c == '\n' ? ' ' : c;
  }
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : clean(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string escape_markdown(std::string_view text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      if (std::string_view("\\`*_{}[]()#+!|~>@").find(c) != std::string_view::npos) {
        out += '\\';
      }
      out += c;
    }
  }
  return out;
}

int columns(std::string_view text) {
  int total = 0;
  while (!text.empty()) {
    const Character character = next_character(text);
    total += character.code < 0 ? 1 : utf8proc_charwidth(character.code);
    text.remove_prefix(character.bytes);
  }
  return total;
}

std::string fit(std::string_view text, int width, bool right) {
  std::string out(text);
  int used = columns(text);
  if (used > width) {
    out.clear();
    used = 0;
    while (!text.empty()) {
      const Character character = next_character(text);
      const int wide = character.code < 0 ? 1 : utf8proc_charwidth(character.code);
      if (used + wide > width - 1) {
        break;
      }
      out += text.substr(0, character.bytes);
      used += wide;
      text.remove_prefix(character.bytes);
    }
    out += width > 0 ? kEllipsis : "";
    used += width > 0 ? 1 : 0;
  }
  const std::string blanks(static_cast<size_t>(std::max(0, width - used)), ' ');
  return right ? blanks + out : out + blanks;
}

std::vector<std::string> wrap(std::string_view text, int width, size_t max_lines) {
  std::vector<std::string> lines;
  std::string line;
  while (!text.empty()) {
    const size_t start = text.find_first_not_of(" \n");
    if (start == std::string_view::npos) {
      break;
    }
    text.remove_prefix(start);
    const std::string_view word = text.substr(0, text.find_first_of(" \n"));
    text.remove_prefix(word.size());
    if (!line.empty() && columns(line) + 1 + columns(word) > width) {
      lines.push_back(std::move(line));
      line.clear();
    }
    line += line.empty() ? "" : " ";
    line += word;
  }
  if (!line.empty()) {
    lines.push_back(line);
  }
  if (lines.size() > max_lines) {
    lines.resize(max_lines);
    lines.back() += " \xE2\x80\xA6";
  }
  for (std::string& each : lines) {
    if (columns(each) > width) {
      each = fit(each, width);
    }
  }
  return lines;
}

}  // namespace fl::report
