// A step allocates nothing: counted by this program's operator new while the loop runs.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "tests/engine/harness.h"

namespace {
thread_local bool counting = false;
thread_local int64_t allocations = 0;
}  // namespace

// Not inlined: the compiler would take malloc and delete for a mismatched pair.
[[gnu::noinline]] void* operator new(size_t size) {
  allocations += counting ? 1 : 0;
  if (void* p = std::malloc(size == 0 ? 1 : size)) {
    return p;
  }
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  allocations += counting ? 1 : 0;
  return std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept {
  std::free(p);
}

namespace fl::engine {
namespace {

constexpr int32_t kVocab = 61;

/// The fake allocates as it likes; that does not count.
class Uncounted final : public model::Runner {
 public:
  explicit Uncounted(std::unique_ptr<model::Runner> inner) : inner_(std::move(inner)) {}
  const model::Config& config() const override { return inner_->config(); }
  const model::Capacity& capacity() const override { return inner_->capacity(); }
  std::string describe() const override { return inner_->describe(); }
  std::vector<model::MemoryItem> memory() const override { return {}; }
  void submit(const model::Batch& batch) override {
    const Pause pause;
    inner_->submit(batch);
  }
  std::span<const model::RowResult> collect() override {
    const Pause pause;
    return inner_->collect();
  }
  void copy_state(int32_t from, int32_t to) override { inner_->copy_state(from, to); }

 private:
  struct Pause {
    bool was = counting;
    Pause() { counting = false; }
    ~Pause() { counting = was; }
  };
  std::unique_ptr<model::Runner> inner_;
};

struct QuietSink final : Sink {
  bool ready() override { return true; }
  void on_prompt(int32_t, int32_t, int32_t) override {}
  void on_token(const TokenEvent&) override {}
  void on_done(const DoneEvent&) override {}
};

TEST(Allocation, NoneInAStep) {
  const test::FakeModel model(kVocab);
  for (const bool device : {false, true}) {
    EngineOptions options;
    options.n_slots = 3;
    options.n_ctx_slot = 2048;
    options.max_step_tokens = 256;
    auto fake = std::make_unique<test::FakeRunner>(model, runner_options(options, {}), device ? 2 : 1,
                                                   device ? 40 : 0);
    Loop loop(std::make_unique<Uncounted>(std::move(fake)), options);
    for (int i = 0; i < 3; ++i) {
      Request request;
      request.prompt.assign(1000 + i, i);
      request.max_tokens = 400;
      request.sampling.seed = i;
      if (!device) {
        request.sampling.presence_penalty = 0.5F;
        request.sampling.top_p = 0.9F;
        request.sampling.dry_multiplier = i == 2 ? 0.8F : 0.0F;
        request.sampling.dry_penalty_last_n = 64;
        request.n_probs = i == 1 ? 3 : 0;
        request.sampling.mirostat = i == 1 ? 2 : 0;
      }
      request.sink = std::make_shared<QuietSink>();
      ASSERT_TRUE(loop.start(test::ticket(i + 1, request)));
    }
    // The first tokens may still take their working memory; prompts, blocks, checkpoints and the rest may
    // not.
    for (int i = 0; i < 40; ++i) {
      loop.round();
    }
    allocations = 0;
    counting = true;
    for (int i = 0; i < 300; ++i) {
      ASSERT_TRUE(loop.round());
      loop.publish(0);
    }
    counting = false;
    EXPECT_EQ(allocations, 0) << (device ? "device" : "host");
  }
}

}  // namespace
}  // namespace fl::engine
