// What the parts of a repeat are together, foreign load, drift, what is said about cells left out and random
// weights, and a report without folders.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/assemble.h"
#include "report/format.h"
#include "report/tables.h"
#include "tests/report/synthetic.h"

namespace fl::report {
namespace {

using test::World;
using testing::ElementsAre;
using testing::HasSubstr;

World one_cell() {
  World world;
  world.ctx = {16384};
  world.chats = {1};
  world.depths = {"empty"};
  return world;
}

bool has_flag(const std::vector<Flag>& flags, std::string_view code) {
  return std::any_of(flags.begin(), flags.end(), [&](const Flag& flag) { return flag.code == code; });
}

// Half of the tokens at 100 tok/s and half at 300 take as long as all of them at 150.
TEST(Repeats, PartsCountByTheirTime) {
  const World world = one_cell();
  std::vector<Record> records{test::records_of(world)[0]};
  for (int64_t repeat = 1; repeat <= 3; ++repeat) {
    for (int64_t part = 1; part <= 2; ++part) {
      Batch batch = test::batch_of(world, 16384, 1, "empty", repeat);
      batch.part = part;
      batch.decode_total = part == 1 ? 100 : 300;
      records.push_back(batch);
    }
  }
  const Document document = assemble(test::manifest_of(world), records, "");
  const Cell& cell = document.cells.front();
  EXPECT_EQ(cell.n_repeats, 3);
  EXPECT_EQ(cell.n_requests, 6);
  EXPECT_NEAR(cell.decode_total->mean, 150, 1e-9);
  EXPECT_FALSE(has_flag(cell.flags, "spread"));
  EXPECT_THAT(repeat_rates(records, 16384, 1, "empty"), ElementsAre(150, 150, 150));
}

// Two clocks that tick apart cancel over the parts of a repeat; load that stays does not.
TEST(Repeats, ForeignLoadIsJudgedOverAWholeRepeat) {
  const World world = one_cell();
  const auto flagged = [&](double first, double second, double seconds) {
    std::vector<Record> records{test::records_of(world)[0]};
    for (int64_t i = 0; i < 6; ++i) {
      Batch batch = test::batch_of(world, 16384, 1, "empty", 1 + i / 2);
      batch.part = 1 + i % 2;
      batch.seconds = seconds;
      batch.foreign_cpu = i % 2 == 0 ? first : second;
      records.push_back(batch);
    }
    return has_flag(assemble(test::manifest_of(world), records, "").cells.front().flags, "cpu_load");
  };
  EXPECT_FALSE(flagged(0.12, -0.10, 1));
  EXPECT_TRUE(flagged(0.12, 0.02, 1));
  EXPECT_TRUE(flagged(0.12, 0.02, 0.2));    // three short repeats together
  EXPECT_FALSE(flagged(0.12, 0.02, 0.05));  // too short to tell
}

// The repeats of a cell that lie in different walks, by the order of the batches alone.
TEST(Repeats, InterleavingIsSeenInTheOrder) {
  World world;
  world.ctx = {16384, 32768};
  world.chats = {1};
  world.depths = {"empty", "full"};
  const auto walks_of = [&](const std::vector<std::pair<int64_t, int64_t>>& order) {
    std::vector<Record> records;
    for (Record& record : test::records_of(world)) {
      if (!std::holds_alternative<Batch>(record)) {
        records.push_back(record);
      }
    }
    for (const auto& [ctx, repeat] : order) {
      for (const std::string& depth : world.depths) {
        records.push_back(test::batch_of(world, ctx, 1, depth, repeat));
      }
    }
    return assemble(test::manifest_of(world), records, "").run.plan;
  };
  const Plan blocks = walks_of({{16384, 1}, {16384, 2}, {16384, 3}, {32768, 1}, {32768, 2}, {32768, 3}});
  EXPECT_EQ(blocks.walks, 1);
  const Plan three = walks_of({{16384, 1}, {32768, 1}, {16384, 2}, {32768, 2}, {16384, 3}, {32768, 3}});
  EXPECT_EQ(three.walks, 3);
  EXPECT_THAT(three.decisions, testing::Contains(HasSubstr("3 walks through the matrix")));
  const Plan two = walks_of({{16384, 1}, {32768, 1}, {32768, 2}, {16384, 2}, {16384, 3}, {32768, 3}});
  EXPECT_EQ(two.walks, 2);
  EXPECT_FALSE(walks_of({{16384, 1}, {32768, 1}}).walks.has_value());
}

TEST(Drift, AMachineThatBecameSlowerIsAWarningOfTheRun) {
  const World world;
  const auto drift_by = [&](double factor) {
    std::vector<Record> records = test::records_of(world);
    for (int64_t repeat = 1; repeat <= 3; ++repeat) {
      Batch batch = test::batch_of(world, 16384, 1, "empty", repeat);
      batch.kind = "anchor";
      batch.anchor = 15;
      *batch.decode_total *= factor;
      records.push_back(batch);
    }
    return assemble(test::manifest_of(world), records, "");
  };
  const Document same = drift_by(0.97);
  ASSERT_TRUE(same.drift.has_value());
  EXPECT_EQ(same.drift->cell, "16384x1 empty");
  ASSERT_EQ(same.drift->points.size(), 1U);
  EXPECT_NEAR(same.drift->points[0].change, -0.03, 1e-9);
  EXPECT_FALSE(has_flag(same.integrity.flags, "drift"));
  EXPECT_EQ(find_cell(same, 16384, 1, "empty")->n_repeats, 3);  // anchors are no repeats of the cell
  const Document slower = drift_by(0.9);
  EXPECT_TRUE(has_flag(slower.integrity.flags, "drift"));
  EXPECT_FALSE(assemble(test::manifest_of(world), test::records_of(world), "").drift.has_value());
}

TEST(LeftOut, IsOneSentenceForEachReason) {
  World world = one_cell();
  world.depths = {"empty", "full"};
  world.chats = {1, 2};
  std::vector<Record> records{test::records_of(world)[0]};
  const std::string time = "whatever it says";
  records.push_back(ConfigPlan{16384, 1, {"empty"}, 3, 1, {{"full", kCutBudget, time}}});
  records.push_back(
      ConfigPlan{16384, 2, {}, 3, 1, {{"empty", kCutSmall, "too small"}, {"full", kCutSmall, "too small"}}});
  Manifest manifest = test::manifest_of(world);
  manifest.options.budget_seconds = 60;
  EXPECT_THAT(assemble(manifest, records, "").run.plan.decisions,
              ElementsAre("left out to stay within the budget of 60 s: 16k with 1 chat (full)",
                          "too small: 16k with 2 chats"));
}

TEST(RandomWeights, AreSaidInThePlaceOfTheScore) {
  Manifest manifest = test::manifest_of({});
  manifest.model.random_weights = true;
  const Document document = assemble(manifest, test::records_of({}), "");
  ASSERT_TRUE(document.quality.has_value());
  EXPECT_FALSE(document.quality->measured);
  const std::vector<Figure> shown = figures(document);
  EXPECT_TRUE(std::any_of(shown.begin(), shown.end(), [](const Figure& figure) {
    return figure.label == std::string("Correct answers") && figure.value == "random weights";
  }));
}

TEST(Folders, LeaveEveryText) {
  Document document = assemble(test::manifest_of({}), test::records_of({}), "");
  document.integrity.flags.push_back({"server", "cannot open /models/a/b.gguf of /models"});
  const std::string json = to_json(without_folders(document, {"/models", "/models/a", "/usr/bin", "", "/"}));
  EXPECT_THAT(json, testing::Not(HasSubstr("/models/")));
  EXPECT_THAT(json, testing::Not(HasSubstr("/usr/bin/freelunch serve --model")));
  EXPECT_THAT(json, HasSubstr("cannot open b.gguf of /models"));
  EXPECT_THAT(json, HasSubstr("test 27B.gguf"));
}

}  // namespace
}  // namespace fl::report
