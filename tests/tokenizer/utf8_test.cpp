#include "tokenizer/utf8.h"

#include <random>

#include <gtest/gtest.h>

#include "tokenizer/tokenizer.h"

namespace fl::tokenizer {
namespace {

std::string repeat_replacement(int n) {
  std::string out;
  for (int i = 0; i < n; ++i) {
    out += kReplacement;
  }
  return out;
}

std::string stream(std::string_view bytes) {
  Utf8Stream s;
  std::string out = s.push(bytes);
  return out + s.finish();
}

TEST(Utf8, AcceptsEveryScalarValueAndNothingElse) {
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string text;
    append_utf8(text, c);
    const Utf8Char decoded = decode_utf8(text, 0);
    if (c >= 0xD800 && c <= 0xDFFF) {
      ASSERT_EQ(decoded.state, Utf8Char::State::invalid) << c;
    } else {
      ASSERT_EQ(decoded.code_point, c);
      ASSERT_EQ(decoded.bytes, text.size());
    }
  }
  for (const char* bad : {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                          "\xF5", "\xFF", "\x80", "\xED\xA0\x80"}) {
    EXPECT_FALSE(is_valid_utf8(bad));
  }
}

TEST(Utf8, InputReplacesEachByte) {
  EXPECT_EQ(replace_invalid_utf8("a\xE2\x82z"), "a" + repeat_replacement(2) + "z");
  EXPECT_EQ(replace_invalid_utf8("\xC0\xBC"), repeat_replacement(2)) << "an overlong '<' is no '<'";
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), repeat_replacement(3));
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x98"), repeat_replacement(3));
}

// Unicode standard, table 3-8: one replacement for each longest start of a character.
TEST(Utf8Stream, ReplacesLongestStarts) {
  EXPECT_EQ(stream("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), repeat_replacement(8) + "A");
  EXPECT_EQ(stream("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), repeat_replacement(8) + "A");
  EXPECT_EQ(stream("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            repeat_replacement(5) + "A" + repeat_replacement(2) + "B");
  EXPECT_EQ(stream("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), repeat_replacement(4) + "A");
}

TEST(Utf8Stream, HoldsBackAnIncompleteCharacter) {
  Utf8Stream s;
  EXPECT_EQ(s.push("a\xF0\x9F"), "a");
  EXPECT_EQ(s.push("\x98"), "");
  EXPECT_EQ(s.push("\x80!"), "😀!");
  EXPECT_EQ(s.push("\xE2\x82"), "");
  EXPECT_EQ(s.finish(), kReplacement);
  EXPECT_EQ(s.finish(), "");
}

TEST(Utf8Stream, AnyCutGivesTheSame) {
  std::mt19937 random(3);
  // Lead, continuation and plain bytes that make valid, broken and incomplete characters.
  const std::string alphabet = "\xF0\x9F\x98\x80\xE2\x82\xAC\xC3\xA9\xED\xA0\xF4\x90 a\xC0\xFF";
  for (int round = 0; round < 5000; ++round) {
    std::string bytes;
    for (size_t i = random() % 12; i > 0; --i) {
      bytes.push_back(alphabet[random() % alphabet.size()]);
    }
    Utf8Stream one_by_one;
    std::string out;
    for (const char c : bytes) {
      const std::string part = one_by_one.push(std::string_view(&c, 1));
      ASSERT_TRUE(is_valid_utf8(part));
      out += part;
    }
    out += one_by_one.finish();
    ASSERT_EQ(out, stream(bytes));
    ASSERT_TRUE(is_valid_utf8(out));
    if (is_valid_utf8(bytes)) {
      ASSERT_EQ(out, bytes);
    }
  }
}

}  // namespace
}  // namespace fl::tokenizer
