// Where an element of a cached key or value lies; see attention.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/reduce.cuh"

namespace fl::cuda {

inline constexpr int kBlock = static_cast<int>(kKvBlock);
inline constexpr int kGroup32 = static_cast<int>(kKvQuantGroup);

/// Byte of dim d among the q8_0 bytes of a key: of 64 dims, lane t of four has 8 dims of the first group of
/// 32, then the same 8 of the second, so that one 16-byte load feeds two matrix products with one scale each.
__host__ __device__ __forceinline__ int kv_key_position(int d, int head_dim) {
  return head_dim % 64 != 0 ? d : d / 64 * 64 + d / 8 % 4 * 16 + d / 32 % 2 * 8 + d % 8;
}

__device__ __forceinline__ int64_t kv_bytes(DType type, int head_dim) {
  const int64_t n = static_cast<int64_t>(kBlock) * head_dim;
  return type == DType::f32 ? 4 * n : type == DType::q8_0 ? n + n / kGroup32 * 2 : 2 * n;
}

/// One element, whatever the type: what the general kernels and the tests use. `at` is the token's index in
/// the block.
template <bool kKeys>
__device__ __forceinline__ float kv_load(DType type, const std::byte* head, int head_dim, int at, int d) {
  const int64_t i = kKeys ? static_cast<int64_t>(at) * head_dim + d : static_cast<int64_t>(d) * kBlock + at;
  switch (type) {
    case DType::f32:
      return reinterpret_cast<const float*>(head)[i];
    case DType::bf16:
      return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(head)[i]);
    case DType::q8_0: {
      const int64_t byte = kKeys ? static_cast<int64_t>(at) * head_dim + kv_key_position(d, head_dim) : i;
      const int64_t scale = kKeys ? static_cast<int64_t>(at) * (head_dim / kGroup32) + d / kGroup32
                                  : static_cast<int64_t>(d / kGroup32) * kBlock + at;
      const auto* scales = reinterpret_cast<const __half*>(head + static_cast<int64_t>(kBlock) * head_dim);
      return static_cast<float>(reinterpret_cast<const int8_t*>(head)[byte]) * __half2float(scales[scale]);
    }
    default:
      return __half2float(reinterpret_cast<const __half*>(head)[i]);
  }
}

inline constexpr float kLargestHalf = 65504.0F;

/// Stores element d of a token; lanes of a warp take 32 neighbouring dims (a quantisation group), all of them
/// or none.
template <bool kKeys>
__device__ __forceinline__ void kv_store(DType type, std::byte* head, int head_dim, int at, int d,
                                         float value, bool active) {
  const int64_t i = kKeys ? static_cast<int64_t>(at) * head_dim + d : static_cast<int64_t>(d) * kBlock + at;
  if (type == DType::q8_0) {
    const float largest = fminf(warp_max(active ? fabsf(value) : 0.0F), kLargestHalf * 127.0F);
    const __half scale = __float2half_rn(largest / 127.0F);
    const float rounded = __half2float(scale);
    const float scaled = rounded > 0 ? rintf(value / rounded) : 0.0F;
    if (!active) {
      return;
    }
    const int64_t byte = kKeys ? static_cast<int64_t>(at) * head_dim + kv_key_position(d, head_dim) : i;
    reinterpret_cast<int8_t*>(head)[byte] = static_cast<int8_t>(fminf(fmaxf(scaled, -127.0F), 127.0F));
    if (d % kGroup32 == 0) {
      const int64_t at_scale = kKeys ? static_cast<int64_t>(at) * (head_dim / kGroup32) + d / kGroup32
                                     : static_cast<int64_t>(d / kGroup32) * kBlock + at;
      reinterpret_cast<__half*>(head + static_cast<int64_t>(kBlock) * head_dim)[at_scale] = scale;
    }
    return;
  }
  if (!active) {
    return;
  }
  if (type == DType::f32) {
    reinterpret_cast<float*>(head)[i] = value;
  } else if (type == DType::bf16) {
    reinterpret_cast<__nv_bfloat16*>(head)[i] = __float2bfloat16_rn(value);
  } else {
    reinterpret_cast<__half*>(head)[i] = __float2half_rn(fminf(fmaxf(value, -kLargestHalf), kLargestHalf));
  }
}

}  // namespace fl::cuda
