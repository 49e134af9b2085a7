#include "chat/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "tokenizer/utf8.h"

namespace fl::chat::jinja {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<uint8_t>(c) >= 0x80;
}
bool is_name_part(char c) {
  return is_name_start(c) || is_digit(c);
}
bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// Longer ones first.
constexpr std::array<std::string_view, 27> kSymbols{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";", "!"};

// \r\n and \r become \n; one newline at the end goes.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else if (i + 1 >= source.size() || source[i + 1] != '\n') {
      out.push_back('\n');
    }
  }
  if (!out.empty() && out.back() == '\n') {
    out.pop_back();
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize(source)) {}

  std::vector<Token> run() {
    while (pos_ < source_.size()) {
      data();
    }
    add(Token::Kind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw TemplateError(fmt::format("line {}: {}", line_, what));
  }

  bool at(std::string_view text, size_t pos) const { return source_.compare(pos, text.size(), text) == 0; }
  bool at(std::string_view text) const { return at(text, pos_); }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    pos_ = to;
  }

  void add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_, 0, 0}); }

  void skip_space() {
    size_t to = pos_;
    while (to < source_.size()) {
      const auto c = tokenizer::decode_utf8(source_, to);
      if (!is_space(c.code_point) || c.state != tokenizer::Utf8Char::State::valid) {
        break;
      }
      to += c.bytes;
    }
    advance(to);
  }

  // Text up to the next tag, then the tag.
  void data() {
    size_t tag = pos_;
    while (tag < source_.size() && !at("{{", tag) && !at("{%", tag) && !at("{#", tag)) {
      ++tag;
    }
    std::string_view text = std::string_view(source_).substr(pos_, tag - pos_);
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      if (sign == '-') {
        text = text.substr(0, strip(text, false, true, nullptr).end);
      } else if (sign != '+' && source_[tag + 1] != '{') {
        text = strip_indent(text);
      }
    }
    if (!text.empty()) {
      add(Token::Kind::data, std::string(text));
    }
    advance(tag);
    if (tag >= source_.size()) {
      return;
    }
    const char kind = source_[tag + 1];
    const bool signed_tag = tag + 2 < source_.size() && (source_[tag + 2] == '-' || source_[tag + 2] == '+');
    advance(tag + (signed_tag ? 3 : 2));
    if (kind == '#') {
      comment();
    } else if (kind == '%' && raw_begins()) {
      raw();
    } else {
      add(kind == '%' ? Token::Kind::block_begin : Token::Kind::output_begin, "");
      expression(kind == '%');
    }
  }

  // lstrip_blocks: blanks between a line's start and a tag go.
  std::string_view strip_indent(std::string_view text) const {
    const size_t newline = text.rfind('\n');
    const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
    if (start == 0 && !line_starting_) {
      return text;
    }
    const std::string_view indent = text.substr(start);
    const bool blank = strip(indent, true, false, nullptr).begin == indent.size();
    return blank ? text.substr(0, start) : text;
  }

  // After the closing sign of a block or comment: trim_blocks drops one newline, '-' all white space.
  void after_tag(char sign, bool trims_newline) {
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && trims_newline && at("\n")) {
      advance(pos_ + 1);
    }
    line_starting_ = pos_ > 0 && source_[pos_ - 1] == '\n';
  }

  void comment() {
    const size_t close = source_.find("#}", pos_);
    if (close == std::string::npos) {
      fail("a comment is not closed");
    }
    // `{#-#}` shares its sign.
    const char sign = close > pos_ ? source_[close - 1] : '\0';
    advance(close + 2);
    after_tag(sign, true);
  }

  bool raw_begins() const {
    const size_t p = skip_blanks(pos_);
    return at("raw", p) && closes_at(skip_blanks(p + 3));
  }
  size_t skip_blanks(size_t p) const {
    while (p < source_.size() && is_blank(source_[p])) {
      ++p;
    }
    return p;
  }
  bool closes_at(size_t p) const { return at("%}", p) || at("-%}", p) || at("+%}", p); }

  void close_block(bool trims_newline = true) {
    const size_t p = skip_blanks(pos_);
    const char sign = source_[p] == '%' ? '\0' : source_[p];
    advance(p + (sign == '\0' ? 2 : 3));
    after_tag(sign, trims_newline);
  }

  void raw() {
    advance(skip_blanks(pos_) + 3);
    close_block(false);
    for (size_t p = pos_; (p = source_.find("{%", p)) != std::string::npos; p += 2) {
      const char sign = source_[std::min(p + 2, source_.size() - 1)];
      const size_t word = skip_blanks(p + (sign == '-' || sign == '+' ? 3 : 2));
      if (!at("endraw", word) || !closes_at(skip_blanks(word + 6))) {
        continue;
      }
      std::string_view text = std::string_view(source_).substr(pos_, p - pos_);
      if (sign == '-') {
        text = text.substr(0, strip(text, false, true, nullptr).end);
      } else if (sign != '+') {
        text = strip_indent(text);
      }
      if (!text.empty()) {
        add(Token::Kind::data, std::string(text));
      }
      advance(word + 6);
      close_block();
      return;
    }
    fail("a raw block is not closed");
  }

  void expression(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    std::string brackets;
    while (true) {
      advance(skip_blanks(pos_));
      if (pos_ >= source_.size()) {
        fail("a tag is not closed");
      }
      if (brackets.empty()) {
        const char sign = source_[pos_];
        const bool signed_close = (sign == '-' || (sign == '+' && block)) && at(close, pos_ + 1);
        if (signed_close || at(close)) {
          add(block ? Token::Kind::block_end : Token::Kind::output_end, "");
          advance(pos_ + (signed_close ? 3 : 2));
          after_tag(signed_close ? sign : '\0', block);
          return;
        }
      }
      const char c = source_[pos_];
      if (is_name_start(c)) {
        name();
      } else if (is_digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string();
      } else {
        symbol(brackets);
      }
    }
  }

  void name() {
    size_t to = pos_;
    while (to < source_.size() && is_name_part(source_[to])) {
      ++to;
    }
    add(Token::Kind::name, source_.substr(pos_, to - pos_));
    advance(to);
  }

  void number() {
    std::string digits;
    size_t p = pos_;
    const auto take = [&](auto accept) {
      while (p < source_.size() && (accept(source_[p]) || (source_[p] == '_' && p + 1 < source_.size() &&
                                                           accept(source_[p + 1])))) {
        if (source_[p] != '_') {
          digits.push_back(source_[p]);
        }
        ++p;
      }
    };
    int base = 10;
    if (source_[p] == '0' && p + 1 < source_.size()) {
      const char mark = static_cast<char>(source_[p + 1] | 0x20);
      base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    }
    if (base != 10) {
      p += 2;
      take([base](char c) {
        const int digit = is_digit(c)                              ? c - '0'
                          : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                                   : 99;
        return digit < base;
      });
    } else {
      take(is_digit);
    }
    bool real = false;
    if (base == 10 && p + 1 < source_.size() && source_[p] == '.' && is_digit(source_[p + 1])) {
      real = true;
      digits.push_back('.');
      ++p;
      take(is_digit);
    }
    if (base == 10 && p < source_.size() && (source_[p] | 0x20) == 'e') {
      size_t q = p + 1;
      q += q < source_.size() && (source_[q] == '+' || source_[q] == '-') ? 1 : 0;
      if (q < source_.size() && is_digit(source_[q])) {
        real = true;
        digits.append(source_, p, q - p);
        p = q;
        take(is_digit);
      }
    }
    add(real ? Token::Kind::real : Token::Kind::integer, digits);
    Token& token = tokens_.back();
    if (real) {
      const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), token.real);
      if (result.ec == std::errc::result_out_of_range) {
        token.real = HUGE_VAL;
      }
    } else {
      int64_t value = 0;
      const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
      if (result.ec != std::errc() || digits.empty()) {
        fail(fmt::format("the number '{}' is not one that fits 64 bits",
                         source_.substr(pos_, p - pos_).substr(0, 40)));
      }
      token.integer = value;
    }
    advance(p);
  }

  void string() {
    const char quote = source_[pos_];
    size_t p = pos_ + 1;
    std::string text;
    while (p < source_.size() && source_[p] != quote) {
      if (source_[p] == '\\' && p + 1 < source_.size()) {
        p = escape(p, text);
      } else {
        text.push_back(source_[p++]);
      }
    }
    if (p >= source_.size()) {
      fail("a string is not closed");
    }
    add(Token::Kind::string, std::move(text));
    advance(p + 1);
  }

  // One escape of Python's string literals; an unknown one stands for itself. Returns the position behind it.
  size_t escape(size_t p, std::string& text) const {
    constexpr std::string_view kFrom = "abfnrtv\\'\"\n";
    constexpr std::string_view kTo("\a\b\f\n\r\t\v\\'\"", 10);
    const char c = source_[p + 1];
    const size_t known = kFrom.find(c);
    if (known < kTo.size()) {
      text.push_back(kTo[known]);
      return p + 2;
    }
    if (c == '\n') {
      return p + 2;
    }
    if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      size_t q = p + 1;
      for (int i = 0; i < 3 && q < source_.size() && source_[q] >= '0' && source_[q] <= '7'; ++i, ++q) {
        value = value * 8 + static_cast<uint32_t>(source_[q] - '0');
      }
      tokenizer::append_utf8(text, value);
      return q;
    }
    const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (n > 0) {
      uint32_t value = 0;
      const char* begin = source_.data() + p + 2;
      const char* end = source_.data() + std::min(p + 2 + n, source_.size());
      const auto result = std::from_chars(begin, end, value, 16);
      if (result.ptr != begin + n || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
        fail(fmt::format("the escape \\{} needs {} hexadecimal digits of a character", c, n));
      }
      tokenizer::append_utf8(text, value);
      return p + 2 + n;
    }
    text.push_back('\\');
    text.push_back(c);
    return p + 2;
  }

  void symbol(std::string& brackets) {
    const auto found =
        std::find_if(kSymbols.begin(), kSymbols.end(), [this](std::string_view s) { return at(s); });
    if (found == kSymbols.end() || *found == "!") {
      fail(fmt::format("unexpected character 0x{:02x}", static_cast<uint8_t>(source_[pos_])));
    }
    const char c = found->front();
    if (c == '(' || c == '[' || c == '{') {
      brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c) {
        fail(fmt::format("unexpected '{}'", c));
      }
      brackets.pop_back();
    }
    add(Token::Kind::symbol, std::string(*found));
    advance(pos_ + found->size());
  }

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace fl::chat::jinja
