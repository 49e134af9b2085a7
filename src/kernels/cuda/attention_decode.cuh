// A KV block of one head for attention_decode.cu: from the cache to registers, as scores, as sums of values.
#pragma once

#include "kernels/cuda/kv_layout.cuh"
#include "kernels/cuda/mma.cuh"

namespace fl::cuda::decode {

inline constexpr int kHeadDim = 256;
inline constexpr int kThreads = 128;
inline constexpr int kWarps = kThreads / kWarp;
inline constexpr int kGroups = kHeadDim / kGroup32;
inline constexpr int kQueryRow =
    kHeadDim + 8;  // halves between query heads in shared memory: no bank conflicts
inline constexpr int kProbRow = kBlock + 8;
inline constexpr float kLog2E = 1.4426950408889634F;
/// Probabilities times a value's scale stay above f16's subnormals with this; taken out again at the end.
inline constexpr float kProbLift = 64.0F;
inline constexpr float kMasked = -1e30F;  // finite, so that differences of two stay numbers

__device__ __forceinline__ uint4 load_once(const void* p) {
  return __ldcs(reinterpret_cast<const uint4*>(p));
}

// 16 keys (rows g and g + 8 of the tile) against all query heads.
template <DType kType>
__device__ __forceinline__ void load_keys(const std::byte* keys, int token_g, int t, uint4 (&raw)[2][8],
                                          uint4 (&scales)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = token_g + 8 * half;
    if (kType == DType::f16) {
      const auto* row = reinterpret_cast<const uint4*>(keys) + token * (kHeadDim / 8) + t;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        raw[half][i] = load_once(row + 4 * i);
      }
    } else {
      const auto* row = reinterpret_cast<const uint4*>(keys) + token * (kHeadDim / 16) + t;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        raw[half][i] = load_once(row + 4 * i);
      }
      scales[half] = load_once(reinterpret_cast<const uint4*>(keys + kBlock * kHeadDim) + token);
    }
  }
}

__device__ __forceinline__ float half_of(const uint4& v, int i) {
  const uint32_t word = i / 2 == 0 ? v.x : i / 2 == 1 ? v.y : i / 2 == 2 ? v.z : v.w;
  return __half2float(
      __ushort_as_half(static_cast<unsigned short>(i % 2 == 0 ? word & 0xFFFFU : word >> 16)));
}

// raw's 8 dims number `i` (of a group of 32, lane t's share) as two pairs of f16 registers.
template <DType kType>
__device__ __forceinline__ void key_fragment(const uint4 (&raw)[8], int group, uint32_t (&f)[4]) {
  if (kType == DType::f16) {
    f[0] = raw[group].x;
    f[1] = raw[group].y;
    f[2] = raw[group].z;
    f[3] = raw[group].w;
  } else {
    const uint4& r = raw[group / 2];
    int8x4_to_half(group % 2 == 0 ? r.x : r.z, f[0], f[1]);
    int8x4_to_half(group % 2 == 0 ? r.y : r.w, f[2], f[3]);
  }
}

template <DType kType>
__device__ __forceinline__ void score(const uint4 (&raw)[2][8], const uint4 (&scales)[2],
                                      const __half (*q)[kQueryRow], int g, int t, float (&s)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    s[e] = 0;
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    uint32_t low[4];
    uint32_t high[4];
    key_fragment<kType>(raw[0], group, low);
    key_fragment<kType>(raw[1], group, high);
    const uint4 b = *reinterpret_cast<const uint4*>(&q[g][group * kGroup32 + 8 * t]);
    if (kType == DType::f16) {
      mma_f16(s, {low[0], high[0], low[1], high[1]}, b.x, b.y);
      mma_f16(s, {low[2], high[2], low[3], high[3]}, b.z, b.w);
    } else {
      float part[4] = {};
      mma_f16(part, {low[0], high[0], low[1], high[1]}, b.x, b.y);
      mma_f16(part, {low[2], high[2], low[3], high[3]}, b.z, b.w);
      const float scale_g = half_of(scales[0], group);
      const float scale_g8 = half_of(scales[1], group);
      s[0] += scale_g * part[0];
      s[1] += scale_g * part[1];
      s[2] += scale_g8 * part[2];
      s[3] += scale_g8 * part[3];
    }
  }
}

// The warp's 64 dims of all 64 values: per dim row lane t has tokens 16t .. 16t + 15.
template <DType kType>
__device__ __forceinline__ void load_values(const std::byte* values, int dim0, int g, int t,
                                            uint4 (&raw)[8][2]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int dim = dim0 + 8 * i + g;
    if (kType == DType::f16) {
      const auto* row = reinterpret_cast<const uint4*>(values) + dim * (kBlock / 8) + 2 * t;
      raw[i][0] = load_once(row);
      raw[i][1] = load_once(row + 1);
    } else {
      raw[i][0] = load_once(reinterpret_cast<const uint4*>(values) + dim * (kBlock / 16) + t);
    }
  }
}

__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Tokens 16t + 4j .. + 3 of a row as two registers.
template <DType kType>
__device__ __forceinline__ void value_fragment(const uint4 (&raw)[2], int j, uint32_t& low, uint32_t& high) {
  if (kType == DType::f16) {
    low = word_of(raw[j / 2], j % 2 * 2);
    high = word_of(raw[j / 2], j % 2 * 2 + 1);
  } else {
    int8x4_to_half(word_of(raw[0], j), low, high);
  }
}

__device__ __forceinline__ uint32_t multiply_half2(uint32_t a, uint32_t b) {
  const __half2 product =
      __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}

template <DType kTypeV>
__device__ __forceinline__ void accumulate(const uint4 (&raw)[8][2], const uint4 (&scales)[2][2],
                                           const __half (*p)[kProbRow], int g, int t, float (&o)[4][4]) {
  uint4 prob[2];
  prob[0] = *reinterpret_cast<const uint4*>(&p[g][16 * t]);
  prob[1] = *reinterpret_cast<const uint4*>(&p[g][16 * t + 8]);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t b0 = word_of(prob[j / 2], j % 2 * 2);
    const uint32_t b1 = word_of(prob[j / 2], j % 2 * 2 + 1);
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      uint32_t s0 = b0;
      uint32_t s1 = b1;
      if (kTypeV == DType::q8_0) {
        s0 = multiply_half2(b0, word_of(scales[group][j / 2], j % 2 * 2));
        s1 = multiply_half2(b1, word_of(scales[group][j / 2], j % 2 * 2 + 1));
      }
#pragma unroll
      for (int tile = 2 * group; tile < 2 * group + 2; ++tile) {
        uint32_t a0;
        uint32_t a1;
        uint32_t a2;
        uint32_t a3;
        value_fragment<kTypeV>(raw[2 * tile], j, a0, a2);
        value_fragment<kTypeV>(raw[2 * tile + 1], j, a1, a3);
        mma_f16(o[tile], {a0, a1, a2, a3}, s0, s1);
      }
    }
  }
}

// Tokens from `left` on were never written: whatever lies there, NaN too, becomes zero. Lane t's 16 tokens as
// f16.
__device__ __forceinline__ void clear_tail(uint4 (&x)[2], int t, int left) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint32_t* const words[4] = {&x[i].x, &x[i].y, &x[i].z, &x[i].w};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int token = 16 * t + 8 * i + 2 * w;
      *words[w] &= token + 1 < left ? 0xFFFFFFFFU : token < left ? 0xFFFFU : 0U;
    }
  }
}

}  // namespace fl::cuda::decode
