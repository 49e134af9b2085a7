// What a journal of this and of another version means to a run that starts.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/assemble.h"
#include "report/journal_file.h"
#include "report/runner.h"
#include "tests/report/synthetic.h"

namespace fl::report {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class JournalOfAnotherVersion : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(dir_); }
  void TearDown() override { fs::remove_all(dir_); }

  // A run as format 2 wrote it: why a cell was left out stood in words.
  void begin(bool ended) {
    fs::create_directories(dir_);
    Manifest manifest = test::manifest_of({});
    manifest.journal_version = 2;
    std::vector<std::string> lines;
    Journal journal = Journal::open(fs::path(dir_) / kJournalName, to_line(manifest), lines).value();
    std::vector<std::string> records{
        R"({"type":"run","id":"20250101-000000-test","started_at":"","command":""})",
        R"({"type":"plan","ctx":1024,"chats":1,"depths":[],"repeats":3,"estimated_seconds":1.0,)"
        R"("cut":[{"code":"empty","text":"its estimated 9 s do not fit the budget of 60 s"}],"parts":1})"};
    if (ended) {
      records.emplace_back(R"({"type":"end","at":"2025-01-01T00:00:00Z"})");
    }
    for (const std::string& record : records) {
      ASSERT_TRUE(journal.append(record));
    }
  }

  bool set_aside() const { return fs::exists(fs::path(dir_) / "journal-20250101-000000-test.jsonl"); }

  std::string dir_ = testing::TempDir() + "journal-of-another-version";
};

TEST_F(JournalOfAnotherVersion, IsNotContinued) {
  begin(false);
  const auto opened = open_journal(dir_, test::manifest_of({}), false);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(opened.error().message, HasSubstr("another version of this program"));
  EXPECT_THAT(opened.error().message, HasSubstr("journal is 2, that of this one 5"));
  EXPECT_FALSE(set_aside());
}

TEST_F(JournalOfAnotherVersion, IsSetAsideWhenAsked) {
  begin(false);
  const auto opened = open_journal(dir_, test::manifest_of({}), true);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_TRUE(opened->records.empty());
  EXPECT_FALSE(opened->resumed);
  EXPECT_TRUE(set_aside());
}

TEST_F(JournalOfAnotherVersion, IsSetAsideWhenItsRunIsOver) {
  begin(true);
  const auto opened = open_journal(dir_, test::manifest_of({}), false);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_TRUE(opened->records.empty());
  EXPECT_TRUE(set_aside());
}

// The code says what it is, whatever the words: in the record, after reading it again, and in the document.
TEST(Cut, HasACode) {
  const ConfigPlan plan{16384, 1, {"half"}, 3, 1, {{"empty", kCutBudget, "no"}, {"full", kCutWindow, "no"}}};
  const Record again = record_from_line(to_line(Record(plan))).value();
  const auto& cut = std::get<ConfigPlan>(again).cut;
  ASSERT_EQ(cut.size(), 2U);
  EXPECT_EQ(cut[0].depth, "empty");
  EXPECT_EQ(cut[0].code, kCutBudget);
  test::World world;
  world.ctx = {16384};
  world.chats = {1};
  const Document document =
      assemble(test::manifest_of(world), {test::records_of(world)[0], Record(plan)}, "");
  ASSERT_EQ(document.cells.size(), 3U);
  for (const Cell& cell : document.cells) {
    EXPECT_EQ(cell.reason_code.value_or("none"), cell.depth == "empty"  ? kCutBudget
                                                 : cell.depth == "full" ? kCutWindow
                                                                        : "none");
    EXPECT_EQ(cell.status, cell.depth == "half" ? "missing" : "cut");
  }
}

}  // namespace
}  // namespace fl::report
