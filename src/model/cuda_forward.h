// The forward pass of a Batch on the device: the same as cpu_forward.h, over memory reserved once, enqueued
// on one stream. Formulas: src/model/README.md and the contracts in src/kernels.
//
// Steps of one token a sequence run as recorded graphs, one for each of a few batch sizes. Steps of few
// tokens (Matmul::finishes_norm) leave the norm to the products (kernels/cuda/matmul.h, RmsScale): five
// launches a DeltaNet layer, six an attention layer, one less each where a product's input needs no kernel of
// its own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/cuda/runtime.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/gated_delta.h"
#include "kernels/cuda/matmul.h"
#include "kernels/rope.h"
#include "model/batch.h"
#include "model/cuda_state.h"
#include "model/cuda_step.h"
#include "model/cuda_weights.h"
#include "model/runner.h"

namespace fl::model {

/// Device bytes of everything but the weights, from the configuration alone.
struct CudaMemoryPlan {
  uint64_t kv_cache = 0;
  uint64_t state = 0;  ///< of the rows that steps use
  uint64_t activations = 0;
  uint64_t logits = 0;
  uint64_t workspace = 0;  ///< of the products and of attention's partial results
  uint64_t tables = 0;
  uint64_t spare_state = 0;  ///< page-locked host memory: the rows that only hold copies
  uint64_t host = 0;         ///< page-locked: results and tables in flight
  uint64_t device() const { return kv_cache + state + activations + logits + workspace + tables; }
};
CudaMemoryPlan plan_cuda_memory(const Config& config, const RunnerOptions& options);

/// Steps that may be submitted before the first is read.
inline constexpr int kCudaInFlight = 2;

class CudaForward {
 public:
  /// Reserves all memory and records the graphs; throws cuda::DeviceFailure.
  CudaForward(const CudaWeights& weights, const RunnerOptions& options, const cuda::DeviceInfo& device);
  ~CudaForward();
  CudaForward(const CudaForward&) = delete;
  CudaForward& operator=(const CudaForward&) = delete;

  /// Enqueues a step that keeps the contract of batch.h, its results for `slot` in [0, kCudaInFlight).
  void enqueue(const Batch& batch, int slot);
  /// Waits for the step of `slot`.
  void wait(int slot);
  /// Of the finished step: the token sampled for a row (-1: none), the logits of the i-th row with
  /// logits_to_host.
  int32_t token(int slot, int32_t row) const;
  std::span<const float> logits(int slot, int32_t i) const;

  void copy_state(int32_t from_row, int32_t to_row) { state_.copy(stream_, from_row, to_row); }
  CudaMemoryPlan reserved() const { return plan_; }
  std::string describe_products() const { return matmul_->describe(); }
  cuda::Stream& stream() { return stream_; }

  /// Where everything lies in the buffer of activations.
  struct Work;

 private:
  /// Rows of x that go on, and how their norm is finished.
  struct Normed {
    cuda::Activations activations;
    cuda::RmsScale scale;
  };

  void record_graphs();
  void launches(const StepCounts& counts, const StepTable& table);
  void delta_layer(const CudaDeltaNet& w, int64_t index, const Normed& in, const StepCounts& counts,
                   const StepTable& table, const cuda::Activations& out);
  void attention_layer(const CudaAttention& w, int64_t index, const Normed& in, const StepCounts& counts,
                       const StepTable& table, const cuda::Activations& out);
  Normed norm(const float* x, const float* w, int32_t n_tokens, bool prompt);
  /// x += in W^T, then the norm of x with `w`.
  Normed add_and_norm(const cuda::Activations& in, const cuda::PackedMatrix& matrix, float* x, const float* w,
                      const cuda::NextProduct& next);
  cuda::Activations activations(std::byte* data, int32_t n_tokens, int64_t cols, bool prompt) const;
  cuda::Queue queue() const { return {stream_.get(), overlap_}; }

  const CudaWeights& weights_;
  const Config& config_;
  const RunnerOptions options_;
  const CudaMemoryPlan plan_;
  const DeltaShape delta_shape_;
  const AttentionShape attention_shape_;
  const bool chunked_;
  bool decode_stores_ = false;  ///< fill_step
  RopeTable rope_;
  bool overlap_ = false;

  cuda::Stream stream_;
  CudaState state_;
  cuda::DeviceBuffer kv_, buffers_, logits_, workspace_, tables_;
  cuda::PinnedBuffer host_tables_, host_tokens_, host_logits_;
  std::unique_ptr<cuda::Matmul> matmul_;
  std::vector<KvCache> caches_;
  std::vector<cuda::Event> done_;          ///< per slot
  std::map<int32_t, cuda::Graph> graphs_;  ///< by tokens of the step
  std::unique_ptr<Work> work_;
  uint64_t table_stride_ = 0;  ///< bytes of a slot's table on the host
};

}  // namespace fl::model
