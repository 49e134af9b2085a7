// What the recurrent kernels share, so that a token gives the same bits whichever of them takes it.
#pragma once

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/gated_delta.h"
#include "kernels/cuda/reduce.cuh"

namespace fl::cuda {

/// What the kernels need of a shape, by value.
struct DeltaDims {
  int key_heads, value_heads, key_dim, value_dim, conv_kernel;
  __host__ __device__ int qk_channels() const { return key_heads * key_dim; }
  __host__ __device__ int v_channels() const { return value_heads * value_dim; }
  __host__ __device__ int conv_channels() const { return 2 * qk_channels() + v_channels(); }
};

inline DeltaDims delta_dims(const DeltaShape& s, const DeltaWeights& w) {
  return {static_cast<int>(s.n_key_heads), static_cast<int>(s.n_value_heads), static_cast<int>(s.key_dim),
          static_cast<int>(s.value_dim), w.conv_kernel};
}

/// One channel of the convolution for the token with cache index p, whose own input is `u`; earlier inputs
/// come from `earlier(distance)`, distance 1 .. min(kernel - 1, p).
template <typename Earlier>
__device__ __forceinline__ float convolve(const float* w, int kernel, int p, float u, Earlier&& earlier) {
  float sum = 0;
  for (int j = 0; j < kernel - 1; ++j) {
    const int distance = kernel - 1 - j;
    sum += distance <= p ? w[j] * earlier(distance) : 0.0F;
  }
  return silu(sum + w[kernel - 1] * u);
}

/// 1 / sqrt(sum of squares + eps) of n values, by one warp; every lane gets it.
__device__ __forceinline__ float warp_l2_scale(const float* x, int n) {
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < n; i += kWarp) {
    sum += x[i] * x[i];
  }
  return rsqrtf(warp_sum(sum) + static_cast<float>(kL2NormEps));
}

/// 1 / sqrt(mean of squares + eps), likewise.
__device__ __forceinline__ float warp_rms_scale(const float* x, int n, float eps) {
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < n; i += kWarp) {
    sum += x[i] * x[i];
  }
  return rsqrtf(warp_sum(sum) / static_cast<float>(n) + eps);
}

/// Normed and gated o of one head of 128, by one warp, into the activations; `o` [128] in shared or global
/// memory, at a multiple of 16 bytes; `gate` and `norm`: SiLU of z, and the norm's weights, of columns 4 lane
/// .. 4 lane + 3. The last of an odd number of heads also clears the columns up to the superblock's end.
__device__ __forceinline__ void store_head_128(const ActivationWriter& out, int token, int head, int n_heads,
                                               const float* o, float4 gate, float4 norm, float eps) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float scale = warp_rms_scale(o, 128, eps);
  const float4 v = reinterpret_cast<const float4*>(o)[lane];
  store_activations4(out, token, head * 128 + 4 * lane,
                     make_float4(v.x * scale * norm.x * gate.x, v.y * scale * norm.y * gate.y,
                                 v.z * scale * norm.z * gate.z, v.w * scale * norm.w * gate.w));
  if (head == n_heads - 1 && n_heads % 2 != 0) {
    store_activations4(out, token, n_heads * 128 + 4 * lane, make_float4(0, 0, 0, 0));
  }
}

/// The log of the decay, g <= 0.
__device__ __forceinline__ float log_decay(float a, float alpha, float dt) {
  return a * softplus(alpha + dt);
}

}  // namespace fl::cuda
