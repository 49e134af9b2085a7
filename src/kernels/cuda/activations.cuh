// The form in which activations meet packed weights on the device: 16-bit floats in the order that the matrix
// products read, with the sums that quantised weights with an offset need. Producers (norms, gated norms,
// SwiGLU, a product's own epilogue) write it directly.
//
// Values are stored as f16(clamp(a * kActivationScale)): activations up to 2.6e5 have room, and values down
// to 2.5e-4 keep all their bits. Sums of 16 are stored at the size of the activations themselves, in two f16
// parts that hold up to 1.3e5 with an error below 3e-8: the offset that they stand for is up to 1024 times
// the weights, so an error here counts that much more (a model's first residual streams are of the size of
// 0.02).
//
// Up to Activations::most_records tokens: *records*. Superblock k (256 columns of the matrix) of n tokens is
//   [sub-block s 0..7][token][64 bytes]   16 bytes for t = 0..3: elements 32s+4t..+3, then 32s+16+4t..+3
//   [token][64 bytes]                     16 bytes for t = 0..3: sums of 16 elements (of the stored values,
//   times
//                                         kSumScale) for groups 2t, 2t+1, 2t+8, 2t+9 as f16, then what f16
//                                         lost, as f16
// More tokens: *rows*, f16 [n_tokens][padded columns], the 256 columns of a superblock in the order in which
// a step of the tiles meets them (row_position): sub-blocks 0, 4, 1, 5, 2, 6, 3, 7, and of each 16 columns
// first the pairs P_0 of all lanes, then their P_1 (tile_layout.h). Products do not care, as long as both
// factors have it.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

/// What a producer needs; make one with `writer(activations)` and pass it to the kernel by value.
struct ActivationWriter {
  std::byte* data;
  int32_t n_tokens;
  int32_t padded_cols;
  bool records;
};

inline ActivationWriter writer(const Activations& a) {
  return {a.data, a.n_tokens, padded_cols(a.cols), a.layout() == ActivationLayout::records};
}

/// Where a column lies in a row.
constexpr int row_position(int col) {
  return (col & ~255) | ((col >> 5) & 3) << 6 | ((col >> 7) & 1) << 5 | (col & 16) | ((col >> 1) & 1) << 3 |
         ((col >> 2) & 3) << 1 | (col & 1);
}

#ifdef __CUDACC__

__host__ __device__ __forceinline__ int64_t record_offset(int n_tokens, int token, int col) {
  return ((static_cast<int64_t>(col >> 8) * 9 + ((col >> 5) & 7)) * n_tokens + token) * 64;
}

/// Columns col..col+3 (col a multiple of 4) of a row, four halves.
__device__ __forceinline__ uint2 load_row4(const std::byte* row, int col) {
  const std::byte* at = row + row_position(col) * 2;
  return {*reinterpret_cast<const uint32_t*>(at), *reinterpret_cast<const uint32_t*>(at + 16)};
}

__device__ __forceinline__ __half stored_activation(float a) {
  return __float2half_rn(fminf(fmaxf(a * kActivationScale, -65504.0f), 65504.0f));
}

/// Stores elements col..col+3 (col a multiple of 4) of a token. Four neighbouring lanes (lane & 3 = 0..3)
/// call it together with 16 consecutive elements (the first a multiple of 16) of one token; whole groups of
/// four may be absent. Columns between cols and padded_cols must be written too, as zeros.
__device__ __forceinline__ void store_activations4(const ActivationWriter& w, int token, int col, float4 v) {
  const __half2 a = __halves2half2(stored_activation(v.x), stored_activation(v.y));
  const __half2 b = __halves2half2(stored_activation(v.z), stored_activation(v.w));
  uint2 bits;
  bits.x = *reinterpret_cast<const uint32_t*>(&a);
  bits.y = *reinterpret_cast<const uint32_t*>(&b);
  const unsigned lane = threadIdx.x & 31U;
  const unsigned group = 0xFU << (lane & 28U);
  if (!w.records) {
    // Two lanes exchange halves: the even one has the first pairs of both, the odd one the second.
    const bool odd = (col & 4) != 0;
    const uint32_t got = __shfl_xor_sync(group, odd ? bits.x : bits.y, 1);
    const uint2 both = odd ? uint2{got, bits.y} : uint2{bits.x, got};
    const int at = row_position(odd ? col - 2 : col);
    *reinterpret_cast<uint2*>(w.data + (static_cast<int64_t>(token) * w.padded_cols + at) * 2) = both;
    return;
  }
  const int t = (col >> 2) & 3;
  std::byte* block = w.data + record_offset(w.n_tokens, token, col);
  *reinterpret_cast<uint2*>(block + t * 16 + ((col >> 4) & 1) * 8) = bits;
  const float2 fa = __half22float2(a);
  const float2 fb = __half22float2(b);
  float sum = (fa.x + fa.y) + (fb.x + fb.y);
  sum += __shfl_xor_sync(group, sum, 1);
  sum += __shfl_xor_sync(group, sum, 2);
  if ((lane & 3U) == 0) {
    const float scaled = sum * kSumScale;
    const __half high = __float2half_rn(fminf(fmaxf(scaled, -65504.0f), 65504.0f));
    const __half low = __float2half_rn(fminf(fmaxf(scaled - __half2float(high), -65504.0f), 65504.0f));
    const int i = (col >> 4) & 15;
    __half* sums = reinterpret_cast<__half*>(
        w.data + ((static_cast<int64_t>(col >> 8) * 9 + 8) * w.n_tokens + token) * 64 + ((i & 7) >> 1) * 16);
    sums[(i >> 3) * 2 + (i & 1)] = high;
    sums[4 + (i >> 3) * 2 + (i & 1)] = low;
  }
}

#endif

}  // namespace fl::cuda
