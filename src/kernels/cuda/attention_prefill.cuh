// What the attention kernels of prompts share: their arguments, and how cached bytes become the halves that
// the products take, so that a query's bits do not depend on the kernel's tiles.
#pragma once

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/kv_layout.cuh"
#include "kernels/cuda/mma.cuh"

namespace fl::cuda {

inline constexpr int kHeadDim = 256;  // of the kernels on tensor cores
inline constexpr float kLog2E = 1.4426950408889634F;
inline constexpr float kMasked = -1e30F;

struct PrefillArgs {
  int heads, kv_heads, head_dim;
  float scale;
  KvCache cache;
  const float* q;
  int64_t stride;
  const AttentionTile* tiles;
  const int32_t* blocks;
  ActivationWriter activations;
  float* out;  // of the general kernel
};

/// Eight signed bytes as halves, times one scale or times eight.
__device__ __forceinline__ uint4 scaled8(uint32_t low, uint32_t high, __half2 scale) {
  uint32_t f[4];
  int8x4_to_half(low, f[0], f[1]);
  int8x4_to_half(high, f[2], f[3]);
  uint32_t r[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&f[i]), scale);
    r[i] = *reinterpret_cast<const uint32_t*>(&product);
  }
  return make_uint4(r[0], r[1], r[2], r[3]);
}
__device__ __forceinline__ uint4 scaled8(uint32_t low, uint32_t high, const uint4& scales) {
  uint32_t f[4];
  int8x4_to_half(low, f[0], f[1]);
  int8x4_to_half(high, f[2], f[3]);
  const uint32_t by[4] = {scales.x, scales.y, scales.z, scales.w};
  uint32_t r[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 product =
        __hmul2(*reinterpret_cast<const __half2*>(&f[i]), *reinterpret_cast<const __half2*>(&by[i]));
    r[i] = *reinterpret_cast<const uint32_t*>(&product);
  }
  return make_uint4(r[0], r[1], r[2], r[3]);
}

/// Tokens from `left` on become zero.
__device__ __forceinline__ void clear_tail(uint4& x, int first_token, int left) {
  uint32_t* const words[4] = {&x.x, &x.y, &x.z, &x.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int token = first_token + 2 * w;
    *words[w] &= token + 1 < left ? 0xFFFFFFFFU : token < left ? 0xFFFFU : 0U;
  }
}

/// The kernel on warpgroups of sm_90a (attention_prefill_sm90a_256.cu), for two query heads of a KV head at a
/// time, and whether this device and shape have it.
bool prefill_sm90a_takes(const AttentionShape& shape);
void prefill_sm90a(const Queue& queue, int n_tiles, const PrefillArgs& args);

}  // namespace fl::cuda
