#include "tokenizer/splitter.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fl::tokenizer {
namespace {

using testing::ElementsAre;

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> pieces;
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = next_piece(text, pos);
    pieces.emplace_back(text.substr(pos, end - pos));
    pos = end;
  }
  return pieces;
}

TEST(Splitter, Contractions) {
  EXPECT_THAT(split("it's IT'S"), ElementsAre("it", "'s", " IT", "'S"));
  EXPECT_THAT(split("we'Ll'rE"), ElementsAre("we", "'Ll", "'rE"));
  EXPECT_THAT(split("'sure"), ElementsAre("'s", "ure"));
  EXPECT_THAT(split("'x"), ElementsAre("'x"));
  EXPECT_THAT(split("a'"), ElementsAre("a", "'"));
  EXPECT_THAT(split("'l"), ElementsAre("'l"));
  EXPECT_THAT(split("'\xC5\xBF"), ElementsAre("'\xC5\xBF")) << "long s is no s";
}

TEST(Splitter, NumbersAloneAndWordsWithOneCharacterInFront) {
  EXPECT_THAT(split("I'm 123 abc"), ElementsAre("I", "'m", " ", "1", "2", "3", " abc"));
  EXPECT_THAT(split("foo_bar(x)\n\n\nend"), ElementsAre("foo", "_bar", "(x", ")\n\n\n", "end"));
  EXPECT_THAT(split("\tx"), ElementsAre("\tx"));
  EXPECT_THAT(split("..x"), ElementsAre("..", "x"));
  EXPECT_THAT(split("3.14  "), ElementsAre("3", ".", "1", "4", "  "));
  EXPECT_THAT(split(" 7"), ElementsAre(" ", "7"));
}

TEST(Splitter, CombiningMarksBelongToWords) {
  EXPECT_THAT(split("कि क् की"), ElementsAre("कि", " क्", " की"));
  EXPECT_THAT(split("\xCC\x81"
                    "a!\xCC\x81"),
              ElementsAre("\xCC\x81"
                          "a",
                          "!\xCC\x81"));
  EXPECT_THAT(split("1\xCC\x81"), ElementsAre("1", "\xCC\x81"));
}

TEST(Splitter, WhiteSpace) {
  EXPECT_THAT(split("abc  def\n\n  x"), ElementsAre("abc", " ", " def", "\n\n", " ", " x"));
  EXPECT_THAT(split("  \n \r\n  y"), ElementsAre("  \n \r\n", " ", " y"));
  EXPECT_THAT(split("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(split("   ="), ElementsAre("  ", " ="));
  EXPECT_THAT(split("\t\t="), ElementsAre("\t", "\t", "="));
  EXPECT_THAT(split("\xE3\x80\x80 1"), ElementsAre("\xE3\x80\x80", " ", "1"));
  EXPECT_THAT(split("\n"), ElementsAre("\n"));
}

TEST(Splitter, Symbols) {
  EXPECT_THAT(split(" ==\r\n\nx"), ElementsAre(" ==\r\n\n", "x"));
  EXPECT_THAT(split("😀😀 😀"), ElementsAre("😀😀", " 😀"));
  EXPECT_THAT(split("\xC2\xA0!"), ElementsAre("\xC2\xA0", "!")) << "only a blank joins a symbol";
}

}  // namespace
}  // namespace fl::tokenizer
