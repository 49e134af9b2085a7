// The engine on the device, one step ahead with tokens that stay there, against the same requests alone and
// sampled on the host. One chat after the other gives the same answers to the last bit, however its prompts
// are cut (docs/decisions/0082). Beside other chats' prompts a token takes the products of prompts, which
// round differently (0073): an answer may leave the other one where two tokens are as good as equal, and only
// there.
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <random>

#include "engine/engine.h"
#include "tests/engine/harness.h"
#include "tests/model/harness.h"
#include "tests/support/device.h"

namespace fl::engine {
namespace {

using test::Recorder;

constexpr int32_t kContext = 1024;
/// Log-probabilities closer than this are as good as equal: logits of a few units with errors of 1e-2 of the
/// largest.
constexpr float kNearTie = 0.1F;

class CudaEngine : public test::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    spdlog::set_level(spdlog::level::warn);
    shape_.seed = 5;
    shape_.hidden = 256;
    shape_.ff = 512;
    shape_.heads = 6;
    shape_.kv_heads = 1;
    shape_.head_dim = 256;
    shape_.key_heads = 2;
    shape_.value_heads = 6;
    shape_.key_dim = shape_.value_dim = 128;
    shape_.sections = {11, 11, 10};
    test::Draft draft = test::draft_model(shape_);
    draft.quantise(DType::q4_k);
    ASSERT_TRUE(draft.write(file_.path()).has_value());
  }
  std::unique_ptr<Engine> engine(EngineOptions options) {
    options.n_ctx_slot = kContext;
    model::RunnerOptions base;
    base.kv_type_k = base.kv_type_v = DType::q8_0;
    const auto opened = gguf::File::open(file_.path());
    const auto weights = model::Weights::bind(*opened);
    auto runner = model::make_cuda_runner(*weights, runner_options(options, base));
    EXPECT_TRUE(runner.has_value()) << (runner ? "" : runner.error().message);
    return std::make_unique<Engine>(std::move(*runner), options);
  }
  Request request(int64_t n_prompt, int32_t max_tokens, uint64_t seed, bool on_host) {
    test::TinyModel prompt = shape_;
    prompt.seed = seed;
    Request r;
    r.prompt = test::tiny_prompt(prompt, n_prompt);
    r.max_tokens = max_tokens;
    r.n_probs = on_host ? 3 : 0;  // probabilities need the logits on the host
    r.sampling.temperature = 0.0F;
    return r;
  }
  test::TinyModel shape_;
  test::TempFile file_;
};

TEST_F(CudaEngine, RandomSchedulesAnswerAsAlone) {
  constexpr int kRequests = 12;
  std::mt19937 random(17);
  std::uniform_int_distribution<int64_t> lengths(1, 400);
  std::uniform_int_distribution<int32_t> answers(1, 40);
  struct Shape {
    int64_t n_prompt;
    int32_t max_tokens;
  };
  std::vector<Shape> shapes;
  std::vector<std::shared_ptr<Recorder>> alone;
  for (int i = 0; i < kRequests; ++i) {
    shapes.push_back({lengths(random), answers(random)});
  }
  {
    auto one = engine({});
    for (int i = 0; i < kRequests; ++i) {
      Request r = request(shapes[i].n_prompt, shapes[i].max_tokens, static_cast<uint64_t>(i), true);
      r.cache_prompt = false;
      alone.push_back(std::make_shared<Recorder>());
      r.sink = alone.back();
      ASSERT_TRUE(one->submit(std::move(r)).has_value());
      ASSERT_TRUE(alone.back()->wait());
      ASSERT_NE(alone.back()->done.finish, Finish::error) << alone.back()->done.error;
    }
  }
  for (const int32_t n_slots : {1, 3, 5}) {
    EngineOptions options;
    options.n_slots = n_slots;
    options.max_step_tokens = 256;
    options.max_chunk_tokens = 128;
    auto together = engine(options);
    const std::string how = together->runner().describe();
    const bool exact = how.find("cuBLASLt") == std::string::npos || how.find("int8") != std::string::npos;
    std::vector<std::shared_ptr<Recorder>> sinks;
    std::vector<int> order(kRequests);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (const int i : order) {
      Request r = request(shapes[i].n_prompt, shapes[i].max_tokens, static_cast<uint64_t>(i), i % 4 == 3);
      sinks.push_back(std::make_shared<Recorder>());
      r.sink = sinks.back();
      ASSERT_TRUE(together->submit(std::move(r)).has_value());
    }
    for (size_t at = 0; at < sinks.size(); ++at) {
      Recorder& got = *sinks[at];
      const Recorder& want = *alone[static_cast<size_t>(order[at])];
      ASSERT_TRUE(got.wait());
      EXPECT_NE(got.done.finish, Finish::error) << got.done.error;
      ASSERT_EQ(got.tokens.size(), want.tokens.size()) << "request " << order[at];
      for (size_t t = 0; t < want.tokens.size(); ++t) {
        if (got.tokens[t] != want.tokens[t]) {
          EXPECT_FALSE(n_slots == 1 && exact) << "request " << order[at] << ", token " << t;
          const auto& top = want.events[t].top;
          EXPECT_LT(top[0].logprob - top[1].logprob, kNearTie)
              << "request " << order[at] << " with " << n_slots << " slots leaves its answer at token " << t;
          break;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fl::engine
