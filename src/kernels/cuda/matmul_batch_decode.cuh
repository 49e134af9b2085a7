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
#pragma once

#include "kernels/cuda/matmul_prompt_decode.cuh"

namespace fl::cuda {

inline constexpr float kUnits = 524288.0f;     ///< 1 / kUnit
inline constexpr float kMostMinima = 1024.0f;  ///< dmin / d beyond which dmin is the unit

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
      scales_[slot][0] = h.scales[0];
      scales_[slot][1] = h.scales[1];
      mins_[slot][0] = h.mins[0];
      mins_[slot][1] = h.mins[1];
      const bool usual = fabsf(h.dmin) <= kMostMinima * fabsf(h.d);
      const float larger = usual ? h.d : h.dmin * (1.0f / kMostMinima);
      const float unit = larger == 0.0f ? 1.0f : larger;
      const float inverse = __fdividef(1.0f, unit);
      const float share = unit == h.d ? 1.0f : h.d * inverse;
      by_[slot] = __float2half2_rn(32.0f * share);
      less_[slot][0] = __hmul2(by_[slot], __float2half2_rn(-1024.0f));
      less_[slot][1] = __hmul2(by_[slot], __float2half2_rn(-64.0f));
      minima_[slot] = __float2half2_rn(h.dmin * inverse * (-512.0f / kUnits));
      factor_[slot] = unit * kUnits;
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
    constexpr uint32_t kByte = 0x4040U | static_cast<uint32_t>(kStep) * 0x101U;
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      // 1024 + s, or 64 + s / 16 for quants that are 16 q
      const uint32_t scale_magic = kUpper ? in_register<0x54545454U>() : in_register<0x64646464U>();
      const __half2 scale = __hfma2(half2_of(__byte_perm(scales_[slot][kUpper], scale_magic, kByte)),
                                    by_[slot], less_[slot][kUpper]);
      const __half2 minimum =
          __hfma2(half2_of(__byte_perm(mins_[slot][kUpper], in_register<0x64646464U>(), kByte)),
                  __float2half2_rn(1.0f / 512.0f), __float2half2_rn(-2.0f));
      const __half2 shift = __hmul2(minimum, minima_[slot]);
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
  }

  __device__ __forceinline__ float factor(int slot) const {
    return factor_[slot];
  }

 private:
  uint32_t scales_[2][2];
  uint32_t mins_[2][2];
  __half2 by_[2];
  __half2 less_[2][2];
  __half2 minima_[2];
  float factor_[2];
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
    constexpr int kFirst = 8 * kUpper + 2 * kStep;
    // 1024 + 128 + s, or a sixteenth of it; 32 times less the offset, and 32 quants less
    const uint32_t magic = kUpper ? in_register<0x54545454U>() : in_register<0x64646464U>();
    const __half2 offset = __float2half2_rn(kUpper ? -32.0f * 72.0f : -32.0f * 1152.0f);
    const __half2 shift_by = __float2half2_rn(kUpper ? -1.0f / 32768.0f : -1.0f / 524288.0f);
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // a scale for each 16 columns
        const uint32_t byte = 0x4040U | static_cast<uint32_t>((kFirst & 3) + half) * 0x101U;
        const __half2 scale = __hfma2(half2_of(__byte_perm(word_of(scales_[slot], kFirst >> 2), magic, byte)),
                                      __float2half2_rn(32.0f), offset);
        const __half2 shift = __hmul2(scale, shift_by);
#pragma unroll
        for (int r = 2 * half; r < 2 * half + 2; ++r) {
          const int by = tile::high_pair_shift(r);
          const uint32_t bits = select_bits<kHighMask>(by >= 0 ? high_[slot] >> by : high_[slot] << -by,
                                                       words_.get(from, slot, r) & kMask);
          a[fragment_register(r, slot)] = bits_of(__hfma2(half2_of(bits), scale, shift));
        }
      }
    }
  }

  __device__ __forceinline__ float factor(int slot) const {
    return factor_[slot];
  }

 private:
  uint4 scales_[2];  ///< with the sign bit flipped
  float factor_[2];
  StepWords<kPair> words_;
  uint32_t high_[2];
};

}  // namespace fl::cuda
