// Products of prompts (Activations::prompt), and of more than kMostBatchTokens tokens (matmul_batch.h), on
// sm_90: wgmma with weights decoded from packed tiles into registers, and activation rows in shared memory.
// Nothing is expanded in memory.
//
// A tile of the work is 128 rows x up to 256 tokens (a block of tokens). How tiles are dealt, and in which
// order sums are made, says matmul_prompt_schedule.h: a token's bits follow from the matrix and the chip, not
// from the number of tokens nor from timing.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_prompt_schedule.h"

namespace fl::cuda {

enum class PromptEpilogue : int32_t {
  store,
  add,
  swiglu,       ///< gate and up side by side
  keep_gate,    ///< gate alone, 16-bit, where the result will be
  swiglu_kept,  ///< up, with the gate that lies there
};

struct PromptSegment {
  const uint8_t* w;
  const uint8_t* w_up;  ///< swiglu
  float* y;
  int64_t stride;      ///< floats
  int32_t type;        ///< PackedType
  int32_t tile_bytes;  ///< of this type
  int32_t first;       ///< groups of the segments before it
  int32_t rows;
};

struct PromptParams {
  PromptSegment segments[Matmul::kMaxOutputs];
  int32_t n_segments;
  PromptEpilogue epilogue;
  PromptSplit split;
  int32_t n_tokens;
  int32_t n_token_blocks;
  int32_t n_groups;  ///< of rows; tiles are groups of rows times blocks of tokens
  // activations that swiglu writes
  std::byte* out;
  int32_t out_padded_cols;
  float* heads;           ///< [block][2 warpgroups] sums of a unit that the block behind goes on with
  int32_t* heads_there;   ///< [block][2 warpgroups], zero between launches
  float* totals;          ///< [shared tile, then block][2 warpgroups] sums of the chains so far
  int32_t* chains_added;  ///< [shared tile][2 warpgroups], zero between launches
  // shared memory
  int32_t weight_stages;
  int32_t slot_bytes;  ///< largest tile of the launch
  int32_t token_stages;
};

inline constexpr int kPromptGroupTiles =
    8;  ///< tiles of 16 rows in a group; for swiglu four of gate, four of up
inline constexpr int kMostPromptTokens = 256;  ///< of a block
/// Blocks of tokens that neighbouring groups of rows take in turn: in longer steps the activations of all
/// blocks would push one another out of the L2 cache (docs/decisions/0074).
inline constexpr int kPromptBand = 4;

/// Whether this program has the kernel for this compute capability (DeviceInfo::arch).
bool has_prompt_kernel(int arch);
/// Bytes of scratch for sums.
uint64_t prompt_scratch_bytes(int n_sms);
/// Flags that are zero between launches.
constexpr int prompt_flags(int n_sms) {
  return 2 * (n_sms + 2 * n_sms);  // fewer than two rounds of tiles are shared
}

class PromptLaunch {
 public:
  PromptLaunch(const Activations& x, PromptEpilogue epilogue);
  void add_segment(const PackedMatrix& w, const PackedMatrix* up, float* y, int64_t stride);
  void set_out(const Activations& out);
  /// `flags`: prompt_flags(n_sms), zero.
  void run(cudaStream_t stream, bool overlap, const DeviceInfo& device, float* scratch, int32_t* flags);

 private:
  Activations x_;
  PromptParams p_{};
  int32_t n_groups_ = 0;
};

/// The instances, by tokens of a block. `x`: activation rows, boxes of 64 columns x the instance's tokens.
void launch_prompt_64(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                      const PromptParams& p);
void launch_prompt_96(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                      const PromptParams& p);
void launch_prompt_128(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                       const PromptParams& p);
void launch_prompt_160(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                       const PromptParams& p);
void launch_prompt_192(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                       const PromptParams& p);
void launch_prompt_224(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                       const PromptParams& p);
void launch_prompt_256(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                       const PromptParams& p);

}  // namespace fl::cuda
