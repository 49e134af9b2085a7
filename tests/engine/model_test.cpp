// The engine on a real, tiny model on the CPU: what a request answers, to the last bit of its
// log-probabilities, depends on no neighbour, no chunk, no slot and no cache hit.
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <random>

#include "engine/engine.h"
#include "tests/engine/harness.h"
#include "tests/model/harness.h"
#include "tests/support/tolerances.h"

namespace fl::engine {
namespace {

using test::Recorder;
using test::TinyModel;

constexpr int32_t kContext = 1024;

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<std::vector<TokenProb>> top;
  int32_t cached = 0;
};

bool same_bits(const Answer& a, const Answer& b) {
  if (a.tokens != b.tokens || a.top.size() != b.top.size()) {
    return false;
  }
  for (size_t i = 0; i < a.top.size(); ++i) {
    if (!std::ranges::equal(a.top[i], b.top[i], [](const TokenProb& x, const TokenProb& y) {
          return x.token == y.token && x.logprob == y.logprob;
        })) {
      return false;
    }
  }
  return true;
}

class RealModel : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    spdlog::set_level(spdlog::level::warn);
    ASSERT_TRUE(test::draft_model(TinyModel{}).write(file_.path()).has_value());
  }
  std::unique_ptr<Engine> engine(EngineOptions options) {
    options.n_ctx_slot = kContext;
    model::RunnerOptions base;
    base.n_threads = 1;  // results do not depend on it, and the suite runs on busy machines
    base.kv_type_k = base.kv_type_v = GetParam();
    auto runner = test::load(file_.path(), runner_options(options, base));
    EXPECT_TRUE(runner.has_value()) << (runner ? "" : runner.error().message);
    return std::make_unique<Engine>(std::move(*runner), options);
  }
  static Request request(std::vector<int32_t> prompt, int32_t max_tokens, uint32_t seed) {
    Request r;
    r.prompt = std::move(prompt);
    r.max_tokens = max_tokens;
    r.n_probs = 5;
    r.sampling.seed = seed;
    r.sampling.temperature = seed % 2 == 0 ? 0.0F : 0.9F;
    r.sampling.top_k = 20;
    return r;
  }
  static Answer wait(Recorder& sink) {
    EXPECT_TRUE(sink.wait());
    EXPECT_NE(sink.done.finish, Finish::error) << sink.done.error;
    Answer answer;
    answer.tokens = sink.tokens;
    for (const TokenEvent& event : sink.events) {
      answer.top.push_back(event.top);
    }
    answer.cached = sink.done.timings.cached_n;
    return answer;
  }
  static Answer ask(Engine& engine, Request r) {
    auto sink = std::make_shared<Recorder>();
    r.sink = sink;
    EXPECT_TRUE(engine.submit(std::move(r)).has_value());
    return wait(*sink);
  }
  Answer alone(Request r) {
    auto fresh = engine({});
    r.cache_prompt = false;
    return ask(*fresh, std::move(r));
  }
  static std::vector<int32_t> text(int64_t n, uint64_t seed = 1) {
    TinyModel shape;
    shape.seed = seed;
    return test::tiny_prompt(shape, n);
  }
  test::TempFile file_;
};

TEST_P(RealModel, BatchedIsAlone) {
  std::vector<Request> requests;
  std::vector<Answer> expected;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(request(text(3 + 61 * i, 1 + i), 12 + i, i));
    expected.push_back(alone(requests.back()));
  }
  for (const int32_t chunk : {64, 128, 512}) {
    EngineOptions options;
    options.n_slots = 4;
    options.max_step_tokens = 2 * chunk;
    options.max_chunk_tokens = chunk;
    options.cache_generated = false;
    auto together = engine(options);
    std::vector<std::shared_ptr<Recorder>> sinks;
    for (Request r : requests) {
      sinks.push_back(std::make_shared<Recorder>());
      r.sink = sinks.back();
      ASSERT_TRUE(together->submit(std::move(r)).has_value());
    }
    for (size_t i = 0; i < sinks.size(); ++i) {
      EXPECT_TRUE(same_bits(wait(*sinks[i]), expected[i])) << "request " << i << ", chunks of " << chunk;
    }
  }
}

TEST_P(RealModel, ResumedIsCold) {
  EngineOptions options;
  options.n_slots = 2;
  options.cache_generated = false;
  auto shared = engine(options);
  const auto first = text(500);
  ask(*shared, request(first, 20, 1));
  for (const int keep : {497, 500, 400, 320, 449}) {
    auto prompt = first;
    prompt.resize(keep);
    const auto more = text(150, 100 + keep);
    prompt.insert(prompt.end(), more.begin(), more.end());
    for (const uint32_t seed : {2U, 3U}) {
      const Answer warm = ask(*shared, request(prompt, 15, seed));
      if (seed == 3) {
        EXPECT_GT(warm.cached, 0) << keep;
      }
      EXPECT_TRUE(same_bits(warm, alone(request(prompt, 15, seed)))) << "kept " << keep << " seed " << seed;
    }
  }
  EXPECT_GT(shared->stats().cached_tokens, 2000U);
}

TEST_P(RealModel, RandomTrafficIsColdAndAlone) {
  EngineOptions options;
  options.n_slots = 3;
  options.max_step_tokens = 192;
  options.max_chunk_tokens = 64;
  options.n_checkpoints = 4;
  options.cache_generated = false;
  auto shared = engine(options);
  std::mt19937 rng(6);
  std::vector<Request> requests;
  std::vector<std::shared_ptr<Recorder>> sinks;
  const auto stem = text(300);
  for (int i = 0; i < 24; ++i) {
    auto prompt = stem;
    prompt.resize(1 + rng() % 300);
    const auto more = text(1 + rng() % 120, 50 + i);
    prompt.insert(prompt.end(), more.begin(), more.end());
    requests.push_back(request(prompt, 1 + static_cast<int32_t>(rng() % 20), i));
    sinks.push_back(std::make_shared<Recorder>());
    Request r = requests.back();
    r.sink = sinks.back();
    ASSERT_TRUE(shared->submit(std::move(r)).has_value());
    if (rng() % 3 == 0) {
      sinks.back()->wait();
    }
  }
  int32_t cached = 0;
  for (size_t i = 0; i < sinks.size(); ++i) {
    const Answer answer = wait(*sinks[i]);
    cached += answer.cached;
    EXPECT_TRUE(same_bits(answer, alone(requests[i]))) << "request " << i;
  }
  EXPECT_GT(cached, 500);
}

TEST_P(RealModel, AConversationGoesOnWithinRounding) {
  // What was generated token by token is continued as it is: the same text, and log-probabilities within
  // rounding.
  auto shared = engine({});
  std::vector<int32_t> chat = text(200);
  for (int turn = 0; turn < 3; ++turn) {
    const Answer warm = ask(*shared, request(chat, 30, 2));
    const Answer cold = alone(request(chat, 30, 2));
    EXPECT_EQ(warm.cached, turn == 0 ? 0 : static_cast<int32_t>(chat.size()) - 21);
    ASSERT_FALSE(warm.top.empty());
    for (size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(warm.top[0][k].token, cold.top[0][k].token);
      EXPECT_NEAR(warm.top[0][k].logprob, cold.top[0][k].logprob,
                  10 * (GetParam() == DType::f32 ? test::kOfficialLogits : test::kQ8Kv));
    }
    const auto more = text(20, 30 + turn);
    chat.insert(chat.end(), warm.tokens.begin(), warm.tokens.end());
    chat.insert(chat.end(), more.begin(), more.end());
  }
}

INSTANTIATE_TEST_SUITE_P(KvTypes, RealModel, ::testing::Values(DType::f32, DType::q8_0),
                         [](const auto& kind) { return kind.param == DType::f32 ? "f32" : "q8_0"; });

}  // namespace
}  // namespace fl::engine
