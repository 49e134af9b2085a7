#include "base/journal.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

class JournalTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove(path_); }
  void TearDown() override { fs::remove(path_); }

  std::vector<std::string> reopen(std::string_view manifest = "m") {
    std::vector<std::string> records;
    const auto journal = Journal::open(path_, manifest, records);
    EXPECT_TRUE(journal) << journal.error().message;
    return records;
  }

  std::string bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }

  fs::path path_ = fs::temp_directory_path() / ("freelunch_journal_" + std::to_string(::getpid()));
};

TEST_F(JournalTest, KeepsRecordsInOrder) {
  std::vector<std::string> records;
  {
    auto journal = Journal::open(path_, "m", records).value();
    EXPECT_TRUE(journal.append("one"));
    EXPECT_TRUE(journal.append(""));
    EXPECT_TRUE(journal.append("three"));
  }
  EXPECT_THAT(reopen(), ElementsAre("one", "", "three"));
}

TEST_F(JournalTest, EveryTornEndLosesAtMostTheLastRecord) {
  {
    std::vector<std::string> records;
    auto journal = Journal::open(path_, "m", records).value();
    ASSERT_TRUE(journal.append("one"));
    ASSERT_TRUE(journal.append("two"));
  }
  const std::string whole = bytes();
  const size_t second = whole.find('\n', whole.find('\n') + 1) + 1;
  for (size_t size = second; size < whole.size(); ++size) {
    write(whole.substr(0, size));
    EXPECT_THAT(reopen(), ElementsAre("one")) << size;
    EXPECT_EQ(bytes().size(), second);
  }
}

TEST_F(JournalTest, DamageInTheMiddleIsRefusedWithItsPlace) {
  {
    std::vector<std::string> records;
    auto journal = Journal::open(path_, "m", records).value();
    ASSERT_TRUE(journal.append("one"));
    ASSERT_TRUE(journal.append("two"));
  }
  const std::string whole = bytes();
  const size_t first_end = whole.find('\n');
  for (size_t at = first_end + 1; at < whole.find('\n', first_end + 1); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    write(damaged);
    std::vector<std::string> records;
    const auto journal = Journal::open(path_, "m", records);
    ASSERT_FALSE(journal) << at;
    EXPECT_THAT(journal.error().message, HasSubstr("at byte " + std::to_string(first_end + 1)));
  }
}

TEST_F(JournalTest, AnotherManifestIsRefused) {
  reopen("model A");
  std::vector<std::string> records;
  const auto journal = Journal::open(path_, "model B", records);
  ASSERT_FALSE(journal);
  EXPECT_THAT(journal.error().message, HasSubstr("model A"));
}

TEST_F(JournalTest, OneProcessAtATime) {
  std::vector<std::string> records;
  const auto first = Journal::open(path_, "m", records).value();
  const auto second = Journal::open(path_, "m", records);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::unavailable);
}

TEST_F(JournalTest, AFullDiskKeepsWholeRecordsOnly) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    std::vector<std::string> records;
    auto journal = Journal::open(path_, "m", records).value();
    const rlimit limit{100, 100};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    bool failed = false;
    for (int i = 0; i < 10 && !failed; ++i) {
      failed = !journal.append("record " + std::to_string(i));
    }
    ::_exit(failed && !journal.append("x") ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(reopen(), ElementsAre("record 0", "record 1", "record 2"));
}

TEST_F(JournalTest, KilledAtAnyMomentItLosesNothingAcknowledged) {
  for (int round = 0; round < 20; ++round) {
    fs::remove(path_);
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      std::vector<std::string> records;
      auto journal = Journal::open(path_, "m", records).value();
      for (uint32_t i = 0;; ++i) {
        if (!journal.append("record " + std::to_string(i)) || ::write(ends[1], &i, sizeof i) != sizeof i) {
          ::_exit(1);
        }
      }
    }
    ::close(ends[1]);
    uint32_t acknowledged = 0;
    for (int i = 0; i <= round; ++i) {
      ASSERT_EQ(::read(ends[0], &acknowledged, sizeof acknowledged),
                static_cast<ssize_t>(sizeof acknowledged));
    }
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    while (::read(ends[0], &acknowledged, sizeof acknowledged) == static_cast<ssize_t>(sizeof acknowledged)) {
    }
    ::close(ends[0]);
    const std::vector<std::string> records = reopen();
    ASSERT_GE(records.size(), acknowledged + 1);
    for (size_t i = 0; i < records.size(); ++i) {
      EXPECT_EQ(records[i], "record " + std::to_string(i));
    }
  }
}

}  // namespace
}  // namespace fl
