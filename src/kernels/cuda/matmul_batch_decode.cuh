// Weights of a superblock as f16 in units of its scale, for products of few tokens (matmul_batch.h), where
// decoding decides: what a superblock's own scale would cost for each pair of weights costs one f32
// multiplication for each of its few sums instead. Fragments are those of matmul_prompt_decode.cuh.
//
// Quants masked in place are f16 denormals (tile_math.cuh). A k-quant's weight is one f16 multiply-add of
// them, in units of kUnit times the superblock's scale d: q s - m (dmin / d) with Q4_K and Q5_K, (q - 32) s
// with Q6_K, s and m the integer scale and minimum of the sub-block. kUnit is as small as s times the
// denormals' 2^24 allows; what is below 32 units rounds to a 32nd of one. Where dmin is so much larger than d
// that the quotient would not fit, dmin is the unit and s is multiplied by d / dmin. Q8_0 and f16 are
// finished weights.
//
// What is read for a step is asked for before the products of the half step before it, and a superblock's
// header before the last products of the one before (chain in matmul_batch_products.cuh): a warp would wait
// for shared memory otherwise. Scales of two sub-blocks are worked out together, as the halves of a register.
#pragma once

#include "kernels/cuda/matmul_prompt_decode.cuh"

namespace fl::cuda {

inline constexpr float kUnits = 524288.0f;     ///< 1 / kUnit
inline constexpr float kMostMinima = 1024.0f;  ///< dmin / d beyond which dmin is the unit

/// Of a number far from the edges of f32: no scaling.
__device__ __forceinline__ float reciprocal(float v) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(v));
  return inverse;
}

/// What the sums of a superblock's products are multiplied by: `factor`.
template <PackedType kType, bool kPair>
class UnitDecoder : public FragmentDecoder<kType, kPair> {
 public:
  __device__ __forceinline__ float factor(int /*slot*/) const { return 1.0f; }
};

template <bool kFive, bool kPair>
class UnitDecoderK45 {
 public:
  __device__ __forceinline__ void begin(const FragmentSource<kPair>& from) {
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      const RowHeader h =
          row_header(from.tile[slot] + (kFive ? tile::kQ5Header : tile::kQuants) + from.row(slot) * 16);
      // bytes of sub-blocks j and j + 4 side by side
      scales_[slot][0] = __byte_perm(h.scales[0], h.scales[1], 0x5140U);
      scales_[slot][1] = __byte_perm(h.scales[0], h.scales[1], 0x7362U);
      mins_[slot][0] = __byte_perm(h.mins[0], h.mins[1], 0x5140U);
      mins_[slot][1] = __byte_perm(h.mins[0], h.mins[1], 0x7362U);
      const bool usual = fabsf(h.dmin) <= kMostMinima * fabsf(h.d);
      const float larger = usual ? h.d : h.dmin * (1.0f / kMostMinima);
      const float unit = larger == 0.0f ? 1.0f : larger;
      const float inverse = reciprocal(unit);
      const float share = unit == h.d ? 1.0f : h.d * inverse;
      by_[slot] = __float2half2_rn(32.0f * share);
      less_[slot] = __hmul2(by_[slot], __floats2half2_rn(-1024.0f, -64.0f));
      minima_[slot] = __float2half2_rn(h.dmin * inverse * (-512.0f / kUnits));
      factor_[slot] = unit * kUnits;
    }
    load(from, 0);
  }

  template <int kStep, int kUpper>
  __device__ __forceinline__ void decode(const FragmentSource<kPair>& from, Fragment& a) {
    constexpr uint32_t kMask = kUpper ? 0x00F000F0U : 0x000F000FU;
    constexpr uint32_t kByte = 2 * (kStep & 1);
    constexpr uint32_t kBytes = kByte | (kByte + 1) << 8;
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      if constexpr (kUpper == 0) {
        // 1024 + s of sub-block j; of j + 4, whose quants are 16 q, 64 + s / 16
        scale_[slot] = __hfma2(
            half2_of(__byte_perm(scales_[slot][kStep >> 1], in_register<0x5464U>(), 0x5040U | kBytes)),
            by_[slot], less_[slot]);
        const __half2 minimum = __hfma2(
            half2_of(__byte_perm(mins_[slot][kStep >> 1], in_register<0x64646464U>(), 0x4040U | kBytes)),
            __float2half2_rn(1.0f / 512.0f), __float2half2_rn(-2.0f));
        shift_[slot] = __hmul2(minimum, minima_[slot]);
      }
      const __half2 scale = kUpper ? __high2half2(scale_[slot]) : __low2half2(scale_[slot]);
      const __half2 shift = kUpper ? __high2half2(shift_[slot]) : __low2half2(shift_[slot]);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        uint32_t bits = words_.get(from, slot, r) & kMask;
        if constexpr (kFive) {
          constexpr uint32_t kHighMask = kUpper ? 0x01000100U : 0x00100010U;
          const int by = tile::high_bit_shift(r);
          bits = select_bits<kHighMask>(by >= 0 ? high_[slot] >> by : high_[slot] << -by, bits);
        }
        a[fragment_register(r, slot)] = bits_of(__hfma2(half2_of(bits), scale, shift));
      }
    }
    if constexpr (kUpper == 1 && kStep < 3) {
      load(from, kStep + 1);
    }
  }

  __device__ __forceinline__ float factor(int slot) const {
    return factor_[slot];
  }

 private:
  __device__ __forceinline__ void load(const FragmentSource<kPair>& from, int step) {
    words_.load(from, step);
    if constexpr (kFive) {
#pragma unroll
      for (int slot = 0; slot < 2; ++slot) {
        const uint8_t* at = from.tile[slot] + tile::kQ5High + from.lane * 16 + 4 * step;
        high_[slot] = *reinterpret_cast<const uint32_t*>(at) >> (8 * from.row_group(slot));
      }
    }
  }

  uint32_t scales_[2][2];
  uint32_t mins_[2][2];
  __half2 by_[2];
  __half2 less_[2];
  __half2 minima_[2];
  float factor_[2];
  __half2 scale_[2];  ///< of the step's two sub-blocks
  __half2 shift_[2];
  StepWords<kPair> words_;
  uint32_t high_[2];
};

template <bool kPair>
class UnitDecoder<PackedType::q4_k, kPair> : public UnitDecoderK45<false, kPair> {};
template <bool kPair>
class UnitDecoder<PackedType::q5_k, kPair> : public UnitDecoderK45<true, kPair> {};

template <bool kPair>
class UnitDecoder<PackedType::q6_k, kPair> {
 public:
  __device__ __forceinline__ void begin(const FragmentSource<kPair>& from) {
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      const uint4 s = load16(from.tile[slot] + tile::kQ6Scales + from.row(slot) * 16);
      scales_[slot] = {s.x ^ 0x80808080U, s.y ^ 0x80808080U, s.z ^ 0x80808080U, s.w ^ 0x80808080U};
      factor_[slot] = kUnits * half_to_float(*reinterpret_cast<const uint16_t*>(from.tile[slot] + tile::kQ6D +
                                                                                2 * from.row(slot)));
    }
    load(from, 0);
  }

  template <int kStep, int kUpper>
  __device__ __forceinline__ void decode(const FragmentSource<kPair>& from, Fragment& a) {
    constexpr uint32_t kMask = kUpper ? 0x00F000F0U : 0x000F000FU;
    constexpr uint32_t kHighMask = kUpper ? 0x03000300U : 0x00300030U;
    constexpr int kFirst = 8 * kUpper + 2 * kStep;  // of two scales, each for 16 columns
    constexpr uint32_t kBytes = (kFirst & 3) | ((kFirst & 3) + 1) << 8;
    // 1024 + 128 + s, or a sixteenth of it; 32 times less the offset, and 32 quants less
    const uint32_t magic = kUpper ? in_register<0x54545454U>() : in_register<0x64646464U>();
    const __half2 offset = __float2half2_rn(kUpper ? -32.0f * 72.0f : -32.0f * 1152.0f);
    const __half2 shift_by = __float2half2_rn(kUpper ? -1.0f / 32768.0f : -1.0f / 524288.0f);
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      const __half2 scales =
          __hfma2(half2_of(__byte_perm(word_of(scales_[slot], kFirst >> 2), magic, 0x4040U | kBytes)),
                  __float2half2_rn(32.0f), offset);
      const __half2 shifts = __hmul2(scales, shift_by);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const __half2 scale = r < 2 ? __low2half2(scales) : __high2half2(scales);
        const __half2 shift = r < 2 ? __low2half2(shifts) : __high2half2(shifts);
        const int by = tile::high_pair_shift(r);
        const uint32_t bits = select_bits<kHighMask>(by >= 0 ? high_[slot] >> by : high_[slot] << -by,
                                                     words_.get(from, slot, r) & kMask);
        a[fragment_register(r, slot)] = bits_of(__hfma2(half2_of(bits), scale, shift));
      }
    }
    if constexpr (kUpper == 1 && kStep < 3) {
      load(from, kStep + 1);
    }
  }

  __device__ __forceinline__ float factor(int slot) const {
    return factor_[slot];
  }

 private:
  __device__ __forceinline__ void load(const FragmentSource<kPair>& from, int step) {
    words_.load(from, step);
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      high_[slot] =
          *reinterpret_cast<const uint32_t*>(from.tile[slot] + tile::kQ6High + (step >> 1) * 512 +
                                             from.lane * 16 + 4 * (2 * (step & 1) + from.row_group(slot)));
    }
  }

  uint4 scales_[2];  ///< with the sign bit flipped
  float factor_[2];
  StepWords<kPair> words_;
  uint32_t high_[2];
};

}  // namespace fl::cuda
