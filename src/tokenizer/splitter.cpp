#include "tokenizer/splitter.h"

#include <array>
#include <cstdint>

#include <utf8proc.h>

#include "tokenizer/utf8.h"

namespace fl::tokenizer {
namespace {

enum class Kind : uint8_t { letter, mark, number, space, line_break, other, end };

// White_Space of the Unicode character database (PropList.txt), without CR and LF.
bool is_space(uint32_t c) {
  return c == 0x09 || c == 0x0B || c == 0x0C || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

Kind classify(uint32_t c) {
  if (c == '\r' || c == '\n') {
    return Kind::line_break;
  }
  if (is_space(c)) {
    return Kind::space;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Kind::letter;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return Kind::mark;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Kind::number;
    default:
      return Kind::other;
  }
}

constexpr size_t kAscii = 128;

const std::array<Kind, kAscii>& ascii_kinds() {
  static const std::array<Kind, kAscii> table = [] {
    std::array<Kind, kAscii> t{};
    for (size_t c = 0; c < kAscii; ++c) {
      t[c] = classify(static_cast<uint32_t>(c));
    }
    return t;
  }();
  return table;
}

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text), ascii_(ascii_kinds()) {}

  struct Char {
    Kind kind = Kind::end;
    size_t next = 0;  // position of the following character
  };

  Char at(size_t pos) const {
    if (pos >= text_.size()) {
      return {Kind::end, pos};
    }
    const auto byte = static_cast<uint8_t>(text_[pos]);
    if (byte < kAscii) {
      return {ascii_[byte], pos + 1};
    }
    const Utf8Char c = decode_utf8(text_, pos);
    return {classify(c.code_point), pos + c.bytes};
  }

  template <typename Accept>
  size_t skip(size_t pos, Accept accept) const {
    for (Char c = at(pos); c.kind != Kind::end && accept(c.kind); c = at(pos)) {
      pos = c.next;
    }
    return pos;
  }

 private:
  std::string_view text_;
  const std::array<Kind, kAscii>& ascii_;
};

bool is_word(Kind kind) {
  return kind == Kind::letter || kind == Kind::mark;
}
bool is_any_space(Kind kind) {
  return kind == Kind::space || kind == Kind::line_break;
}
bool is_line_break(Kind kind) {
  return kind == Kind::line_break;
}
bool is_other(Kind kind) {
  return kind == Kind::other;
}

// Length of 's 't 'm 'd 're 've 'll at pos in either case, else 0. Only ASCII folds: U+017F is not an s here.
size_t contraction(std::string_view text, size_t pos) {
  const auto lower = [&](size_t i) -> char {
    const char c = pos + i < text.size() ? text[pos + i] : '\0';
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  if (text[pos] != '\'') {
    return 0;
  }
  const char a = lower(1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') {
    return 2;
  }
  const char b = lower(2);
  const bool two = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
  return two ? 3 : 0;
}

}  // namespace

size_t next_piece(std::string_view text, size_t pos) {
  const Reader reader(text);
  if (const size_t n = contraction(text, pos); n > 0) {
    return pos + n;
  }
  const Reader::Char first = reader.at(pos);
  const Reader::Char second = reader.at(first.next);

  // A word, perhaps with one character of another kind in front.
  if (is_word(first.kind)) {
    return reader.skip(first.next, is_word);
  }
  if (first.kind != Kind::line_break && first.kind != Kind::number && is_word(second.kind)) {
    return reader.skip(second.next, is_word);
  }
  if (first.kind == Kind::number) {
    return first.next;
  }

  // Symbols, perhaps with one blank in front, and the line breaks after them.
  const bool blank_first = text[pos] == ' ' && second.kind == Kind::other;
  if (first.kind == Kind::other || blank_first) {
    return reader.skip(reader.skip(blank_first ? first.next : pos, is_other), is_line_break);
  }

  // White space: up to its last line break, else all but the last one before a word or symbol.
  size_t end = pos;
  size_t last = pos;         // start of the last character of the run
  size_t after_break = pos;  // end of the last line break of the run
  for (Reader::Char c = reader.at(pos); is_any_space(c.kind); c = reader.at(end)) {
    last = end;
    end = c.next;
    if (c.kind == Kind::line_break) {
      after_break = end;
    }
  }
  if (after_break > pos) {
    return after_break;
  }
  return end < text.size() && last > pos ? last : end;
}

}  // namespace fl::tokenizer
