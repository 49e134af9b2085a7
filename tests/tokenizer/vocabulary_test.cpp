// Merging and special tokens on a vocabulary small enough to check by hand, and vocabularies that must be
// refused.
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tokenizer/small_vocabulary.h"
#include "tokenizer/bpe.h"

namespace fl::tokenizer {
namespace {

using test::SmallVocabulary;
using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const Result<Tokenizer>& result) {
  return result ? "no error" : result.error().message;
}

TEST(Vocabulary, LowestMergeFirstThenLeftmost) {
  SmallVocabulary v;
  const int32_t bc = v.merge("b", "c");
  const int32_t ab = v.merge("a", "b");
  const int32_t aa = v.merge("a", "a");
  const Tokenizer t = v.build().value();
  EXPECT_THAT(t.encode("abc", Special::plain), ElementsAre('a', bc));
  EXPECT_THAT(t.encode("abab", Special::plain), ElementsAre(ab, ab));
  EXPECT_THAT(t.encode("aaa", Special::plain), ElementsAre(aa, 'a'));
}

// The heap against a direct reading of the rule, on pieces long enough for the heap.
TEST(Vocabulary, HeapEqualsTheRule) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::array<int32_t, 256> bytes{};
    for (int32_t i = 0; i < 256; ++i) {
      bytes[static_cast<size_t>(i)] = i;
    }
    std::vector<Merge> merges;
    std::vector<int32_t> known{'a', 'b', 'c'};
    int32_t next = 256;
    for (int i = 0; i < 40; ++i) {
      const int32_t left = known[random() % known.size()];
      const int32_t right = known[random() % known.size()];
      merges.push_back({left, right, next});
      known.push_back(next++);
    }
    const Bpe bpe(next, bytes, merges);
    std::string piece;
    for (size_t i = 1 + random() % 120; i > 0; --i) {
      piece.push_back(static_cast<char>('a' + random() % 3));
    }
    std::vector<int32_t> expected(piece.begin(), piece.end());
    for (bool merged = true; merged;) {
      merged = false;
      for (const Merge& merge : merges) {
        for (size_t i = 0; i + 1 < expected.size() && !merged; ++i) {
          if (expected[i] == merge.left && expected[i + 1] == merge.right) {
            expected[i] = merge.result;
            expected.erase(expected.begin() + static_cast<ptrdiff_t>(i) + 1);
            merged = true;
          }
        }
        if (merged) {
          break;
        }
      }
    }
    Bpe::Scratch scratch;
    std::vector<int32_t> ids;
    bpe.encode(piece, scratch, ids);
    ASSERT_EQ(ids, expected) << piece;
  }
}

TEST(Vocabulary, SpecialTokensLongestFirst) {
  SmallVocabulary v;
  v.merge("a", "b");
  const int32_t think = v.add("<think>", TokenType::user_defined);
  const int32_t shorter = v.add("<|a|>", TokenType::control);
  const int32_t longer = v.add("<|a|><|b|>", TokenType::control);
  const Tokenizer t = v.build().value();
  EXPECT_THAT(t.encode("<|a|><|b|><|a|><think>x", Special::parse), ElementsAre(longer, shorter, think, 'x'));
  EXPECT_EQ(t.encode("<think>", Special::plain).size(), 7U);
  EXPECT_EQ(t.encode("<|a|", Special::parse).size(), 4U);
  EXPECT_EQ(t.decode(std::vector<int32_t>{think, shorter}, false), "<think>");
  EXPECT_EQ(t.decode(std::vector<int32_t>{think, shorter}, true), "<think><|a|>");
  EXPECT_EQ(t.special_id("<think>"), think);
  EXPECT_EQ(t.special_id("ab"), std::nullopt);
}

TEST(Vocabulary, EndsOfGeneration) {
  SmallVocabulary v;
  const int32_t ab = v.merge("a", "b");
  const int32_t im_end = v.add("<|im_end|>", TokenType::control);
  const int32_t text_end = v.add("<|endoftext|>", TokenType::control);
  const Tokenizer t =
      v.build([](gguf::Writer& w) { w.set("tokenizer.ggml.eos_token_id", uint32_t{256}); }).value();
  EXPECT_EQ(t.eos(), ab);
  EXPECT_EQ(t.bos(), -1);
  EXPECT_FALSE(t.add_bos());
  EXPECT_THAT(t.end_of_generation(), ElementsAre(ab, im_end, text_end));
  EXPECT_EQ(t.chat_template(), std::nullopt);
}

TEST(Vocabulary, UnknownIdsAreEmpty) {
  SmallVocabulary v;
  v.merge("a", "b");
  const Tokenizer t = v.build().value();
  EXPECT_EQ(t.piece(-1), "");
  EXPECT_EQ(t.piece(257), "");
  EXPECT_EQ(t.piece(INT32_MAX), "");
  EXPECT_EQ(t.piece(256), "ab");
  EXPECT_EQ(t.type(9999), TokenType::unknown);
  EXPECT_TRUE(t.encode("", Special::parse).empty());
}

TEST(Vocabulary, ARepeatedMergeCountsOnce) {
  SmallVocabulary v;
  const int32_t ab = v.merge("a", "b");
  const int32_t bc = v.merge("b", "c");
  v.merges.push_back("a b");
  const Tokenizer t = v.build().value();
  EXPECT_THAT(t.encode("abc", Special::plain), ElementsAre(ab, 'c'));
  EXPECT_THAT(t.encode("bc", Special::plain), ElementsAre(bc));
}

TEST(Vocabulary, RefusesWhatCannotWork) {
  {
    SmallVocabulary v;
    EXPECT_THAT(error_of(v.build()), HasSubstr("tokenizer.ggml.merges")) << "no merges";
  }
  {
    SmallVocabulary v;
    v.merge("a", "b");
    v.model = "llama";
    EXPECT_THAT(error_of(v.build()), HasSubstr("expected 'gpt2', found 'llama'"));
    v.model = "gpt2";
    v.splitter = "llama-bpe";
    EXPECT_THAT(error_of(v.build()), HasSubstr("expected 'qwen35', found 'llama-bpe'"));
  }
  {
    SmallVocabulary v;
    v.merge("a", "b");
    v.types.pop_back();
    EXPECT_THAT(error_of(v.build()), HasSubstr("expected 257 entries"));
  }
  {
    SmallVocabulary v;
    v.merge("a", "b");
    v.types.back() = 9;
    EXPECT_THAT(error_of(v.build()), HasSubstr("token_type[256]"));
  }
  {
    SmallVocabulary v;
    v.merge("a", "b");
    v.tokens[7] = v.tokens[8];
    EXPECT_THAT(error_of(v.build()), HasSubstr("already token 7"));
  }
  {
    SmallVocabulary v;
    v.merge("a", "b");
    v.tokens[static_cast<size_t>('x')] = "xx";
    EXPECT_THAT(error_of(v.build()), HasSubstr("byte 0x78"));
  }
  {
    SmallVocabulary v;
    v.merge("a", "b");
    v.merge("a", "c");
    v.add(std::string(1000, 'x'), TokenType::control);
    EXPECT_THAT(error_of(v.build()), HasSubstr("special token of 1 to 256 bytes"));
  }
  {
    SmallVocabulary v;
    v.tokens.clear();
    EXPECT_THAT(error_of(v.build()), HasSubstr("no such key"));
  }
}

TEST(Vocabulary, RefusesAbsurdMerges) {
  for (const char* line : {"ab", "a ", " b", "", " ", "a  b", "a b c", "zz b", "\x01\xFF b"}) {
    SmallVocabulary v;
    v.merge("a", "b");
    v.merges.emplace_back(line);
    EXPECT_THAT(error_of(v.build()), HasSubstr("tokenizer.ggml.merges[1]")) << line;
  }
}

TEST(Vocabulary, AMergeCannotMakeAControlToken) {
  SmallVocabulary v;
  v.add("ab", TokenType::control);
  v.merges.emplace_back("a b");
  EXPECT_THAT(error_of(v.build()), HasSubstr("'ab' is not a normal token"));
}

TEST(Vocabulary, NamedIdsMustExist) {
  SmallVocabulary v;
  v.merge("a", "b");
  const auto high = v.build([](gguf::Writer& w) { w.set("tokenizer.ggml.eos_token_id", uint32_t{257}); });
  EXPECT_THAT(error_of(high), HasSubstr("eos_token_id"));
  const auto negative = v.build([](gguf::Writer& w) { w.set("tokenizer.ggml.bos_token_id", int32_t{-5}); });
  EXPECT_THAT(error_of(negative), HasSubstr("bos_token_id"));
}

}  // namespace
}  // namespace fl::tokenizer
