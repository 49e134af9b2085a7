#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <random>

#include "model/batch.h"

namespace fl::engine {
namespace {

std::vector<Chunk> plan(const std::vector<PromptWork>& waiting, int32_t n_decode, StepBudget budget) {
  std::vector<Chunk> chunks;
  plan_prompts(waiting, n_decode, budget, chunks);
  return chunks;
}

TEST(Scheduler, OnePromptTakesTheWholeBudget) {
  const auto chunks = plan({{0, 1, 0, 5000, 0}}, 0, {512, 128, 1024});
  ASSERT_EQ(chunks.size(), 1U);
  EXPECT_EQ(chunks[0].n_tokens, 512);
}

TEST(Scheduler, NoMoreThanAChunkBesideRunningChats) {
  const auto chunks = plan({{0, 1, 0, 5000, 0}, {1, 2, 0, 3000, 0}}, 3, {512, 128, 1024});
  int32_t total = 0;
  for (const Chunk& chunk : chunks) {
    total += chunk.n_tokens;
  }
  EXPECT_EQ(total, 128);
}

TEST(Scheduler, ShortPromptsDoNotWaitForLongOnes) {
  const auto chunks = plan({{0, 1, 1024, 9000, 0}, {1, 2, 0, 100, 0}}, 0, {512, 512, 1024});
  ASSERT_EQ(chunks.size(), 2U);
  EXPECT_EQ(chunks[0].sequence, 0);
  EXPECT_GE(chunks[0].n_tokens, 128);
  EXPECT_EQ(chunks[1].sequence, 1);
  EXPECT_EQ(chunks[1].n_tokens, 100);
}

TEST(Scheduler, TheOldestIsNotStarved) {
  // A stream of new short prompts: the long one still gets a quarter of each step.
  int32_t position = 0;
  int steps = 0;
  for (uint64_t order = 2; position < 8000; order += 3) {
    std::vector<PromptWork> waiting{{0, 1, position, 8000, 0}};
    for (int i = 1; i <= 3; ++i) {
      waiting.push_back({i, order + i, 0, 400, 0});
    }
    const auto chunks = plan(waiting, 0, {512, 512, 1024});
    ASSERT_EQ(chunks[0].sequence, 0);
    position += chunks[0].n_tokens;
    ++steps;
  }
  EXPECT_LE(steps, 8000 / 128 + 1);
}

TEST(Scheduler, EqualPromptsFinishInTurn) {
  // Four equal prompts: the first is done when it would be alone with three quarters or more of the budget.
  std::vector<int32_t> position(4, 0);
  std::vector<int> done(4, 0);
  for (int step = 1; done[3] == 0; ++step) {
    std::vector<PromptWork> waiting;
    for (int i = 0; i < 4; ++i) {
      if (position[i] < 2048) {
        waiting.push_back({i, static_cast<uint64_t>(i), position[i], 2048, 0});
      }
    }
    for (const Chunk& chunk : plan(waiting, 0, {512, 512, 1024})) {
      position[chunk.sequence] += chunk.n_tokens;
      done[chunk.sequence] = position[chunk.sequence] == 2048 ? step : 0;
    }
  }
  EXPECT_EQ(done, (std::vector<int>{4, 8, 12, 16}));
}

TEST(Scheduler, CutsWhereACheckpointIsWanted) {
  EXPECT_EQ(plan({{0, 1, 0, 1000, 320}}, 0, {512, 512, 1024})[0].n_tokens, 320);
  EXPECT_EQ(plan({{0, 1, 0, 1000, 64}}, 0, {512, 512, 1024})[0].n_tokens, 64);
  EXPECT_EQ(plan({{0, 1, 0, 1000, 640}}, 0, {512, 512, 1024})[0].n_tokens, 512);
  EXPECT_EQ(plan({{0, 1, 320, 1000, 320}}, 0, {512, 512, 1024})[0].n_tokens, 512);
}

TEST(Scheduler, RulesHoldForRandomWork) {
  std::mt19937 rng(4);
  const auto pick = [&](int low, int high) { return low + static_cast<int>(rng() % (high - low + 1)); };
  for (int round = 0; round < 20000; ++round) {
    std::vector<PromptWork> waiting;
    const int n = pick(1, 8);
    const int n_decode = pick(0, 8);
    for (int i = 0; i < n; ++i) {
      const int end = pick(1, 3000);
      const int position = pick(0, end - 1);
      const int cut = pick(0, 1) * ((position / 64 + pick(0, 8)) * 64);
      waiting.push_back({i, rng(), position, end, cut < end ? cut : 0});
    }
    const StepBudget budget{pick(1, 1000), pick(1, 600), 16 + pick(64, 1000)};
    const auto chunks = plan(waiting, n_decode, budget);
    ASSERT_FALSE(chunks.empty());
    std::vector<int> seen(n, 0);
    int32_t total = 0;
    for (const Chunk& chunk : chunks) {
      const PromptWork& work = waiting[chunk.sequence];
      EXPECT_EQ(++seen[chunk.sequence], 1);
      ASSERT_GT(chunk.n_tokens, 0);
      const int32_t end = work.position + chunk.n_tokens;
      EXPECT_LE(end, work.end);
      EXPECT_TRUE(end == work.end || end % model::kBlockTokens == 0);
      EXPECT_FALSE(work.position < work.cut && work.cut < end);
      total += chunk.n_tokens;
    }
    EXPECT_LE(total + n_decode, budget.capacity);
    const int32_t wish =
        n_decode == 0 ? budget.step_tokens : std::min(budget.step_tokens - n_decode, budget.chunk_tokens);
    EXPECT_LE(total, std::max(wish, 64));
  }
}

}  // namespace
}  // namespace fl::engine
