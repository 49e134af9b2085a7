// How products of activation rows (matmul_prompt.h, matmul_batch.h) write the activations of the next
// product.
#pragma once

#include "kernels/cuda/activations.cuh"

namespace fl::cuda {

inline constexpr float kUnscaleActivations = 1.0f / kActivationScale;

__device__ __forceinline__ float swiglu_of(float gate, float up) {
  return __fdividef(gate, 1.0f + __expf(-gate)) * up;  // no call: sums are in registers of the tensor cores
}

/// `even` and `odd`: a lane's values for tokens 2t and 2t + 1 of one row; lanes of two neighbouring rows
/// exchange, so that each has both rows of one token, at `to`. kKept: `to` holds the stored gate of the
/// values, which are `up`.
template <bool kKept>
__device__ __forceinline__ void write_pair(std::byte* to, bool there, bool odd_row, float even, float odd) {
  const float got = __shfl_xor_sync(~0U, odd_row ? even : odd, 4);
  const float first = odd_row ? got : even;
  const float second = odd_row ? odd : got;
  if (there) {
    auto* at = reinterpret_cast<__half2*>(to);
    float2 v{first, second};
    if constexpr (kKept) {
      const float2 gate = __half22float2(*at);
      v = {swiglu_of(gate.x * kUnscaleActivations, first), swiglu_of(gate.y * kUnscaleActivations, second)};
    }
    *at = __halves2half2(stored_activation(v.x), stored_activation(v.y));
  }
}

}  // namespace fl::cuda
