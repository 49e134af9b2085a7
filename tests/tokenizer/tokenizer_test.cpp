#include "tokenizer/tokenizer.h"

#include <unistd.h>

#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gguf/gguf.h"
#include "tests/support/fixtures.h"
#include "tokenizer/split.h"

namespace fl::tokenizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string_view> pieces;
  split_qwen35(text, pieces);
  return {pieces.begin(), pieces.end()};
}

TEST(Split, PublishedExamples) {
  EXPECT_THAT(split("I'm 123 abc  def\n\n  x"),
              ElementsAre("I", "'m", " ", "1", "2", "3", " abc", " ", " def", "\n\n", " ", " x"));
  EXPECT_THAT(split("कि क् की"), ElementsAre("कि", " क्", " की"));
  EXPECT_THAT(split("it's IT'S 3.14  "), ElementsAre("it", "'s", " IT", "'S", " ", "3", ".", "1", "4", "  "));
  EXPECT_THAT(split("foo_bar(x)\n\n\nend"), ElementsAre("foo", "_bar", "(x", ")\n\n\n", "end"));
  EXPECT_THAT(split("we'll 've"), ElementsAre("we", "'ll", " '", "ve"));
  EXPECT_THAT(split("\t\tx\r\n \n y"), ElementsAre("\t", "\tx", "\r\n \n", " y"));
  EXPECT_THAT(split(" !?\n"), ElementsAre(" !?\n"));
}

TEST(Split, PiecesMakeUpTheText) {
  std::mt19937 random(5);
  const std::string alphabet[] = {"a", "Z",        "'",  "s",    " ",        "\n", "\r",       "\t",   "1",
                                  "é", "\xCC\x81", "中", "\xFF", "\xE4\xB8", "!",  "\xC2\xA0", "🦙", "ll"};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (unsigned i = random() % 12; i > 0; --i) {
      text += alphabet[random() % std::size(alphabet)];
    }
    std::string joined;
    for (const std::string& piece : split(text)) {
      EXPECT_FALSE(piece.empty());
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
}

class Published : public testing::Test {
 protected:
  static const Tokenizer& tokenizer(const std::filesystem::path& path) {
    static const Tokenizer kTokenizer = Tokenizer::from_gguf(gguf::File::open(path).value()).value();
    return kTokenizer;
  }
};

TEST_F(Published, All51Cases) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const std::string input = read(path.string() + ".inp");
  std::istringstream expected(read(path.string() + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int n_cases = 0;
  for (size_t at = 0; at <= input.size();) {
    size_t end = input.find(separator, at);
    const bool last = end == std::string::npos;
    end = last ? input.size() : end;
    std::string line;
    std::getline(expected, line);
    std::istringstream numbers(line);
    const std::vector<int32_t> ids{std::istream_iterator<int32_t>(numbers), {}};
    const std::string text = input.substr(at, end - at);
    EXPECT_EQ(tokenizer(path).encode(text, Special::plain), ids) << "case " << n_cases << ": " << text;
    EXPECT_EQ(tokenizer(path).decode(ids, true), text);
    ++n_cases;
    at = end + separator.size();
  }
  EXPECT_EQ(n_cases, 51);
}

TEST_F(Published, AnyBytesSurviveTheRoundTrip) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  std::mt19937 random(9);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 40, '\0');
    for (char& c : text) {
      c = static_cast<char>(random());
    }
    EXPECT_EQ(tokenizer(path).decode(tokenizer(path).encode(text, Special::plain), true), text);
  }
}

TEST_F(Published, SpecialTokensOnlyWhereAllowed) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const Tokenizer& t = tokenizer(path);
  const int32_t end = t.special_id("<|im_end|>").value();
  EXPECT_EQ(t.type(end), TokenType::control);
  EXPECT_THAT(t.encode("a<|im_end|>", Special::parse), ElementsAre(t.encode("a", Special::plain)[0], end));
  EXPECT_THAT(t.encode("a<|im_end|>", Special::plain), testing::Not(testing::Contains(end)));
  EXPECT_EQ(t.decode(t.encode("a<|im_end|>b", Special::parse), false), "ab");
  EXPECT_EQ(t.decode(t.encode("a<|im_end|>b", Special::plain), false), "a<|im_end|>b");
  EXPECT_THAT(t.end_of_generation(), testing::Contains(end));
  EXPECT_TRUE(t.encode("", Special::parse).empty());
  EXPECT_EQ(t.piece(-1), "");
  EXPECT_EQ(t.piece(1 << 30), "");
}

TEST_F(Published, OneMebibyteOfAnyCharacter) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  for (const std::string unit : {"a", " ", "\n", "1", "!", "\xFF", "中", "<", "\xCC\x81", "'"}) {
    std::string text;
    while (text.size() < (size_t{1} << 20)) {
      text += unit;
    }
    EXPECT_EQ(tokenizer(path).decode(tokenizer(path).encode(text, Special::parse), true), text);
  }
}

class Broken : public testing::Test {
 protected:
  static constexpr const char* kMark = "tokenizer.ggml.";

  std::vector<std::string> tokens = byte_tokens();
  std::vector<int32_t> types = std::vector<int32_t>(256, 1);
  std::vector<std::string> merges{"a b"};
  std::string pre = "qwen35";
  bool with_merges = true;

  Broken() {
    tokens.push_back("ab");
    types.push_back(1);
  }

  static std::vector<std::string> byte_tokens() {
    std::vector<std::string> out;
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const int code = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++;
      out.push_back(code < 128 ? std::string(1, static_cast<char>(code))
                               : std::string{static_cast<char>(0xC0 | code >> 6),
                                             static_cast<char>(0x80 | (code & 63))});
    }
    return out;
  }

  Result<Tokenizer> load() const {
    const auto path =
        std::filesystem::temp_directory_path() / ("freelunch_vocab_" + std::to_string(::getpid()) + ".gguf");
    gguf::Writer writer = gguf::Writer::create(path).value();
    const std::string mark = kMark;
    writer.set(mark + "model", std::string("gpt2"));
    writer.set(mark + "pre", pre);
    writer.set(mark + "tokens", tokens);
    writer.set(mark + "token_type", types);
    if (with_merges) {
      writer.set(mark + "merges", merges);
    }
    EXPECT_TRUE(writer.finish());
    auto tokenizer = Tokenizer::from_gguf(gguf::File::open(path).value());
    std::filesystem::remove(path);
    return tokenizer;
  }
};

TEST_F(Broken, TheSmallestVocabularyWorks) {
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_THAT(tokenizer->encode("abc", Special::plain), ElementsAre(256, 'c' - '!' + 33));
  EXPECT_EQ(tokenizer->eos(), -1);
}

TEST_F(Broken, EachFaultHasItsError) {
  with_merges = false;
  EXPECT_THAT(load().error().message, HasSubstr("tokenizer.ggml.merges' is missing"));
  with_merges = true;
  merges = {"a q", "a zz"};
  EXPECT_THAT(load().error().message, HasSubstr("merge 0 ('a q')"));
  merges = {"ab"};
  EXPECT_THAT(load().error().message, HasSubstr("merge 0"));
  merges = {"a b"};
  types.pop_back();
  EXPECT_THAT(load().error().message, HasSubstr("257 tokens and 256 token types"));
  types.push_back(9);
  EXPECT_THAT(load().error().message, HasSubstr("type 9"));
  types.back() = 1;
  pre = "llama-bpe";
  EXPECT_THAT(load().error().message, HasSubstr("found gpt2/llama-bpe"));
  pre = "qwen35";
  tokens[65] = "zzz";
  EXPECT_THAT(load().error().message, HasSubstr("no token for the byte 65"));
}

TEST(Utf8Stream, EverySplitGivesTheSameText) {
  const std::string text = "aé中🦙\xFF\xE4\xB8 \xF0\x9F\xA6 \xC0\x80 \xED\xA0\x80 z\xE4";
  std::string whole;
  {
    Utf8Stream stream;
    whole = stream.push(text);
    whole += stream.finish();
  }
  EXPECT_THAT(whole, HasSubstr("aé中🦙\xEF\xBF\xBD"));
  for (size_t a = 0; a <= text.size(); ++a) {
    for (size_t b = a; b <= text.size(); ++b) {
      Utf8Stream stream;
      std::string out = stream.push(text.substr(0, a));
      out += stream.push(text.substr(a, b - a));
      out += stream.push(text.substr(b));
      out += stream.finish();
      EXPECT_EQ(out, whole);
    }
  }
}

TEST(Utf8Stream, HoldsBackOnlyWhatIsIncomplete) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xE4\xB8"), "a");
  EXPECT_EQ(stream.push("\xAD"), "中");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("\xF0\x9F"), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace fl::tokenizer
