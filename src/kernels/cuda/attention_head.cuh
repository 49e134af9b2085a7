// Norm and rotation of one head by a warp: what attention_prepare.cu and attention_decode.cu do alike, bit
// for bit.
#pragma once

#include "kernels/cuda/reduce.cuh"

namespace fl::cuda {

/// x[i] = dim 32 i + lane of the head of `head_dim` <= 32 kPerLane dims at `from`; with `norm` ([head_dim]),
/// after RMS norm and rotation by `turns`, cosines [pairs] and sines [pairs]; without, as it is. `row` is
/// [head_dim] shared memory of the warp. Dims that the head has not are zeros.
template <int kPerLane>
__device__ __forceinline__ void load_head(const float* from, const float* norm, const float* turns, int pairs,
                                          float eps, int head_dim, float* row, int lane,
                                          float (&x)[kPerLane]) {
  constexpr int kPairsPerLane = kPerLane / 2;
  float weight[kPerLane];
  float cosine[kPairsPerLane];
  float sine[kPairsPerLane];
  // All loads together: each is a trip to L2.
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = kWarp * i + lane;
    x[i] = d < head_dim ? from[d] : 0.0F;
  }
  if (norm == nullptr) {
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = kWarp * i + lane;
    weight[i] = d < head_dim ? norm[d] : 0.0F;
  }
#pragma unroll
  for (int i = 0; i < kPairsPerLane; ++i) {
    const int pair = kWarp * i + lane;
    cosine[i] = pair < pairs ? turns[pair] : 0.0F;
    sine[i] = pair < pairs ? turns[pairs + pair] : 0.0F;
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    sum += x[i] * x[i];
  }
  const float scale = rsqrtf(warp_sum(sum) / static_cast<float>(head_dim) + eps);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = kWarp * i + lane;
    if (d < head_dim) {
      row[d] = x[i] * (scale * weight[i]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPairsPerLane; ++i) {
    const int pair = kWarp * i + lane;
    if (pair < pairs) {
      const float u = row[pair];
      const float w = row[pair + pairs];
      row[pair] = u * cosine[i] - w * sine[i];
      row[pair + pairs] = w * cosine[i] + u * sine[i];
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = kWarp * i + lane;
    x[i] = d < head_dim ? row[d] : 0.0F;
  }
}

}  // namespace fl::cuda
