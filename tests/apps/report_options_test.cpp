// The flags of `freelunch report` and what stands for those that are not given.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/report/options.h"

namespace fl::apps::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kKibi = 1024;

std::vector<int64_t> contexts(int64_t ctx_train, const Flags& flags = {}) {
  const auto options = run_options(flags, "freelunch", ctx_train);
  return options ? options->ctx : std::vector<int64_t>{};
}

TEST(ReportOptions, FiveContextsThatTheModelHolds) {
  const auto usual = ElementsAre(16 * kKibi, 32 * kKibi, 64 * kKibi, 96 * kKibi, 128 * kKibi);
  EXPECT_THAT(contexts(128 * kKibi), usual);
  EXPECT_THAT(contexts(256 * kKibi), usual);
  EXPECT_THAT(contexts(0), usual);  // not known: a peer's model
  EXPECT_THAT(contexts(8 * kKibi), ElementsAre(1 * kKibi, 2 * kKibi, 4 * kKibi, 6 * kKibi, 8 * kKibi));
  EXPECT_THAT(contexts(40000), ElementsAre(5000, 10000, 20000, 30000, 40000));
  Flags running;
  running.url = "http://127.0.0.1:1";
  EXPECT_TRUE(contexts(0, running).empty());  // it is asked
}

TEST(ReportOptions, TheDefaults) {
  const auto options = run_options({}, "freelunch", 8 * kKibi);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->budget_seconds, 20 * 60);
  EXPECT_THAT(options->chats, ElementsAre(1, 2, 4));
  EXPECT_THAT(options->depths, ElementsAre("empty", "half", "full"));
  EXPECT_EQ(options->repeats, 3);
}

TEST(ReportOptions, ContextsOfWhichNoneFitsAreRefused) {
  Flags flags;
  flags.ctx = "64k,128k";
  const auto refused = run_options(flags, "freelunch", 8 * kKibi);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(refused.error().message, HasSubstr("trained for 8192 tokens; at most 32768"));
  // 32k is 8k for each of four chats: that cell can be measured.
  flags.ctx = "32k,64k";
  EXPECT_THAT(contexts(8 * kKibi, flags), ElementsAre(32 * kKibi, 64 * kKibi));
  flags.server_command = "peer {ctx} {chats} {port}";  // decides itself
  flags.ctx = "64k";
  EXPECT_THAT(contexts(8 * kKibi, flags), ElementsAre(64 * kKibi));
}

}  // namespace
}  // namespace fl::apps::report
