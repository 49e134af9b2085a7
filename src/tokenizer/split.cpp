#include "tokenizer/split.h"

#include <utf8proc.h>

#include <array>
#include <cstdint>

namespace fl::tokenizer {
namespace {

enum class Class : uint8_t { letter, mark, number, newline, space, other, end };

Class classify(int32_t code) {
  if (code == '\r' || code == '\n') {
    return Class::newline;
  }
  if ((code >= 0x09 && code <= 0x0C) || code == 0x85) {
    return Class::space;
  }
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Class::letter;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return Class::mark;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Class::number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return Class::space;
    default:
      return Class::other;
  }
}

// One character of the text ahead.
struct Char {
  Class kind = Class::end;
  uint8_t bytes = 0;
};

class Splitter {
 public:
  Splitter(std::string_view text, std::vector<std::string_view>& pieces) : text_(text), pieces_(pieces) {
    for (int32_t code = 0; code < 128; ++code) {
      ascii_[static_cast<size_t>(code)] = classify(code);
    }
  }

  void run() {
    while (at_ < text_.size()) {
      const size_t end = piece_end();
      pieces_.push_back(text_.substr(at_, end - at_));
      at_ = end;
    }
  }

 private:
  Char look(size_t at) const {
    if (at >= text_.size()) {
      return {};
    }
    const auto first = static_cast<uint8_t>(text_[at]);
    if (first < 128) {
      return {ascii_[first], 1};
    }
    int32_t code = 0;
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text_.data() + at);
    const utf8proc_ssize_t n =
        utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text_.size() - at), &code);
    if (n <= 0) {
      return {Class::other, 1};
    }
    return {classify(code), static_cast<uint8_t>(n)};
  }

  static bool is_word(Class kind) { return kind == Class::letter || kind == Class::mark; }
  static bool is_blank(Class kind) { return kind == Class::space || kind == Class::newline; }

  template <typename Wanted>
  size_t skip(size_t at, Wanted wanted) const {
    for (Char c = look(at); c.kind != Class::end && wanted(c.kind); c = look(at)) {
      at += c.bytes;
    }
    return at;
  }

  // 's 't 'm 'd 're 've 'll at `at`, in any case; 0 when none.
  size_t contraction(size_t at) const {
    const auto lower = [&](size_t i) { return i < text_.size() ? static_cast<char>(text_[i] | 0x20) : '\0'; };
    if (text_[at] != '\'') {
      return 0;
    }
    const char a = lower(at + 1);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
      return 2;
    }
    const char b = lower(at + 2);
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
  }

  size_t piece_end() const {
    if (const size_t n = contraction(at_)) {
      return at_ + n;
    }
    const Char first = look(at_);
    const size_t second_at = at_ + first.bytes;
    if (is_word(first.kind)) {
      return skip(at_, is_word);
    }
    if (first.kind == Class::number) {
      return second_at;
    }
    const Class second = look(second_at).kind;
    if (first.kind != Class::newline && is_word(second)) {
      return skip(second_at, is_word);
    }
    const auto is_symbol = [](Class kind) { return kind == Class::other; };
    const bool space_and_symbol = text_[at_] == ' ' && second == Class::other;
    if (first.kind == Class::other || space_and_symbol) {
      const size_t symbols_end = skip(space_and_symbol ? second_at : at_, is_symbol);
      return skip(symbols_end, [](Class kind) { return kind == Class::newline; });
    }
    return blank_end();
  }

  // A run of white space: up to its last line break; else all but its last character when something follows.
  size_t blank_end() const {
    size_t end = at_;
    size_t last_start = at_;
    size_t after_newline = 0;
    for (Char c = look(end); is_blank(c.kind); c = look(end)) {
      last_start = end;
      end += c.bytes;
      if (c.kind == Class::newline) {
        after_newline = end;
      }
    }
    if (after_newline != 0) {
      return after_newline;
    }
    return end < text_.size() && last_start > at_ ? last_start : end;
  }

  std::string_view text_;
  std::vector<std::string_view>& pieces_;
  size_t at_ = 0;
  std::array<Class, 128> ascii_{};
};

}  // namespace

void split_qwen35(std::string_view text, std::vector<std::string_view>& pieces) {
  Splitter(text, pieces).run();
}

}  // namespace fl::tokenizer
