// What one launch of the int8 product is told, and the shape of its blocks.
#pragma once

#include <cstdint>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/matmul_int8.h"

namespace fl::cuda {

inline constexpr int kInt8Warps = 8;
inline constexpr int kInt8Threads = 32 * kInt8Warps;
/// Rows of a block (swiglu: of gate and up together).
inline constexpr int kInt8BlockRows = kInt8Warps * kTileRows;

struct Int8Segment {
  const uint8_t* w;
  const uint8_t* w_up;  ///< swiglu: `w` is gate
  float* y;
  int64_t stride;
  int32_t rows;
  int32_t first;  ///< blocks of rows of the segments before it
};

struct Int8Params {
  Int8Segment segments[Matmul::kMaxOutputs];
  int32_t n_segments;
  int32_t n_superblocks;
  int32_t n_tokens;
  int32_t n_groups;  ///< of 64 tokens
  const uint8_t* activations;
  int32_t add;
  ActivationWriter out;  ///< swiglu
};

/// `groups`: of 64 tokens that a block takes, 1 or 2.
void launch_int8_q4(cudaStream_t stream, bool overlap, int groups, int grid, const Int8Params& p);
void launch_int8_q5(cudaStream_t stream, bool overlap, int groups, int grid, const Int8Params& p);
void launch_int8_q6(cudaStream_t stream, bool overlap, int groups, int grid, const Int8Params& p);
void launch_int8_q8(cudaStream_t stream, bool overlap, int groups, int grid, const Int8Params& p);

}  // namespace fl::cuda
