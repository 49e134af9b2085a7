// Elements of the file's block types on the device, for types whose tiles are made of values rather than of
// the file's bits. Formulas: core/dequantize.cpp.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "core/dtype.h"

namespace fl::cuda {

__device__ __forceinline__ uint32_t bytes16(const uint8_t* p) {
  return p[0] | static_cast<uint32_t>(p[1]) << 8;
}
__device__ __forceinline__ uint32_t bytes32(const uint8_t* p) {
  return bytes16(p) | bytes16(p + 2) << 16;
}
__device__ __forceinline__ float f16_at(const uint8_t* p) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bytes16(p))));
}
__device__ __forceinline__ int nibble_of_32(const uint8_t* qs, int e) {
  return e < 16 ? qs[e] & 15 : qs[e - 16] >> 4;
}
__device__ __forceinline__ int iq4_value(int q) {
  constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  return kValues[q];
}

/// Types that are d * (signed byte): the byte of element e (0..31) of a block.
template <DType kType>
__device__ __forceinline__ int signed_byte(const uint8_t* b, int e) {
  if constexpr (kType == DType::q8_0) {
    return static_cast<int8_t>(b[2 + e]);
  } else if constexpr (kType == DType::q4_0) {
    return nibble_of_32(b + 2, e) - 8;
  } else if constexpr (kType == DType::q5_0) {
    return (nibble_of_32(b + 6, e) | static_cast<int>(bytes32(b + 2) >> e & 1U) << 4) - 16;
  } else {
    static_assert(kType == DType::iq4_nl);
    return iq4_value(nibble_of_32(b + 2, e));
  }
}

/// Element e of a block of any other type.
template <DType kType>
__device__ __forceinline__ float value_of(const uint8_t* b, int e) {
  if constexpr (kType == DType::f32) {
    return __uint_as_float(bytes32(b));
  } else if constexpr (kType == DType::bf16) {
    return __uint_as_float(bytes16(b) << 16);
  } else if constexpr (kType == DType::f16) {
    return f16_at(b);
  } else if constexpr (kType == DType::q4_1) {
    return f16_at(b) * static_cast<float>(nibble_of_32(b + 4, e)) + f16_at(b + 2);
  } else if constexpr (kType == DType::q5_1) {
    const int q = nibble_of_32(b + 8, e) | static_cast<int>(bytes32(b + 4) >> e & 1U) << 4;
    return f16_at(b) * static_cast<float>(q) + f16_at(b + 2);
  } else if constexpr (kType == DType::q2_k) {
    const int q = b[16 + 32 * (e / 128) + e % 32] >> (2 * (e % 128 / 32)) & 3;
    const int s = b[e / 16];
    return f16_at(b + 80) * static_cast<float>((s & 15) * q) - f16_at(b + 82) * static_cast<float>(s >> 4);
  } else if constexpr (kType == DType::q3_k) {
    const int half = e / 128;
    const int j = e % 128 / 32;
    const int low = b[32 + 32 * half + e % 32] >> (2 * j) & 3;
    const int q = (b[e % 32] >> (4 * half + j) & 1) != 0 ? low : low - 4;
    const uint8_t* scales = b + 96;
    const int k = e / 16;
    const int scale_low = k < 8 ? scales[k] & 15 : scales[k - 8] >> 4;
    const int scale_high = scales[8 + k % 4] >> (2 * (k / 4)) & 3;
    return f16_at(b + 108) * static_cast<float>(((scale_low | scale_high << 4) - 32) * q);
  } else {
    static_assert(kType == DType::iq4_xs);
    const int k = e / 32;
    const int scale = (b[4 + k / 2] >> (4 * (k & 1)) & 15) | static_cast<int>(bytes16(b + 2) >> (2 * k) & 3U)
                                                                 << 4;
    return f16_at(b) * static_cast<float>((scale - 32) * iq4_value(nibble_of_32(b + 8 + 16 * k, e % 32)));
  }
}

}  // namespace fl::cuda
