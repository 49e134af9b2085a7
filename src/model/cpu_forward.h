// The forward pass of a Batch on the host, over buffers reserved once. Formulas: src/model/README.md and the
// contracts in src/kernels. All matrices meet all tokens of the step together; recurrent state and attention
// are per sequence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/gated_delta.h"
#include "kernels/rope.h"
#include "model/batch.h"
#include "model/cpu_weights.h"
#include "model/host_buffer.h"
#include "model/runner.h"

namespace fl::model {

/// Bytes of everything but the weights, from the configuration alone.
struct CpuMemoryPlan {
  uint64_t kv_cache = 0;
  uint64_t state = 0;        ///< of the rows that steps use
  uint64_t spare_state = 0;  ///< of the spare rows, behind them
  uint64_t activations = 0;
  uint64_t logits = 0;
};
CpuMemoryPlan plan_cpu_memory(const Config& config, const RunnerOptions& options, int n_threads);

class CpuForward {
 public:
  /// Reserves all memory of a step; throws std::bad_alloc. Options are complete (n_threads known).
  CpuForward(const CpuWeights& weights, const RunnerOptions& options, cpu::Isa isa, cpu::ThreadPool& pool);

  /// The batch keeps the contract of batch.h. Afterwards logits(i) belongs to the i-th row with
  /// logits_to_host.
  void run(const Batch& batch);
  std::span<const float> logits(int32_t i) const;
  /// See RowResult::maxima.
  std::span<const float> maxima(int32_t i) const;
  void copy_state(int32_t from_row, int32_t to_row);
  CpuMemoryPlan reserved() const;

 private:
  /// Query tokens of one slice that attention takes together.
  struct Tile {
    int32_t slice = 0;
    int32_t first = 0;
    int32_t n = 0;
  };

  void embed(const Batch& batch);
  void plan_step(const Batch& batch);
  /// `ahead`: of states_ahead, or null.
  void delta_layer(const Batch& batch, const CpuDeltaNet& w, int64_t delta_index, cpu::Ahead* ahead);
  void attention_layer(const Batch& batch, const CpuAttention& w, int64_t attention_index);
  /// `ahead` may be null.
  void feed_forward(const CpuFeedForward& w, int64_t n_tokens, cpu::Ahead* ahead);
  /// What the delta rule of a layer reads, for the products before it; null where nothing is worth it.
  cpu::Ahead* states_ahead(const Batch& batch, int64_t delta_index);
  /// x_ becomes the rows whose logits are asked for; normed_ has room, a runner's max_rows is at most its
  /// max_tokens.
  void keep_rows();
  void output_rows();
  float* state_of(int32_t row, int64_t delta_index) const;

  const CpuWeights& weights_;
  const Config& config_;
  const RunnerOptions options_;
  const cpu::Isa isa_;
  cpu::ThreadPool& pool_;
  const DeltaShape delta_shape_;
  const AttentionShape attention_shape_;
  const RopeTable rope_;

  HostBuffer kv_;
  HostBuffer state_;
  HostBuffer buffers_;
  HostBuffer logits_;  ///< [max_rows][n_vocab], then the maxima [max_rows][.]
  cpu::Activations activations_;
  cpu::Activations hidden_;  ///< of the feed-forward block, made while activations_ are read
  cpu::Ahead ahead_;
  std::vector<KvCache> caches_;       ///< per full-attention layer
  std::vector<int32_t> token_slice_;  ///< per token of the step
  std::vector<Tile> tiles_;
  std::vector<int32_t> row_tokens_;  ///< tokens whose logits are asked for

  // Into buffers_.
  float* x_ = nullptr;        ///< [max_tokens][n_embd] residual
  float* normed_ = nullptr;   ///< [max_tokens][n_embd]
  float* work_ = nullptr;     ///< the intermediates of one layer part, see work_floats()
  float* angles_ = nullptr;   ///< [max_tokens][rope_dims]
  float* scratch_ = nullptr;  ///< [threads][scratch_stride_]
  int64_t scratch_stride_ = 0;
};

}  // namespace fl::model
