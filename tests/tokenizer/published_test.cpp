// The published cases of the qwen35 splitter, through the library and through the program.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <random>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gguf/gguf.h"
#include "tests/support/fixtures.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace fl::tokenizer {
namespace {

constexpr size_t kPublishedCases = 51;

struct Case {
  std::string text;
  std::vector<int32_t> ids;
};

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<Case> read_cases(const std::filesystem::path& vocabulary) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string texts = read_file(vocabulary.string() + ".inp");
  std::istringstream lines(read_file(vocabulary.string() + ".out"));
  std::vector<Case> cases;
  for (size_t pos = 0; pos <= texts.size();) {
    const size_t end = texts.find(separator, pos);
    Case& one = cases.emplace_back();
    one.text = texts.substr(pos, end == std::string::npos ? end : end - pos);
    std::string line;
    std::getline(lines, line);
    std::istringstream ids(line);
    for (int32_t id = 0; ids >> id;) {
      one.ids.push_back(id);
    }
    if (end == std::string::npos) {
      break;
    }
    pos = end + separator.size();
  }
  return cases;
}

Tokenizer load(const std::filesystem::path& path) {
  return Tokenizer::from_gguf(gguf::File::open(path).value()).value();
}

TEST(Published, CasesPassInTheLibrary) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const Tokenizer tokenizer = load(path);
  const std::vector<Case> cases = read_cases(path);
  ASSERT_EQ(cases.size(), kPublishedCases);
  for (const Case& one : cases) {
    EXPECT_EQ(tokenizer.encode(one.text, Special::plain), one.ids) << one.text;
    EXPECT_EQ(tokenizer.encode(one.text, Special::parse), one.ids) << one.text;
    EXPECT_EQ(tokenizer.decode(one.ids, true), one.text);
  }
}

TEST(Published, CasesPassInTheProgram) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const std::filesystem::path program = std::filesystem::path(FL_BINARY_DIR) / "freelunch";
  if (!std::filesystem::exists(program)) {
    GTEST_SKIP() << "not built: " << program;
  }
  const auto dir = std::filesystem::temp_directory_path();
  const auto input = dir / fmt::format("freelunch_tokenize_{}.txt", ::getpid());
  for (const Case& one : read_cases(path)) {
    std::ofstream(input, std::ios::binary) << one.text;
    const std::string command = fmt::format("'{}' tokenize --model '{}' --stdin --json < '{}'",
                                            program.string(), path.string(), input.string());
    std::FILE* pipe = ::popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::string out(size_t{1} << 16, '\0');
    out.resize(std::fread(out.data(), 1, out.size(), pipe));
    EXPECT_EQ(::pclose(pipe), 0);
    EXPECT_EQ(out, fmt::format("[{}]\n", fmt::join(one.ids, ","))) << one.text;
  }
  std::filesystem::remove(input);
}

TEST(Published, RandomTextComesBack) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const Tokenizer tokenizer = load(path);
  std::mt19937 random(7);
  // Ranges that meet every class of the splitter.
  constexpr std::pair<uint32_t, uint32_t> kRanges[] = {
      {0x00, 0x7F},       {0x20, 0x40},       {0x41, 0x5A},     {0x09, 0x0D},     {0xA0, 0x17F},
      {0x300, 0x36F},     {0x900, 0x97F},     {0x600, 0x6FF},   {0x1680, 0x1680}, {0x2000, 0x206F},
      {0x2150, 0x218F},   {0x3000, 0x30FF},   {0x4E00, 0x9FFF}, {0xAC00, 0xD7A3}, {0xE000, 0xF8FF},
      {0x1F300, 0x1F6FF}, {0x10000, 0x10FFFF}};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t i = random() % 60; i > 0; --i) {
      const auto [low, high] = kRanges[random() % std::size(kRanges)];
      append_utf8(text, low + static_cast<uint32_t>(random()) % (high - low + 1));
    }
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, Special::plain), true), text);
  }
  for (int round = 0; round < 3000; ++round) {
    std::string bytes;
    for (size_t i = random() % 60; i > 0; --i) {
      bytes.push_back(static_cast<char>(random()));
    }
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(bytes, Special::parse), true), replace_invalid_utf8(bytes));
  }
}

// A long piece takes the heap, a short one the plain search: both must find the same merges.
TEST(Published, LongPiecesMergeAsShortOnesDo) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const Tokenizer tokenizer = load(path);
  std::string longest;
  for (int32_t id = 0; id < tokenizer.n_vocab(); ++id) {
    const std::string_view piece = tokenizer.piece(id);
    if (tokenizer.type(id) == TokenType::normal && piece.size() > longest.size() && piece.size() < 200 &&
        tokenizer.encode(piece, Special::plain) == std::vector<int32_t>{id}) {
      longest = piece;
    }
  }
  EXPECT_GT(longest.size(), 24U) << "a token that only the heap can have made";
}

TEST(Published, AMebibyteOfAnything) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const Tokenizer tokenizer = load(path);
  constexpr size_t kMebibyte = size_t{1} << 20;
  for (const std::string& unit :
       {std::string("a"), std::string("Z"), std::string("\n"), std::string(" "), std::string("1"),
        std::string("'"), std::string("\xCC\x81"), std::string("\t "), std::string("\x80"),
        std::string("\xE4\xBD\xA0"), std::string("<"), std::string("<|"), std::string("a\xCC\x81"),
        std::string("=-")}) {
    std::string text;
    while (text.size() < kMebibyte) {
      text += unit;
    }
    const auto ids = tokenizer.encode(text, Special::parse);
    EXPECT_EQ(tokenizer.decode(ids, true), replace_invalid_utf8(text));
  }
}

TEST(Published, SpecialTokensOnlyWhereAllowed) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const Tokenizer tokenizer = load(path);
  const int32_t end = tokenizer.special_id("<|im_end|>").value();
  EXPECT_EQ(tokenizer.type(end), TokenType::control);
  EXPECT_EQ(tokenizer.encode("<|im_end|>", Special::parse), std::vector<int32_t>{end});
  const auto plain = tokenizer.encode("<|im_end|>", Special::plain);
  EXPECT_GT(plain.size(), 1U);
  for (const int32_t id : plain) {
    EXPECT_EQ(tokenizer.type(id), TokenType::normal);
  }
  EXPECT_EQ(tokenizer.decode(plain, false), "<|im_end|>");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{end}, false), "");
  EXPECT_THAT(tokenizer.end_of_generation(), testing::SizeIs(2));
  EXPECT_EQ(tokenizer.eos(), tokenizer.special_id("<|endoftext|>")) << "as the file names it";
}

// Every token that plain text can become is a normal one.
TEST(Published, PlainTextIsNeverSpecial) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const Tokenizer tokenizer = load(path);
  for (int32_t id = 0; id < tokenizer.n_vocab(); ++id) {
    if (tokenizer.type(id) == TokenType::normal) {
      continue;
    }
    for (const int32_t part : tokenizer.encode(tokenizer.piece(id), Special::plain)) {
      ASSERT_EQ(tokenizer.type(part), TokenType::normal) << tokenizer.piece(id);
    }
  }
}

}  // namespace
}  // namespace fl::tokenizer
