#include "apps/bench/measure.h"

#include <gtest/gtest.h>

namespace fl::apps::bench {
namespace {

// Chooses token 1 for every row, and token 2 for those of the steps in `strange`.
class OneTokenRunner final : public model::Runner {
 public:
  OneTokenRunner() {
    config_.n_vocab = 8;
    capacity_.max_in_flight = 2;
    capacity_.max_device_top_k = 1;
  }
  const model::Config& config() const override { return config_; }
  const model::Capacity& capacity() const override { return capacity_; }
  std::string describe() const override { return "one token"; }
  std::vector<model::MemoryItem> memory() const override { return {}; }
  void submit(const model::Batch& batch) override {
    ++n_steps;
    flying_.emplace_back(batch.rows.size(), model::RowResult{n_steps == strange ? 2 : 1, {}, {}});
  }
  std::span<const model::RowResult> collect() override {
    collected_ = flying_.front();
    flying_.erase(flying_.begin());
    return collected_;
  }
  void copy_state(int32_t, int32_t) override {}

  int n_steps = 0;
  int strange = -1;  ///< number of the step whose tokens are others

 private:
  model::Config config_;
  model::Capacity capacity_;
  std::vector<std::vector<model::RowResult>> flying_;
  std::vector<model::RowResult> collected_;
};

Test three_chats() {
  Test test;
  test.n_gen = 4;
  test.n_parallel = 3;
  return test;
}

TEST(BenchMeasure, RepetitionsThatAgree) {
  OneTokenRunner runner;
  const Measured measured = measure(runner, three_chats(), 5, 1);
  EXPECT_EQ(measured.n_differing, 0);
  EXPECT_EQ(measured.rates.size(), 5U);
  EXPECT_EQ(runner.n_steps, 1 + 5 * 4);  // a warm-up of one step
}

TEST(BenchMeasure, ARepetitionWithOtherTokensIsCounted) {
  const uint64_t usual = [] {
    OneTokenRunner runner;
    return measure(runner, three_chats(), 5, 1).tokens_hash;
  }();
  OneTokenRunner runner;
  runner.strange = 1 + 2 * 4 + 3;  // in the third repetition
  const Measured one = measure(runner, three_chats(), 5, 1);
  EXPECT_EQ(one.n_differing, 1);
  EXPECT_NE(one.tokens_hash, usual);
  OneTokenRunner first;
  first.strange = 2;  // the first is what the others are compared with
  EXPECT_EQ(measure(first, three_chats(), 5, 1).n_differing, 4);
}

}  // namespace
}  // namespace fl::apps::bench
