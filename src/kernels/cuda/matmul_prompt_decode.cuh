// A lane's weights as f16, in the fragments of a product of 16 columns: for tiles (tile_layout.h) of long
// prompts, where a weight is decoded completely, once for up to 256 tokens. The values are those of
// expand.cu, bit for bit: q * scale is an integer that f16 holds, d has its file's f16, so a weight is
// rounded once or twice.
//
// A step j (0..3) covers sub-blocks j and then j + 4: twice 32 columns, two products of 16 each, in the order
// of activation rows (activations.cuh). A lane's fragment has an upper slot (row g of the warp's 16) and a
// lower one (row g + 8). Both come from one tile; or, for gate and up together (kPair), from the same row of
// two.
#pragma once

#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tile_math.cuh"

namespace fl::cuda {

/// Where a lane's two slots come from.
template <bool kPair>
struct FragmentSource {
  const uint8_t* tile[2];  ///< the same when not kPair
  int half;                ///< kPair: rows 0..7 or 8..15 of both tiles; else 0
  int lane;

  __device__ __forceinline__ int row_group(int slot) const { return kPair ? half : slot; }
  __device__ __forceinline__ int row(int slot) const { return (lane >> 2) + 8 * row_group(slot); }
};

inline constexpr int kFragmentRegisters = 8;  // of 32 columns: [product][column pair][slot]
using Fragment = uint32_t[kFragmentRegisters];
constexpr int fragment_register(int r, int slot) {
  return (r >> 1) * 4 + (r & 1) * 2 + slot;
}

__device__ __forceinline__ __half2 half2_of(uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}

/// The nibbles of a step, kept from its first half to its second.
template <bool kPair>
class StepWords {
 public:
  __device__ __forceinline__ void load(const FragmentSource<kPair>& from, int step) {
#pragma unroll
    for (int i = 0; i < (kPair ? 2 : 1); ++i) {
      q_[i] = load16(from.tile[i] + step * 512 + from.lane * 16);
    }
  }
  /// Pair r of a slot in bytes 0 and 2.
  __device__ __forceinline__ uint32_t get(const FragmentSource<kPair>& from, int slot, int r) const {
    return word_of(q_[kPair ? slot : 0], r) >> (8 * from.row_group(slot));
  }

 private:
  uint4 q_[kPair ? 2 : 1];
};

template <PackedType kType, bool kPair>
class FragmentDecoder;

/// Q4_K and Q5_K.
template <bool kFive, bool kPair>
class FragmentDecoderK45 {
 public:
  __device__ __forceinline__ void begin(const FragmentSource<kPair>& from) {
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      const uint8_t* header =
          from.tile[slot] + (kFive ? tile::kQ5Header : tile::kQuants) + from.row(slot) * 16;
      const RowHeader h = row_header(header);
      scales_[slot][0] = h.scales[0];
      scales_[slot][1] = h.scales[1];
      mins_[slot][0] = h.mins[0];
      mins_[slot][1] = h.mins[1];
      const uint32_t d_and_dmin = *reinterpret_cast<const uint32_t*>(header);
      d_[slot] = half2_of(__byte_perm(d_and_dmin, 0, 0x1010U));
      minus_dmin_[slot] = half2_of(__byte_perm(d_and_dmin, 0, 0x3232U) ^ 0x80008000U);
    }
  }

  template <int kStep, int kUpper>
  __device__ __forceinline__ void decode(const FragmentSource<kPair>& from, Fragment& a) {
    if constexpr (kUpper == 0) {
      words_.load(from, kStep);
      if constexpr (kFive) {
#pragma unroll
        for (int slot = 0; slot < 2; ++slot) {
          const uint8_t* at = from.tile[slot] + tile::kQ5High + from.lane * 16 + 4 * kStep;
          high_[slot] = *reinterpret_cast<const uint32_t*>(at) >> (8 * from.row_group(slot));
        }
      }
    }
    constexpr uint32_t kMask = kUpper ? 0x00F000F0U : 0x000F000FU;
    const uint32_t magic = in_register<kMagic>();
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      // (1024 + q) * scale - 1024 * scale, or (1024 + 16 q) * (scale / 16) - 64 * scale: exact
      const __half2 scale = bytes_as_half2(scales_[slot][kUpper], kStep, kStep);
      const __half2 by = kUpper ? __hmul2(scale, __float2half2_rn(0.0625f)) : scale;
      const __half2 less = __hmul2(scale, __float2half2_rn(kUpper ? -64.0f : -1024.0f));
      const __half2 shift = __hmul2(bytes_as_half2(mins_[slot][kUpper], kStep, kStep), minus_dmin_[slot]);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        uint32_t bits = select_bits<kMask>(words_.get(from, slot, r), magic);
        if constexpr (kFive) {
          bits = with_high_bit<kUpper>(high_[slot], r, bits);
        }
        const __half2 v = __hfma2(half2_of(bits), by, less);
        a[fragment_register(r, slot)] = bits_of(__hfma2(v, d_[slot], shift));
      }
    }
  }

 private:
  // high_bit_position: bit r of the slot's byte belongs to pair r of sub-block j, bit r + 4 to j + 4
  template <int kUpper>
  static __device__ __forceinline__ uint32_t with_high_bit(uint32_t h, int r, uint32_t bits) {
    constexpr uint32_t kMask = kUpper ? 0x01000100U : 0x00100010U;
    const int shift = tile::high_bit_shift(r);
    return select_bits<kMask>(shift >= 0 ? h >> shift : h << -shift, bits);
  }

  uint32_t scales_[2][2];
  uint32_t mins_[2][2];
  __half2 d_[2];
  __half2 minus_dmin_[2];
  StepWords<kPair> words_;
  uint32_t high_[2];
};

template <bool kPair>
class FragmentDecoder<PackedType::q4_k, kPair> : public FragmentDecoderK45<false, kPair> {};
template <bool kPair>
class FragmentDecoder<PackedType::q5_k, kPair> : public FragmentDecoderK45<true, kPair> {};

template <bool kPair>
class FragmentDecoder<PackedType::q6_k, kPair> {
 public:
  __device__ __forceinline__ void begin(const FragmentSource<kPair>& from) {
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      const uint4 s = load16(from.tile[slot] + tile::kQ6Scales + from.row(slot) * 16);
      scales_[slot] = {s.x ^ 0x80808080U, s.y ^ 0x80808080U, s.z ^ 0x80808080U, s.w ^ 0x80808080U};
      const uint32_t d =
          *reinterpret_cast<const uint16_t*>(from.tile[slot] + tile::kQ6D + 2 * from.row(slot));
      d_[slot] = half2_of(d | d << 16);
    }
  }

  template <int kStep, int kUpper>
  __device__ __forceinline__ void decode(const FragmentSource<kPair>& from, Fragment& a) {
    if constexpr (kUpper == 0) {
      words_.load(from, kStep);
#pragma unroll
      for (int slot = 0; slot < 2; ++slot) {
        high_[slot] =
            *reinterpret_cast<const uint32_t*>(from.tile[slot] + tile::kQ6High + (kStep >> 1) * 512 +
                                               from.lane * 16 + 4 * (2 * (kStep & 1) + from.row_group(slot)));
      }
    }
    constexpr uint32_t kMask = kUpper ? 0x00F000F0U : 0x000F000FU;
    constexpr uint32_t kHighMask = kUpper ? 0x03000300U : 0x00300030U;
    constexpr int kByte = 8 * kUpper + 2 * kStep;
    const uint32_t magic = in_register<kMagic>();
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // a scale for each 16 columns
        const int byte = (kByte & 3) + half;
        const __half2 scale = __hmul2(
            __hsub2(bytes_as_half2(word_of(scales_[slot], kByte >> 2), byte, byte), __float2half2_rn(128.0f)),
            __float2half2_rn(kUpper ? 0.0625f : 1.0f));
#pragma unroll
        for (int r = 2 * half; r < 2 * half + 2; ++r) {
          const int shift = tile::high_pair_shift(r);
          const uint32_t bits =
              select_bits<kHighMask>(shift >= 0 ? high_[slot] >> shift : high_[slot] << -shift,
                                     select_bits<kMask>(words_.get(from, slot, r), magic));
          const __half2 q = __hsub2(half2_of(bits), __float2half2_rn(kUpper ? 1536.0f : 1056.0f));
          a[fragment_register(r, slot)] = bits_of(__hmul2(__hmul2(q, scale), d_[slot]));
        }
      }
    }
  }

 private:
  uint4 scales_[2];  ///< with the sign bit flipped
  __half2 d_[2];
  StepWords<kPair> words_;
  uint32_t high_[2];
};

template <bool kPair>
class FragmentDecoder<PackedType::q8_0, kPair> {
 public:
  __device__ __forceinline__ void begin(const FragmentSource<kPair>& from) {
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      d_[slot] = load16(from.tile[slot] + tile::kQ8D + from.row(slot) * 16);
    }
  }

  template <int kStep, int kUpper>
  __device__ __forceinline__ void decode(const FragmentSource<kPair>& from, Fragment& a) const {
    constexpr int kSubBlock = kStep + 4 * kUpper;
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      const uint2 q = *reinterpret_cast<const uint2*>(from.tile[slot] + kSubBlock * 512 + from.lane * 16 +
                                                      8 * from.row_group(slot));
      const uint32_t d =
          __byte_perm(word_of(d_[slot], kSubBlock >> 1), 0, (kSubBlock & 1) ? 0x3232U : 0x1010U);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint32_t bits =
            __byte_perm((r >> 1) ? q.y : q.x, in_register<0x64646464U>(), (r & 1) ? 0x4342U : 0x4140U);
        a[fragment_register(r, slot)] =
            bits_of(__hmul2(__hsub2(half2_of(bits), __float2half2_rn(1152.0f)), half2_of(d)));
      }
    }
  }

 private:
  uint4 d_[2];
};

template <bool kPair>
class FragmentDecoder<PackedType::f16, kPair> {
 public:
  __device__ __forceinline__ void begin(const FragmentSource<kPair>& /*from*/) {}

  template <int kStep, int kUpper>
  __device__ __forceinline__ void decode(const FragmentSource<kPair>& from, Fragment& a) const {
#pragma unroll
    for (int product = 0; product < 2; ++product) {
      const int at = (2 * kStep + 8 * kUpper + product) * 512 + from.lane * 16;
#pragma unroll
      for (int slot = 0; slot < 2; ++slot) {
        const uint4 w = load16(from.tile[slot] + at);
        const bool lower = from.row_group(slot) != 0;
        a[product * 4 + slot] = lower ? w.y : w.x;
        a[product * 4 + 2 + slot] = lower ? w.w : w.z;
      }
    }
  }
};

}  // namespace fl::cuda
