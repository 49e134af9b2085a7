// Products of kLeastBatchTokens to kMostBatchTokens tokens on sm_90, several of them in one launch: wgmma as
// in matmul_prompt.h, for so few tokens that bytes, decoding and the borders of launches decide.
//
// A launch is a chain of phases, each a product whose input the phase before may have written. All blocks are
// resident, one an SM; between phases they wait for one another at a counter in device memory. Weights need
// nothing of earlier phases: the warp that brings them runs ahead through all phases, as far as its ring has
// room, so that memory stays busy while sums are put together, written and waited for. Two such launches at
// once on one device, from two streams, could each hold SMs that the other needs: a process has one at a
// time.
//
// Each phase's groups of 128 rows lie one behind the other, and every block has an equal, contiguous share of
// their bytes, cut at superblocks. The block with the start of a group adds the parts of the others in order.
// So bits follow from the shapes, the number of tokens and the chip, never from timing.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <span>

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

enum class BatchEpilogue : int32_t {
  store,
  add,
  add_and_norm,
  swiglu,       ///< gate and up side by side
  keep_gate,    ///< gate alone, 16-bit, where the result will be
  swiglu_kept,  ///< up, with the gate that lies there
};

struct BatchSegment {
  const uint8_t* w;
  const uint8_t* w_up;  ///< swiglu
  float* y;
  int64_t stride;      ///< floats
  int32_t type;        ///< PackedType
  int32_t tile_bytes;  ///< of this type
  int32_t rows;
  int32_t first;        ///< groups of the segments before it
  uint32_t first_cost;  ///< cost of the segments before it
  uint32_t cost;        ///< of a group's superblock, in 16-byte pieces
};

struct BatchPhase {
  BatchSegment segments[Matmul::kMaxOutputs];
  int32_t n_segments;
  BatchEpilogue epilogue;
  int32_t n_superblocks;
  int32_t n_groups;
  uint32_t cost;
  uint32_t cost_per_block;
  RmsScale scale;
  // activations that swiglu and add_and_norm write
  std::byte* out;
  int32_t out_padded_cols;
  const float* norm_weight;
  float* sum_of_squares;
};

inline constexpr int kMaxBatchPhases = 5;
/// Where this kernel overtakes the one of the steps of few tokens (docs/decisions/0077).
inline constexpr int kLeastBatchTokens = 9;
inline constexpr int kMostBatchTokens = 64;
inline constexpr int kBatchGroupTiles =
    8;  ///< tiles of 16 rows in a group; for swiglu four of gate, four of up

struct BatchParams {
  BatchPhase phases[kMaxBatchPhases];
  int32_t n_phases;
  int32_t n_tokens;
  float* scratch;  ///< sums of groups that blocks share
  int32_t* flags;  ///< [block][2 warpgroups], zero between launches
  int32_t*
      arrived;  ///< [kMaxBatchPhases + 1] warpgroups that have ended a phase, blocks that have left; ditto
  // shared memory
  int32_t weight_stages;
  int32_t slot_bytes;  ///< largest tile of the launch
  int32_t token_stages;
};

struct BatchMaps {
  CUtensorMap x[kMaxBatchPhases];  ///< boxes of 64 columns x the instance's tokens
};

/// What launches need: bytes for sums, and zeroed counters.
uint64_t batch_scratch_bytes(int n_sms);
constexpr int batch_counters(int n_sms) {
  return 2 * n_sms + kMaxBatchPhases + 1;
}

/// Products of activation rows of at most kMostBatchTokens tokens; the contracts are Matmul's. Between begin
/// and end they are collected, otherwise each is a launch of its own.
class BatchProducts {
 public:
  BatchProducts(const DeviceInfo& device, bool overlap, float* scratch, int32_t* counters)
      : device_(device), overlap_(overlap), scratch_(scratch), counters_(counters) {}

  void begin(cudaStream_t stream);
  void end();
  /// Launches what has been collected.
  void flush();

  void store(cudaStream_t stream, const Activations& x, std::span<const Matmul::Output> outputs,
             const RmsScale& scale);
  void add(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual, int64_t stride);
  void add_and_norm(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
                    int64_t stride, const float* norm_weight, const Activations& out, float* sum_of_squares);
  void swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate, const PackedMatrix& up,
              const Activations& out, const RmsScale& scale);

 private:
  BatchPhase& add_phase(cudaStream_t stream, const Activations& x, BatchEpilogue epilogue,
                        const RmsScale& scale);
  static void add_segment(BatchPhase& phase, const PackedMatrix& w, const PackedMatrix* up, float* y,
                          int64_t stride);
  static void set_out(BatchPhase& phase, const Activations& out);
  void end_phase();
  void launch();

  DeviceInfo device_;
  bool overlap_;
  float* scratch_;
  int32_t* counters_;
  bool collecting_ = false;
  cudaStream_t stream_ = nullptr;
  std::array<Activations, kMaxBatchPhases> x_;
  BatchParams p_{};
};

/// The instances, by tokens.
void launch_batch_16(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const BatchMaps& x,
                     const BatchParams& p);
void launch_batch_32(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const BatchMaps& x,
                     const BatchParams& p);
void launch_batch_64(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const BatchMaps& x,
                     const BatchParams& p);

}  // namespace fl::cuda
