// Products of kLeastBatchTokens to kMostBatchTokens tokens on sm_90: wgmma as in matmul_prompt.h, for so few
// tokens that bytes, decoding and the borders of launches decide.
//
// Groups of 128 rows lie one behind the other, and every block has an equal, contiguous share of their bytes,
// cut at superblocks. The block with the start of a group adds the parts of the others in order. So bits
// follow from the shapes, the number of tokens and the chip, never from timing.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

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

/// Where this kernel overtakes the one of the steps of few tokens (docs/decisions/0077); for fewer a token
/// alone and beside others would differ (0078).
inline constexpr int kLeastBatchTokens = 9;
inline constexpr int kMostBatchTokens = 64;
inline constexpr int kBatchGroupTiles =
    8;  ///< tiles of 16 rows in a group; for swiglu four of gate, four of up

/// What the blocks of the launch behind this one begin with (NextProduct); no segments: it is not known.
struct BatchNext {
  struct Segment {
    const uint8_t* w;
    const uint8_t* w_up;
    int32_t tile_bytes;
    int32_t rows;
    int32_t first;
    uint32_t first_cost;
    uint32_t cost;
  };
  Segment segments[kMaxOutputs];
  int32_t n_segments;
  int32_t n_superblocks;
  uint32_t cost;
  uint32_t cost_per_block;
};

struct BatchParams {
  BatchSegment segments[Matmul::kMaxOutputs];
  int32_t n_segments;
  BatchEpilogue epilogue;
  int32_t n_tokens;
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
  float* parts;  ///< sums of groups that blocks share; all bytes kAbsentByte between launches
  BatchNext next;
  // shared memory
  int32_t weight_stages;
  int32_t slot_bytes;  ///< largest tile of the launch
  int32_t token_stages;
};

/// Memory for parts of groups, which nobody else may write and whose bytes are kAbsentByte before the first
/// launch; a multiple of 256.
uint64_t batch_parts_bytes(int n_sms);
inline constexpr int kAbsentByte = 0xFF;

/// Products of activation rows of at most kMostBatchTokens tokens; the contracts are Matmul's.
class BatchProducts {
 public:
  BatchProducts(const DeviceInfo& device, bool overlap, float* parts)
      : device_(device), overlap_(overlap), parts_(parts) {}

  void store(cudaStream_t stream, const Activations& x, std::span<const Matmul::Output> outputs,
             const RmsScale& scale, const NextProduct& next) const;
  void add(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
           int64_t stride) const;
  void add_and_norm(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
                    int64_t stride, const float* norm_weight, const Activations& out, float* sum_of_squares,
                    const NextProduct& next) const;
  void swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate, const PackedMatrix& up,
              const Activations& out, const RmsScale& scale, const NextProduct& next) const;

 private:
  void launch(cudaStream_t stream, const Activations& x, BatchParams& p) const;
  /// The size of the grid; sets the shares of its blocks.
  int share(BatchParams& p) const;
  BatchNext next_of(const Activations& x, const NextProduct& next) const;

  DeviceInfo device_;
  bool overlap_;
  float* parts_;
};

/// The instances, by tokens.
void launch_batch_16(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                     const BatchParams& p);
void launch_batch_32(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                     const BatchParams& p);
void launch_batch_64(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                     const BatchParams& p);

}  // namespace fl::cuda
