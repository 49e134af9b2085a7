#include "gguf/gguf.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fixtures.h"

namespace fl::gguf {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class GgufTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(dir_); }
  void TearDown() override { fs::remove_all(dir_); }

  void write_sample(const fs::path& path) const {
    Writer writer = Writer::create(path).value();
    writer.set("general.architecture", std::string("qwen35"));
    writer.set("a.number", uint32_t{7});
    writer.set("a.float", 0.5F);
    writer.set("a.flag", true);
    writer.set("a.words", std::vector<std::string>{"x", "", "long word"});
    writer.set("a.numbers", std::vector<int32_t>{1, -2, 3});
    writer.set("a.flags", std::vector<bool>{true, false});
    writer.declare("one", DType::f32, {3, 2});
    writer.declare("two", DType::q8_0, {32});
    ASSERT_TRUE(writer.begin_data());
    const std::vector<float> one{1, 2, 3, 4, 5, 6};
    ASSERT_TRUE(writer.write(std::as_bytes(std::span(one))));
    const std::vector<std::byte> two(34, std::byte{1});
    ASSERT_TRUE(writer.write(std::span(two).first(10)));
    ASSERT_TRUE(writer.write(std::span(two).subspan(10)));
    ASSERT_TRUE(writer.finish());
  }

  std::string bytes_of(const fs::path& path) const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path write(const std::string& bytes) const {
    std::ofstream(dir_ / "x.gguf", std::ios::binary) << bytes;
    return dir_ / "x.gguf";
  }

  // Opens and touches everything; a clean error is as good as a clean load.
  static void exercise(const fs::path& path) {
    const auto file = File::open(path);
    if (!file) {
      EXPECT_FALSE(file.error().message.empty());
      return;
    }
    for (const File::Entry& entry : file->entries()) {
      (void)file->describe(entry.key);
      (void)file->value(entry.key);
      (void)file->get_ints(entry.key);
      (void)file->get_floats(entry.key);
      (void)file->get_strings(entry.key);
    }
    unsigned sum = 0;
    for (const Tensor& tensor : file->tensors()) {
      for (uint64_t i = 0; i < tensor.view.bytes(); ++i) {
        sum += static_cast<unsigned>(tensor.view.data[i]);
      }
    }
    testing::Test::RecordProperty("sum", static_cast<int>(sum & 0xFF));
  }

  fs::path dir_ = fs::temp_directory_path() / ("freelunch_gguf_" + std::to_string(::getpid()));
};

TEST_F(GgufTest, WritesWhatItReads) {
  write_sample(dir_ / "a.gguf");
  const File file = File::open(dir_ / "a.gguf").value();
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.get_string("general.architecture").value(), "qwen35");
  EXPECT_EQ(file.get_int("a.number").value(), 7);
  EXPECT_EQ(file.get_float("a.float").value(), 0.5);
  EXPECT_EQ(file.get_float("a.number").value(), 7);
  EXPECT_TRUE(file.get_bool("a.flag").value());
  EXPECT_THAT(file.get_strings("a.words").value(), testing::ElementsAre("x", "", "long word"));
  EXPECT_THAT(file.get_ints("a.numbers").value(), testing::ElementsAre(1, -2, 3));
  EXPECT_THAT(file.get_ints("a.number").value(), testing::ElementsAre(7));
  EXPECT_THAT(file.get_ints("a.flags").value(), testing::ElementsAre(1, 0));
  EXPECT_EQ(file.describe("a.numbers"), "[1, -2, 3]");
  EXPECT_EQ(file.get_int_or("absent", 5).value(), 5);
  EXPECT_FALSE(file.get_int_or("a.words", 5));
  ASSERT_EQ(file.tensors().size(), 2U);
  const Tensor* one = file.find("one");
  ASSERT_NE(one, nullptr);
  EXPECT_EQ(one->view.rows(), 2);
  float value = 0;
  std::memcpy(&value, one->view.row(1), sizeof value);
  EXPECT_EQ(value, 4.0F);
  EXPECT_EQ(file.find("two")->view.data[33], std::byte{1});
  EXPECT_EQ(file.find("three"), nullptr);
}

TEST_F(GgufTest, WrongKindsNameTheKey) {
  write_sample(dir_ / "a.gguf");
  const File file = File::open(dir_ / "a.gguf").value();
  EXPECT_THAT(file.get_int("general.architecture").error().message,
              HasSubstr("'general.architecture': expected an integer"));
  EXPECT_THAT(file.get_string("a.words").error().message, HasSubstr("found array of 3 string"));
  EXPECT_THAT(file.get_int("absent").error().message, HasSubstr("'absent' is missing"));
  EXPECT_THAT(file.get_strings("a.numbers").error().message, HasSubstr("array of strings"));
}

TEST_F(GgufTest, AnUnfinishedFileLeavesNothing) {
  {
    Writer writer = Writer::create(dir_ / "b.gguf").value();
    writer.declare("t", DType::f32, {4});
    ASSERT_TRUE(writer.begin_data());
    EXPECT_FALSE(writer.finish());
  }
  EXPECT_TRUE(fs::is_empty(dir_));
  EXPECT_FALSE(Writer::create(dir_ / "absent" / "b.gguf"));
}

TEST_F(GgufTest, AKilledWriterLeavesNothing) {
  const int probe = ::open(dir_.c_str(), O_WRONLY | O_TMPFILE, 0600);
  if (probe < 0) {
    GTEST_SKIP() << "this file system has no files without a name";
  }
  ::close(probe);
  const pid_t child = ::fork();
  if (child == 0) {
    Writer writer = Writer::create(dir_ / "w.gguf").value();
    writer.declare("one", DType::f32, {1000});
    (void)writer.begin_data();
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(fs::is_empty(dir_));
}

TEST_F(GgufTest, FoldersAndDevicesAreNoOutput) {
  for (const fs::path& path : {dir_, dir_ / "", fs::path("/dev/null"), fs::path()}) {
    EXPECT_EQ(Writer::create(path).error().code, ErrorCode::invalid_argument) << path;
  }
  EXPECT_EQ(Writer::create(dir_ / "no" / "w.gguf").error().code, ErrorCode::io);
  EXPECT_TRUE(fs::is_empty(dir_));
}

TEST_F(GgufTest, EveryTruncationIsAnErrorWithItsPlace) {
  write_sample(dir_ / "a.gguf");
  const std::string whole = bytes_of(dir_ / "a.gguf");
  const size_t last_byte_of_data = whole.size() - 30;  // behind it is padding
  for (size_t size = 1; size < last_byte_of_data; ++size) {
    const auto file = File::open(write(whole.substr(0, size)));
    ASSERT_FALSE(file) << size;
    EXPECT_THAT(file.error().message, HasSubstr("offset")) << size;
  }
}

TEST_F(GgufTest, EveryFlippedBitIsAnErrorOrLoads) {
  write_sample(dir_ / "a.gguf");
  const std::string whole = bytes_of(dir_ / "a.gguf");
  for (size_t at = 0; at < whole.size() - 96; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      exercise(write(damaged));
    }
  }
}

TEST_F(GgufTest, EveryFieldAtItsExtremes) {
  write_sample(dir_ / "a.gguf");
  const std::string whole = bytes_of(dir_ / "a.gguf");
  const uint64_t extremes[] = {
      0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000};
  for (size_t at = 0; at + 8 < whole.size() - 96; ++at) {
    for (const uint64_t extreme : extremes) {
      for (const size_t width : {size_t{4}, size_t{8}}) {
        std::string damaged = whole;
        std::memcpy(damaged.data() + at, &extreme, width);
        exercise(write(damaged));
      }
    }
  }
}

TEST_F(GgufTest, ForeignFiles) {
  EXPECT_EQ(File::open(dir_ / "absent.gguf").error().code, ErrorCode::not_found);
  EXPECT_THAT(File::open(dir_).error().message, HasSubstr("not a regular file"));
  EXPECT_THAT(File::open(write("")).error().message, HasSubstr("empty"));
  EXPECT_THAT(File::open(write("\x89PNG\r\n\x1a\n 0123456789")).error().message,
              HasSubstr("not a GGUF file"));
  EXPECT_THAT(File::open(write("GGUF")).error().message, HasSubstr("version"));
  EXPECT_THAT(File::open(write(std::string("GGUF\1\0\0\0", 8) + std::string(64, '\0'))).error().message,
              HasSubstr("found 1"));
  EXPECT_THAT(File::open(write(std::string("GGUF\0\0\0\3", 8) + std::string(64, '\0'))).error().message,
              HasSubstr("big-endian"));
}

TEST_F(GgufTest, UnsupportedTypesAreRefusedByName) {
  write_sample(dir_ / "a.gguf");
  std::string bytes = bytes_of(dir_ / "a.gguf");
  const size_t at = bytes.find("two", bytes.find("one")) + 3 + 4 + 8;
  const uint32_t iq2_xxs = 16;
  std::memcpy(bytes.data() + at, &iq2_xxs, 4);
  EXPECT_THAT(File::open(write(bytes)).error().message,
              HasSubstr("tensor 'two': the type IQ2_XXS is not supported"));
}

// Found by fuzz_gguf: a text that is cut inside a character, or was never one.
TEST_F(GgufTest, TextsOfAnyBytesAreDescribed) {
  Writer writer = Writer::create(dir_ / "x.gguf").value();
  writer.set("plain", std::string("a \"b\"\\\n\t日"));
  writer.set("wild", std::string("\xF0\x9F\0\xC0\x80\xED\xA0\x80\xF5\x7F", 10));
  writer.set("cut", std::string(79, 'x') + "日");
  ASSERT_TRUE(writer.finish());
  const File file = File::open(dir_ / "x.gguf").value();
  EXPECT_EQ(file.describe("plain"), R"("a \"b\"\\\n\t日")");
  EXPECT_EQ(file.describe("wild"), R"("\xf0\x9f\x00\xc0\x80\xed\xa0\x80\xf5\x7f")");
  EXPECT_EQ(file.describe("cut"), "\"" + std::string(79, 'x') + "\\xe6\"");
}

// Readers widen an array's elements: one of many small ones would need many times the file.
TEST_F(GgufTest, ArraysAreBounded) {
  const auto array = [&](uint64_t n) {
    std::string bytes("GGUF\3\0\0\0", 8);
    const auto put = [&](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); };
    put(uint64_t{0});
    put(uint64_t{1});
    put(uint64_t{1});
    bytes += 'k';
    put(static_cast<uint32_t>(ValueType::array));
    put(static_cast<uint32_t>(ValueType::u8));
    put(n);
    return write(bytes.append(n, 'x'));
  };
  constexpr uint64_t kMost = 1 << 22;
  EXPECT_EQ(File::open(array(kMost)).value().get_ints("k").value().size(), kMost);
  EXPECT_THAT(File::open(array(kMost + 1)).error().message,
              HasSubstr("at most 4194304 elements, found 4194305"));
}

TEST_F(GgufTest, SplitModels) {
  const auto part = [&](const char* name, const char* tensor, bool first) {
    Writer writer = Writer::create(dir_ / name).value();
    if (first) {
      writer.set("split.tensors.count", int32_t{2});
    }
    writer.declare(tensor, DType::f32, {1});
    ASSERT_TRUE(writer.begin_data());
    const float value = first ? 1 : 2;
    ASSERT_TRUE(writer.write(std::as_bytes(std::span(&value, 1))));
    ASSERT_TRUE(writer.finish());
  };
  part("m-00001-of-00002.gguf", "a", true);
  EXPECT_EQ(File::open(dir_ / "m-00001-of-00002.gguf").error().code, ErrorCode::not_found);
  part("m-00002-of-00002.gguf", "b", false);
  const auto file = File::open(dir_ / "m-00001-of-00002.gguf");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->find("b")->shard, 1U);
  EXPECT_THAT(File::open(dir_ / "m-00002-of-00002.gguf").error().message, HasSubstr("name the first part"));
  part("m-00002-of-00002.gguf", "a", false);
  EXPECT_THAT(File::open(dir_ / "m-00001-of-00002.gguf").error().message, HasSubstr("in two parts"));
}

TEST_F(GgufTest, APublishedVocabularyFile) {
  FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");
  const auto file = File::open(path);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->get_strings("tokenizer.ggml.tokens").value().size(), 151936U);
  EXPECT_EQ(file->get_string("tokenizer.ggml.pre").value(), "qwen35");
}

}  // namespace
}  // namespace fl::gguf
