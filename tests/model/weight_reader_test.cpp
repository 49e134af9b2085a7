// Weights read past the page cache and through it are the file's bytes, wherever a piece begins and ends.
#include "model/weight_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "base/mapped_file.h"

namespace fl::model {
namespace {

TEST(WeightReader, BytesAreTheFilesHoweverTheyAreRead) {
  const std::string path = FL_BINARY_DIR "/weight_reader_test.bin";  // on a disk: /tmp may be memory
  std::vector<char> want((3 << 20) + 777);
  std::mt19937 random(3);
  for (char& byte : want) {
    byte = static_cast<char>(random());
  }
  std::ofstream(path, std::ios::binary).write(want.data(), static_cast<std::streamsize>(want.size()));
  const auto mapped = MappedFile::open(path);
  ASSERT_TRUE(mapped.has_value());
  const std::byte* const begin = mapped->bytes().data();
  void* memory = nullptr;
  ASSERT_EQ(posix_memalign(&memory, WeightReader::kBlock, WeightReader::room(want.size())), 0);
  const std::unique_ptr<std::byte, decltype(&std::free)> buffer(static_cast<std::byte*>(memory), &std::free);
  const auto drop = [&] {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  };
  for (const bool direct : {false, true}) {
    const WeightReader reader({{path, mapped->bytes()}}, direct);
    const auto same = [&](uint64_t at, uint64_t n) {
      const std::byte* const got = reader.read(begin + at, n, buffer.get());
      return std::memcmp(got, want.data() + at, n) == 0;
    };
    drop();
    EXPECT_TRUE(same(0, want.size()));  // the end of the file is no multiple of anything
    for (int i = 0; i < 50; ++i) {
      drop();
      const uint64_t at = random() % want.size();
      const uint64_t n = 1 + random() % std::min<uint64_t>(want.size() - at, i % 2 == 0 ? 5000 : want.size());
      EXPECT_TRUE(same(at, n)) << at << " + " << n;
    }
    EXPECT_EQ(reader.read(reinterpret_cast<const std::byte*>(want.data()), 10, buffer.get()),
              reinterpret_cast<const std::byte*>(want.data()));  // no file's: where it is
  }
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace fl::model
