// A model without arithmetic: its logits are a hash of every token so far, read back through the state row
// and the KV blocks that the engine names. Any mix-up of rows, blocks, checkpoints, positions or feedback
// changes the output.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "model/runner.h"

namespace fl::test {

/// What the fake computes, from the tokens alone: the oracle.
class FakeModel {
 public:
  /// `lineage`: what is computed token by token, or from the middle of a block, differs from what a chunk on
  /// the grid gives, as rounding makes it differ in a real model.
  explicit FakeModel(int32_t n_vocab, uint64_t seed = 1, bool lineage = false)
      : n_vocab_(n_vocab), seed_(seed), lineage_(lineage) {}
  static uint64_t mix(uint64_t a, uint64_t b);
  /// The state after `token` at `index`, computed in a slice that begins at `start`.
  uint64_t next_state(uint64_t state, int32_t token, int32_t index, int32_t start) const;
  /// What the KV cache keeps of that token.
  static uint64_t kv_entry(uint64_t state) { return mix(state, 0x9B1D); }
  /// Adds an entry to the attention over all of them.
  static uint64_t attend(uint64_t sum, uint64_t entry, int32_t index) { return sum + mix(entry, index); }
  void logits(uint64_t state, uint64_t attention, std::span<float> out) const;
  std::vector<float> logits_after(std::span<const int32_t> tokens) const;
  int32_t n_vocab() const { return n_vocab_; }

 private:
  int32_t n_vocab_;
  uint64_t seed_;
  bool lineage_;
};

class FakeRunner final : public model::Runner {
 public:
  static constexpr int32_t kDeviceBias = 4;  ///< Capacity::max_device_bias where it samples

  /// `device_top_k` and `in_flight` as in Capacity.
  FakeRunner(const FakeModel& model, const model::RunnerOptions& options, int32_t in_flight,
             int32_t device_top_k);

  const model::Config& config() const override { return config_; }
  const model::Capacity& capacity() const override { return capacity_; }
  std::string describe() const override { return "fake"; }
  std::vector<model::MemoryItem> memory() const override { return {}; }
  void submit(const model::Batch& batch) override;
  std::span<const model::RowResult> collect() override;
  void copy_state(int32_t from_row, int32_t to_row) override;

  struct Slice {
    int32_t n_cached = 0;
    int32_t n_tokens = 0;
  };
  struct Seen {
    std::vector<Slice> slices;
    int32_t n_tokens = 0;
    int32_t n_copies_before = 0;
  };
  /// Called with what a step holds.
  std::function<void(const Seen&)> on_step;
  /// Called before each operation with its kind ('s'ubmit, 'c'ollect, 'k' copy); may throw.
  std::function<void(char)> fault;
  /// Called for each row's logits before they are used.
  std::function<void(std::span<float>)> spoil;

  int32_t n_submitted = 0;
  int32_t n_copies = 0;
  int64_t n_computed = 0;  ///< tokens
  size_t max_flying = 0;

 private:
  struct State {
    uint64_t hash = 0;
    uint64_t attention = 0;  ///< over the entries that were made with it
    int32_t n_tokens = 0;
  };
  struct Step {
    std::vector<int32_t> sampled;
    std::vector<std::vector<float>> logits;
  };
  static int32_t sample(std::vector<float> logits, const model::DeviceSampling& how);

  FakeModel model_;
  model::Config config_;
  model::Capacity capacity_;
  std::vector<State> rows_;
  std::vector<std::array<uint64_t, model::kBlockTokens>> blocks_;
  std::deque<Step> flying_;
  std::vector<int32_t> previous_;  ///< tokens sampled by the step submitted last
  Step collected_;
  std::vector<model::RowResult> results_;
};

}  // namespace fl::test
