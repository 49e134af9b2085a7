// What the prefix cache saves: positions at which requests resume, told by how many tokens they compute.
#include <gtest/gtest.h>

#include "tests/engine/harness.h"

namespace fl::engine {
namespace {

using test::FakeModel;
using test::FakeRunner;
using test::Recorder;

constexpr int32_t kVocab = 61;

std::vector<int32_t> text(int n, int salt = 0) {
  return test::hashed_text(n, salt, kVocab);
}

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Reuse : public ::testing::Test {
 protected:
  Reuse() { make({}); }
  void make(EngineOptions options) {
    options.n_ctx_slot = 16384;
    auto runner = std::make_unique<FakeRunner>(model_, runner_options(options, {}), 1, 0);
    fake_ = runner.get();
    loop_ = std::make_unique<Loop>(std::move(runner), options);
  }
  /// Runs a request to its end; returns the tokens taken from the cache and keeps the answer.
  int32_t run(const std::vector<int32_t>& prompt, int32_t max_tokens = 8,
              std::vector<int32_t> turn_ends = {}) {
    Request request;
    request.prompt = prompt;
    request.max_tokens = max_tokens;
    request.sampling.seed = 3;
    request.turn_ends = std::move(turn_ends);
    auto sink = std::make_shared<Recorder>();
    request.sink = sink;
    EXPECT_TRUE(loop_->start(test::ticket(++id_, request)));
    while (!loop_->idle()) {
      loop_->round();
    }
    EXPECT_EQ(sink->tokens, run_alone(model_, request, 16384).tokens);
    answer_ = sink->tokens;
    return sink->done.timings.cached_n;
  }
  FakeModel model_{kVocab};
  FakeRunner* fake_ = nullptr;
  std::unique_ptr<Loop> loop_;
  std::vector<int32_t> answer_;
  RequestId id_ = 0;
};

TEST_F(Reuse, AConversationGoesOnWhereItStopped) {
  std::vector<int32_t> chat = text(300);
  EXPECT_EQ(run(chat), 0);
  for (int turn = 1; turn < 5; ++turn) {
    chat = chat + answer_;
    const auto held = static_cast<int32_t>(chat.size()) - 1;  // the last token was never fed
    chat = chat + text(40, turn);
    EXPECT_EQ(run(chat), held);
  }
}

TEST_F(Reuse, TheSamePromptAgainComputesOnlyItsTail) {
  EXPECT_EQ(run(text(1000)), 0);
  EXPECT_EQ(run(text(1000)), 960);
  EXPECT_EQ(run(text(1000)), 960);
}

TEST_F(Reuse, ADroppedThoughtCostsOnlyTheLastTurn) {
  // The next prompt agrees with the old one up to 3 tokens before its end, as the family's template renders
  // it.
  for (const int n : {964, 963, 1000, 1023}) {
    make({});
    EXPECT_EQ(run(text(n), 50), 0);
    const auto next = text(n - 3) + text(200, 7);
    EXPECT_EQ(run(next), (n - 4) / 64 * 64);
  }
}

TEST_F(Reuse, TwoConversationsInOneSlotKeepBoth) {
  std::vector<int32_t> a = text(500, 1);
  std::vector<int32_t> b = text(700, 2);
  run(a);
  a = a + answer_;
  run(b);
  b = b + answer_;
  for (int turn = 0; turn < 3; ++turn) {
    auto held = static_cast<int32_t>(a.size()) - 1;
    a = a + text(30, 10 + turn);
    EXPECT_EQ(run(a), held);
    a = a + answer_;
    held = static_cast<int32_t>(b.size()) - 1;
    b = b + text(30, 20 + turn);
    EXPECT_EQ(run(b), held);
    b = b + answer_;
  }
}

TEST_F(Reuse, AStateIsSetAsideOnlyWhenItsRowIsNeeded) {
  std::vector<int32_t> a = text(60, 1);
  run(a, 3);
  a = a + answer_ + text(20, 4);
  EXPECT_EQ(run(a, 3), 62);
  EXPECT_EQ(fake_->n_copies, 1);  // a checkpoint at 64; going on costs none
  a = a + answer_;
  EXPECT_EQ(run(text(50, 2), 3), 0);
  EXPECT_EQ(fake_->n_copies, 2);  // the first one's state set aside
  EXPECT_EQ(run(a + text(20, 5), 3), static_cast<int32_t>(a.size()) - 1);
  EXPECT_EQ(fake_->n_copies, 4);  // the other one's set aside, this one's back
}

TEST_F(Reuse, ASharedSystemPromptIsFoundByTheThird) {
  const auto system = text(640, 1);
  EXPECT_EQ(run(system + text(200, 2)), 0);
  EXPECT_EQ(run(system + text(200, 3)), 0);  // diverges off any checkpoint, and leaves one there
  EXPECT_EQ(run(system + text(200, 4)), 640);
  EXPECT_EQ(run(system + text(200, 5)), 640);
}

TEST_F(Reuse, NamedTurnEndsAreFoundByTheSecond) {
  const auto system = text(650, 1);
  EXPECT_EQ(run(system + text(200, 2), 8, {650}), 0);
  EXPECT_EQ(run(system + text(200, 3)), 640);
}

TEST_F(Reuse, LongPromptsHaveCheckpointsOnTheWay) {
  const auto prompt = text(12000);
  EXPECT_EQ(run(prompt), 0);
  auto edited = prompt;
  edited[9000] = (edited[9000] + 1) % kVocab;
  EXPECT_EQ(run(edited), 8192);
}

TEST_F(Reuse, LongPromptsLeaveRoomForOthers) {
  const auto small = text(300, 9);
  run(small);
  run(text(16000));
  EXPECT_EQ(run(small), 256);
}

TEST_F(Reuse, WithoutSpareRowsOnlyExactContinuation) {
  EngineOptions options;
  options.n_checkpoints = 0;
  make(options);
  auto chat = text(300);
  EXPECT_EQ(run(chat), 0);
  chat = chat + answer_ + text(20, 5);
  EXPECT_EQ(run(chat), 307);
  EXPECT_EQ(run(text(300)), 0);
}

TEST_F(Reuse, PromptsThatArriveTogetherAreReadOnce) {
  EngineOptions options;
  options.n_slots = 4;
  make(options);
  const auto system = text(1000, 1);
  std::vector<std::shared_ptr<Recorder>> sinks;
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    Request request;
    request.prompt = i < 2 ? system : system + text(300, i);
    request.sampling.seed = i;
    request.max_tokens = 10;
    sinks.push_back(std::make_shared<Recorder>());
    request.sink = sinks.back();
    requests.push_back(request);
    ASSERT_TRUE(loop_->start(test::ticket(++id_, request)));
  }
  while (!loop_->idle()) {
    loop_->round();
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(sinks[i]->tokens, run_alone(model_, requests[i], 16384).tokens);
    EXPECT_EQ(sinks[i]->done.timings.cached_n, i == 0 ? 0 : 960);
  }
  EXPECT_EQ(fake_->n_computed, 1000 + 40 + 2 * 340 + 4 * 9);
}

TEST_F(Reuse, FollowersGoOnWhenTheirLeaderLeaves) {
  EngineOptions options;
  options.n_slots = 3;
  options.max_step_tokens = 128;
  make(options);
  std::vector<std::shared_ptr<Recorder>> sinks;
  Request request;
  request.prompt = text(1000, 1);
  request.max_tokens = 10;
  request.sampling.seed = 5;
  for (int i = 0; i < 3; ++i) {
    sinks.push_back(std::make_shared<Recorder>());
    request.sink = sinks.back();
    ASSERT_TRUE(loop_->start(test::ticket(i + 1, request)));
  }
  loop_->round();
  loop_->round();
  ASSERT_TRUE(loop_->cancel(1));
  while (!loop_->idle()) {
    loop_->round();
  }
  EXPECT_EQ(sinks[0]->done.finish, Finish::cancelled);
  const auto alone = run_alone(model_, request, 16384).tokens;
  EXPECT_EQ(sinks[1]->tokens, alone);
  EXPECT_EQ(sinks[2]->tokens, alone);
  // The second goes on where the first stopped (parked on the grid), the third follows the second.
  EXPECT_EQ(fake_->n_computed, 1000 + 40 + 2 * 9);
}

TEST_F(Reuse, StatelessSequencesLeaveNothing) {
  Request request;
  request.prompt = text(200);
  request.cache_prompt = false;
  request.max_tokens = 4;
  auto sink = std::make_shared<Recorder>();
  request.sink = sink;
  ASSERT_TRUE(loop_->start(test::ticket(1, request)));
  while (!loop_->idle()) {
    loop_->round();
  }
  EXPECT_EQ(loop_->blocks().free(), loop_->blocks().total());
  EXPECT_EQ(loop_->rows().free(), loop_->rows().total());
  EXPECT_EQ(run(text(200)), 0);
}

TEST_F(Reuse, SlotsAreChosenByContentThenByAge) {
  EngineOptions options;
  options.n_slots = 3;
  make(options);
  const auto slot_of = [&](const std::vector<int32_t>& prompt) {
    Request request;
    request.prompt = prompt;
    request.max_tokens = 2;
    auto sink = std::make_shared<Recorder>();
    request.sink = sink;
    EXPECT_TRUE(loop_->start(test::ticket(++id_, request)));
    while (!loop_->idle()) {
      loop_->round();
    }
    return sink->done.slot;
  };
  EXPECT_EQ(slot_of(text(100, 1)), 0);
  EXPECT_EQ(slot_of(text(100, 2)), 1);
  EXPECT_EQ(slot_of(text(100, 3)), 2);
  EXPECT_EQ(slot_of(text(100, 2) + text(50, 9)), 1);
  EXPECT_EQ(slot_of(text(100, 4)), 0);
  EXPECT_EQ(slot_of(text(100, 3) + text(50, 9)), 2);
}

}  // namespace
}  // namespace fl::engine
