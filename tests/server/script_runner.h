// A model that says what a test wrote: '#' and a digit in the prompt choose a script, whose tokens follow the
// prompt. Without one it babbles letters that depend on every token before. Its memory is a state row, like a
// recurrent model's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "model/runner.h"

namespace fl::test {

struct Scripts {
  std::vector<std::vector<int32_t>> answers;  ///< by digit; each is followed by `eos`
  int32_t n_vocab = 0;
  int32_t eos = 0;
  int32_t hash = '#', digit0 = '0';  ///< ids of '#' and of '0' (the next nine follow)
  int32_t first_letter = 'a';        ///< of 26 ids to babble with
};

class ScriptRunner final : public model::Runner {
 public:
  /// What tests turn while the engine runs.
  struct Controls {
    std::atomic<int> step_us{0};      ///< a step takes this long
    std::atomic<bool> held{false};    ///< steps wait while this is set
    std::atomic<bool> broken{false};  ///< steps throw
    std::atomic<bool> lost{false};    ///< steps throw: the device is lost
    std::atomic<int64_t> n_steps{0};
  };

  ScriptRunner(Scripts scripts, const model::RunnerOptions& options, std::shared_ptr<Controls> controls);
  const model::Config& config() const override { return config_; }
  const model::Capacity& capacity() const override { return capacity_; }
  std::string describe() const override { return "script"; }
  std::vector<model::MemoryItem> memory() const override { return {}; }
  void submit(const model::Batch& batch) override;
  std::span<const model::RowResult> collect() override;
  void copy_state(int32_t from_row, int32_t to_row) override;

 private:
  struct State {
    int32_t last = -1;
    int32_t script = -1;
    int32_t offset = 0;
    uint64_t hash = 0;
  };
  int32_t next(State& state) const;

  Scripts scripts_;
  std::shared_ptr<Controls> controls_;
  model::Config config_;
  model::Capacity capacity_;
  std::vector<State> rows_;
  std::vector<std::vector<float>> logits_;
  std::vector<model::RowResult> results_;
};

}  // namespace fl::test
