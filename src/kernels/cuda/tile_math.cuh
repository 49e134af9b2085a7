// Products of tiles (tile_layout.h) with activation records (activations.cuh) by one warp, in f16 tensor-core
// instructions with f32 sums. The cost of a tile is its decode, once for all tokens, and for each 8 tokens
// the matrix instructions with little beside them.
//
// A weight of Q4_K or Q5_K is used as its quant: masked bits are already the f16 2^-24 q (a denormal) or
// 2^-20 q. The integer scale of a sub-block, as an f32, multiplies the sub-block's sums, the superblock's own
// scale those of the superblock; what the minima take off is a small product of theirs with the sums of the
// activations. Nothing is rounded but sums.
//
// Q6_K is used the same way: its quants without the 32 that they are less by, a signed scale for 16 columns,
// and the 32 taken off by a product of the scales with the sums. High quants' sums are 16 times as large, so
// they are kept apart from the low ones' until the superblock is done (docs/decisions/0068).
//
// Q8_0 is used as 1024 + q + 128, a scale every sub-block, and what the 1152 adds is taken off in the same
// way.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/matmul.h"
#include "kernels/cuda/tile_layout.h"

namespace fl::cuda {

inline constexpr float kUnscaleSums = 1.0f / kSumScale;

__device__ __forceinline__ uint4 load16(const uint8_t* p) {
  return *reinterpret_cast<const uint4*>(p);
}
__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
__device__ __forceinline__ float half_to_float(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

/// c += A B: 16 rows x 16 columns of weights, 16 x 8 of activations.
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// A constant that the compiler keeps in a register: an instruction takes one immediate, and two in one would
/// become two instructions, which for the operations below is a quarter of all.
template <uint32_t kValue>
__device__ __forceinline__ uint32_t in_register() {
  uint32_t value;
  asm("mov.b32 %0, %1;" : "=r"(value) : "n"(kValue));
  return value;
}

/// (w & mask) | bits
template <uint32_t kMask>
__device__ __forceinline__ uint32_t select_bits(uint32_t w, uint32_t bits) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(out) : "r"(w), "n"(kMask), "r"(bits));
  return out;
}

// 2^23 + byte b of w, as a float.
__device__ __forceinline__ float byte_plus_2_23(uint32_t w, int b) {
  return __uint_as_float(__byte_perm(w, in_register<0x4B000000U>(), 0x7540U | static_cast<uint32_t>(b)));
}
inline constexpr float k2_23 = 8388608.0f;

// (byte lo, byte hi) of w as two f16 integers.
__device__ __forceinline__ __half2 bytes_as_half2(uint32_t w, int lo, int hi) {
  const uint32_t bits =
      __byte_perm(w, in_register<0x64646464U>(), 0x4040U | static_cast<uint32_t>(lo | hi << 8));
  return __hsub2(*reinterpret_cast<const __half2*>(&bits), __float2half2_rn(1024.0f));
}
__device__ __forceinline__ uint32_t bits_of(const __half2& h) {
  return *reinterpret_cast<const uint32_t*>(&h);
}
__device__ __forceinline__ __half2 packed_half2(uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}

// Quants masked in place are f16 denormals: 2^-24 q in the low nibbles' place, 2^-20 q in the high ones'.
inline constexpr float k2_24 = 16777216.0f;

/// Scales and minima of a row of Q4_K or Q5_K: sub-blocks 0..3 and 4..7, a byte each.
struct RowHeader {
  uint32_t scales[2];
  uint32_t mins[2];
  float d;
  float dmin;
};
__device__ __forceinline__ RowHeader row_header(const uint4& h) {
  RowHeader r;
  r.d = half_to_float(h.x & 0xFFFFU);
  r.dmin = half_to_float(h.x >> 16);
  r.scales[0] = h.y & 0x3F3F3F3FU;
  r.mins[0] = h.z & 0x3F3F3F3FU;
  r.scales[1] = (h.w & 0x0F0F0F0FU) | ((h.y >> 2) & 0x30303030U);
  r.mins[1] = ((h.w >> 4) & 0x0F0F0F0FU) | ((h.z >> 2) & 0x30303030U);
  return r;
}
__device__ __forceinline__ RowHeader row_header(const uint8_t* p) {
  return row_header(load16(p));
}

inline constexpr uint32_t kMagic = 0x64006400U;  // (1024, 1024)

/// Operands of a sub-block of 32 columns: two products of 16.
using Operands = uint32_t[8];

// 1024 + q or (kHigh) 1024 + 16 q of the nibbles of four words: pair r of rows g and g + 8 in word r.
template <int kHigh>
__device__ __forceinline__ void nibble_operands(Operands& a, const uint4& q) {
  constexpr uint32_t kMask = kHigh ? 0x00F000F0U : 0x000F000FU;
  const uint32_t magic = in_register<kMagic>();
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const uint32_t w = word_of(q, r);
    const int at = (r >> 1) * 4 + (r & 1) * 2;
    a[at] = select_bits<kMask>(w, magic);
    a[at + 1] = select_bits<kMask>(w >> 8, magic);
  }
}
// The same without the 1024: 2^-24 q or 2^-20 q.
template <int kHigh>
__device__ __forceinline__ void quant_operands(Operands& a, const uint4& q) {
  constexpr uint32_t kMask = kHigh ? 0x00F000F0U : 0x000F000FU;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const uint32_t w = word_of(q, r);
    const int at = (r >> 1) * 4 + (r & 1) * 2;
    a[at] = w & kMask;
    a[at + 1] = (w >> 8) & kMask;
  }
}
template <int kShift>
__device__ __forceinline__ uint32_t shifted(uint32_t w) {
  if constexpr (kShift >= 0) {
    return w >> kShift;
  } else {
    return w << -kShift;
  }
}

template <int kHigh>
__device__ __forceinline__ void add_high_bits(Operands& a, uint32_t h) {
  constexpr uint32_t kMask = kHigh ? 0x01000100U : 0x00100010U;
  // operand (r, row8) is at (r >> 1) * 4 + (r & 1) * 2 + row8; its bit index i = 4 row8 + r
  a[0] = select_bits<kMask>(shifted<tile::high_bit_shift(0)>(h), a[0]);
  a[2] = select_bits<kMask>(shifted<tile::high_bit_shift(1)>(h), a[2]);
  a[4] = select_bits<kMask>(shifted<tile::high_bit_shift(2)>(h), a[4]);
  a[6] = select_bits<kMask>(shifted<tile::high_bit_shift(3)>(h), a[6]);
  a[1] = select_bits<kMask>(shifted<tile::high_bit_shift(4)>(h), a[1]);
  a[3] = select_bits<kMask>(shifted<tile::high_bit_shift(5)>(h), a[3]);
  a[5] = select_bits<kMask>(shifted<tile::high_bit_shift(6)>(h), a[5]);
  a[7] = select_bits<kMask>(shifted<tile::high_bit_shift(7)>(h), a[7]);
}
template <int kHigh>
__device__ __forceinline__ void add_high_pairs(Operands& a, uint32_t low_rows, uint32_t high_rows) {
  constexpr uint32_t kMask = kHigh ? 0x03000300U : 0x00300030U;
  a[0] = select_bits<kMask>(shifted<tile::high_pair_shift(0)>(low_rows), a[0]);
  a[2] = select_bits<kMask>(shifted<tile::high_pair_shift(1)>(low_rows), a[2]);
  a[4] = select_bits<kMask>(shifted<tile::high_pair_shift(2)>(low_rows), a[4]);
  a[6] = select_bits<kMask>(shifted<tile::high_pair_shift(3)>(low_rows), a[6]);
  a[1] = select_bits<kMask>(shifted<tile::high_pair_shift(0)>(high_rows), a[1]);
  a[3] = select_bits<kMask>(shifted<tile::high_pair_shift(1)>(high_rows), a[3]);
  a[5] = select_bits<kMask>(shifted<tile::high_pair_shift(2)>(high_rows), a[5]);
  a[7] = select_bits<kMask>(shifted<tile::high_pair_shift(3)>(high_rows), a[7]);
}

// MT: row tiles that share each read of the activations; NT: tiles of 8 tokens.

template <int NT, int MT>
using Accumulators = float[MT][NT][4];

// to -= factor(row) * (A x sums), A given for both tiles.
template <int NT, int MT, typename Sums, typename Acts>
__device__ __forceinline__ void take_off(Sums& to, const uint32_t (&a)[MT][4], const float (&factor)[MT][2],
                                         const Acts& acts) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    const uint4 sums = acts.load(8, nt);
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      float c[4] = {0, 0, 0, 0};
      mma(c, a[mt][0], a[mt][1], a[mt][2], a[mt][3], sums.z, sums.w);
      mma(c, a[mt][0], a[mt][1], a[mt][2], a[mt][3], sums.x, sums.y);
      to.take_off(mt, nt, c, factor[mt]);
    }
  }
}

// acc += scale(row) * (A x activations of sub-block s).
template <int NT, int MT, typename Acts>
__device__ __forceinline__ void add_sub_block(Accumulators<NT, MT>& acc, const Operands (&a)[MT],
                                              const float (&scale)[MT][2], const Acts& acts, int s) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    const uint4 b = acts.load(s, nt);
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      float c[4] = {0, 0, 0, 0};
      mma(c, a[mt][0], a[mt][1], a[mt][2], a[mt][3], b.x, b.y);
      mma(c, a[mt][4], a[mt][5], a[mt][6], a[mt][7], b.z, b.w);
      float* y = acc[mt][nt];
      y[0] += scale[mt][0] * c[0];
      y[1] += scale[mt][0] * c[1];
      y[2] += scale[mt][1] * c[2];
      y[3] += scale[mt][1] * c[3];
    }
  }
}

// acc += A x activations of sub-block s.
template <int NT, int MT, typename Acts>
__device__ __forceinline__ void multiply_sub_block(Accumulators<NT, MT>& acc, const Operands (&a)[MT],
                                                   const Acts& acts, int s) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    const uint4 b = acts.load(s, nt);
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      mma(acc[mt][nt], a[mt][0], a[mt][1], a[mt][2], a[mt][3], b.x, b.y);
      mma(acc[mt][nt], a[mt][4], a[mt][5], a[mt][6], a[mt][7], b.z, b.w);
    }
  }
}

template <int NT, int MT>
__device__ __forceinline__ void clear(Accumulators<NT, MT>& acc) {
#pragma unroll
  for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[mt][nt][i] = 0.0f;
      }
    }
  }
}

// acc += factor(row) * c
template <int NT, int MT>
__device__ __forceinline__ void add_scaled(Accumulators<NT, MT>& acc, const Accumulators<NT, MT>& c,
                                           const float (&factor)[MT][2]) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[mt][nt][i] = fmaf(factor[mt][i >> 1], c[mt][nt][i], acc[mt][nt][i]);
      }
    }
  }
}

// Where the sums of a superblock go: what its offsets take off, then the products. To the sums of its class,
template <int NT, int MT>
struct OwnSums {
  Accumulators<NT, MT>& acc;
  __device__ __forceinline__ void take_off(int mt, int nt, const float (&c)[4], const float (&factor)[2]) {
    float* y = acc[mt][nt];
    y[0] -= factor[0] * c[0];
    y[1] -= factor[0] * c[1];
    y[2] -= factor[1] * c[2];
    y[3] -= factor[1] * c[3];
  }
  __device__ __forceinline__ void add(const Accumulators<NT, MT>& c, const float (&factor)[MT][2]) {
    add_scaled<NT, MT>(acc, c, factor);
  }
};
// ... or to shared memory, for the warp that has the sums of the class: it adds them in their order, so bits
// stay the same. One tile of 8 tokens; of at most four tokens (kFew) only the even columns are anybody's.
template <bool kFew>
class LentSums {
 public:
  static constexpr int kPieces = kFew ? 2 : 3;  // of 16 bytes a lane
  /// `place`: of the superblock, [piece][lane].
  __device__ LentSums(float4* place, int lane) : at_(place + lane) {}
  __device__ __forceinline__ void take_off(int, int, const float (&c)[4], const float (&factor)[2]) {
    if constexpr (kFew) {
      at_[0] = {c[0], c[2], factor[0], factor[1]};
    } else {
      at_[0] = {c[0], c[1], c[2], c[3]};
      offset_factor_ = {factor[0], factor[1]};
    }
  }
  __device__ __forceinline__ void add(const Accumulators<1, 1>& sums, const float (&factor)[1][2]) {
    const float* c = sums[0][0];
    if constexpr (kFew) {
      at_[32] = {c[0], c[2], factor[0][0], factor[0][1]};
    } else {
      at_[32] = {c[0], c[1], c[2], c[3]};
      at_[64] = {offset_factor_.x, offset_factor_.y, factor[0][0], factor[0][1]};
    }
  }
  __device__ __forceinline__ void join(Accumulators<1, 1>& acc) const {
    OwnSums<1, 1> own{acc};
    const float4 less = at_[0];
    const float4 more = at_[32];
    if constexpr (kFew) {
      own.take_off(0, 0, {less.x, 0, less.y, 0}, {less.z, less.w});
      own.add({{{more.x, 0, more.y, 0}}}, {{more.z, more.w}});
    } else {
      const float4 factors = at_[64];
      own.take_off(0, 0, {less.x, less.y, less.z, less.w}, {factors.x, factors.y});
      own.add({{{more.x, more.y, more.z, more.w}}}, {{factors.z, factors.w}});
    }
  }

 private:
  float4* at_;
  float2 offset_factor_{0, 0};
};

// Sums of low and of high quants, which are 16 times as large.
template <int NT, int MT>
__device__ __forceinline__ void join_high(Accumulators<NT, MT>& low, const Accumulators<NT, MT>& high) {
  float factor[MT][2];
#pragma unroll
  for (int mt = 0; mt < MT; ++mt) {
    factor[mt][0] = factor[mt][1] = 0.0625f;
  }
  add_scaled<NT, MT>(low, high, factor);
}

/// Byte j of a and of b, which are below 128, as f16 denormals: (2^-24 a_j, 2^-24 b_j). One permutation: a
/// selector with bit 3 set repeats a byte's sign, here zeros.
template <int j>
__device__ __forceinline__ __half2 byte_pair(uint32_t a, uint32_t b) {
  constexpr uint32_t kSelect = j | (8 | j) << 4 | (4 + j) << 8 | (12 + j) << 12;
  uint32_t pair;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "n"(kSelect));
  return packed_half2(pair);
}

// c += scale(row) * (A x activations of sub-block j or (kHigh) j + 4); scales: of rows g and g + 8.
template <int NT, int MT, bool kFive, int kHigh, int j, typename Acts>
__device__ __forceinline__ void add_k45(Accumulators<NT, MT>& c, const uint4 (&q)[MT],
                                        const uint4 (&high)[MT], const uint32_t (&scales)[MT][2],
                                        const Acts& acts) {
  Operands a[MT];
  float scale[MT][2];
#pragma unroll
  for (int mt = 0; mt < MT; ++mt) {
    quant_operands<kHigh>(a[mt], q[mt]);
    if (kFive) {
      add_high_bits<kHigh>(a[mt], word_of(high[mt], j));
    }
    const float2 pair = __half22float2(byte_pair<j>(scales[mt][0], scales[mt][1]));
    scale[mt][0] = pair.x;
    scale[mt][1] = pair.y;
  }
  add_sub_block<NT, MT>(c, a, scale, acts, j + 4 * kHigh);
}
template <int NT, int MT, bool kFive, int j, typename Acts>
__device__ __forceinline__ void add_k45_pair(Accumulators<NT, MT>& c, Accumulators<NT, MT>& h,
                                             const uint8_t* const (&w)[MT], const uint4 (&high)[MT],
                                             const uint32_t (&scales)[2][MT][2], const Acts& acts, int lane) {
  uint4 q[MT];
#pragma unroll
  for (int mt = 0; mt < MT; ++mt) {
    q[mt] = load16(w[mt] + j * 512 + lane * 16);
  }
  add_k45<NT, MT, kFive, 0, j>(c, q, high, scales[0], acts);
  add_k45<NT, MT, kFive, 1, j>(h, q, high, scales[1], acts);
}

template <int NT, int MT, bool kFive, typename Sums, typename Acts>
__device__ __forceinline__ void unit_k45(Sums& to, const uint8_t* const (&w)[MT], const Acts& acts,
                                         int lane) {
  constexpr int kHeader = kFive ? tile::kQ5Header : tile::kQuants;
  const int g = lane >> 2;
  const int t = lane & 3;
  uint32_t scales[2][MT][2];  // of sub-blocks 0..3 and 4..7, by row
  float d[MT][2];
  uint4 high[MT];
  {
    uint32_t mins[MT][4];
    float dmin_sums[MT][2];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const RowHeader r = row_header(w[mt] + kHeader + (g + 8 * row) * 16);
        scales[0][mt][row] = r.scales[0];
        scales[1][mt][row] = r.scales[1];
        d[mt][row] = r.d * (k2_24 * k2_24);
        dmin_sums[mt][row] = r.dmin * kUnscaleSums;
        mins[mt][row] = bits_of(bytes_as_half2(r.mins[0], t, t));
        mins[mt][2 + row] = bits_of(bytes_as_half2(r.mins[1], t, t));
      }
      if (kFive) {
        high[mt] = load16(w[mt] + tile::kQ5High + lane * 16);
      }
    }
    take_off<NT, MT>(to, mins, dmin_sums, acts);
  }
  Accumulators<NT, MT> c;
  clear<NT, MT>(c);
  Accumulators<NT, MT> h;
  clear<NT, MT>(h);
  add_k45_pair<NT, MT, kFive, 0>(c, h, w, high, scales, acts, lane);
  add_k45_pair<NT, MT, kFive, 1>(c, h, w, high, scales, acts, lane);
  add_k45_pair<NT, MT, kFive, 2>(c, h, w, high, scales, acts, lane);
  add_k45_pair<NT, MT, kFive, 3>(c, h, w, high, scales, acts, lane);
  join_high<NT, MT>(c, h);
  to.add(c, d);
}

// c += scale(row) * (A x activations of a half of a sub-block).
template <int NT, int MT, int kHalf>
__device__ __forceinline__ void add_half(Accumulators<NT, MT>& c, const Operands (&a)[MT],
                                         const float (&scale)[MT][2], const uint4 (&b)[NT]) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      float s[4] = {0, 0, 0, 0};
      constexpr int k = 4 * kHalf;
      mma(s, a[mt][k], a[mt][k + 1], a[mt][k + 2], a[mt][k + 3], kHalf ? b[nt].z : b[nt].x,
          kHalf ? b[nt].w : b[nt].y);
      float* y = c[mt][nt];
      y[0] += scale[mt][0] * s[0];
      y[1] += scale[mt][0] * s[1];
      y[2] += scale[mt][1] * s[2];
      y[3] += scale[mt][1] * s[3];
    }
  }
}
/// Scale i of a row; s: its 16 signed bytes, 128 added to each.
template <int i>
__device__ __forceinline__ float scale_q6(const uint4& s) {
  return byte_plus_2_23(word_of(s, i >> 2), i & 3) - (k2_23 + 128.0f);
}
/// c += scales * (A x activations of sub-block j + 4 kHigh), without the 32; scales: of rows g and g + 8.
template <int NT, int MT, int kHigh, int j, typename Acts>
__device__ __forceinline__ void add_q6(Accumulators<NT, MT>& c, const uint4 (&q)[MT], const uint4 (&high)[MT],
                                       const uint4 (&scales)[MT][2], const Acts& acts) {
  Operands a[MT];
  float scale[2][MT][2];
#pragma unroll
  for (int mt = 0; mt < MT; ++mt) {
    quant_operands<kHigh>(a[mt], q[mt]);
    add_high_pairs<kHigh>(a[mt], word_of(high[mt], 2 * (j & 1)), word_of(high[mt], 2 * (j & 1) + 1));
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      scale[0][mt][row] = scale_q6<8 * kHigh + 2 * j>(scales[mt][row]);
      scale[1][mt][row] = scale_q6<8 * kHigh + 2 * j + 1>(scales[mt][row]);
    }
  }
  uint4 b[NT];
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    b[nt] = acts.load(j + 4 * kHigh, nt);
  }
  add_half<NT, MT, 0>(c, a, scale[0], b);
  add_half<NT, MT, 1>(c, a, scale[1], b);
}

template <int NT, int MT, typename Sums, typename Acts>
__device__ __forceinline__ void unit_q6(Sums& to, const uint8_t* const (&w)[MT], const Acts& acts, int lane) {
  const int g = lane >> 2;
  const int t = lane & 3;
  uint4 scales[MT][2];
  float d[MT][2];
  {
    uint32_t pairs[MT][4];  // scales of sums 2t, 2t + 1, 2t + 8, 2t + 9
    float offset[MT][2];
    const uint32_t select = static_cast<uint32_t>(2 * t) | static_cast<uint32_t>(2 * t + 1) << 8;
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int r = g + 8 * row;
        uint4 s = load16(w[mt] + tile::kQ6Scales + r * 16);
        s.x ^= 0x80808080U;
        s.y ^= 0x80808080U;
        s.z ^= 0x80808080U;
        s.w ^= 0x80808080U;
        scales[mt][row] = s;
        const float factor = half_to_float(*reinterpret_cast<const uint16_t*>(w[mt] + tile::kQ6D + r * 2));
        d[mt][row] = factor * k2_24;
        offset[mt][row] = factor * (32.0f * kUnscaleSums);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t two = half == 0 ? __byte_perm(s.x, s.y, select) : __byte_perm(s.z, s.w, select);
          const uint32_t bits = __byte_perm(two, in_register<0x64646464U>(), 0x4240U);
          pairs[mt][2 * half + row] =
              bits_of(__hsub2(packed_half2(bits), __float2half2_rn(1024.0f + 128.0f)));
        }
      }
    }
    take_off<NT, MT>(to, pairs, offset, acts);
  }
  Accumulators<NT, MT> c;
  clear<NT, MT>(c);
  Accumulators<NT, MT> h;
  clear<NT, MT>(h);
  uint4 high[MT];
  const auto pair = [&]<int j>() {
    uint4 q[MT];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      q[mt] = load16(w[mt] + j * 512 + lane * 16);
      if ((j & 1) == 0) {
        high[mt] = load16(w[mt] + tile::kQ6High + (j >> 1) * 512 + lane * 16);
      }
    }
    add_q6<NT, MT, 0, j>(c, q, high, scales, acts);
    add_q6<NT, MT, 1, j>(h, q, high, scales, acts);
  };
  pair.template operator()<0>();
  pair.template operator()<1>();
  pair.template operator()<2>();
  pair.template operator()<3>();
  join_high<NT, MT>(c, h);
  to.add(c, d);
}

template <int NT, int MT, typename Acts>
__device__ __forceinline__ void unit_q8(Accumulators<NT, MT>& acc, const uint8_t* const (&w)[MT],
                                        const Acts& acts, int lane) {
  const int g = lane >> 2;
  const int t = lane & 3;
  {
    uint32_t offsets[MT][4];  // the scales themselves, once for each half of a sub-block
    float factor[MT][2];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      factor[mt][0] = 1152.0f * kUnscaleSums;
      factor[mt][1] = 1152.0f * kUnscaleSums;
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const uint8_t* s = w[mt] + tile::kQ8D + (g + 8 * row) * 16 + 2 * t;
        offsets[mt][row] = *reinterpret_cast<const uint16_t*>(s) * 0x10001U;
        offsets[mt][2 + row] = *reinterpret_cast<const uint16_t*>(s + 8) * 0x10001U;
      }
    }
    OwnSums<NT, MT> to{acc};
    take_off<NT, MT>(to, offsets, factor, acts);
  }
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    Operands a[MT];
    float scale[MT][2];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      const uint4 q = load16(w[mt] + s * 512 + lane * 16);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          a[mt][(r >> 1) * 4 + (r & 1) * 2 + row] = __byte_perm(
              word_of(q, 2 * row + (r >> 1)), in_register<0x64646464U>(), (r & 1) ? 0x4342U : 0x4140U);
        }
      }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        scale[mt][row] = half_to_float(
            *reinterpret_cast<const uint16_t*>(w[mt] + tile::kQ8D + (g + 8 * row) * 16 + 2 * s));
      }
    }
    add_sub_block<NT, MT>(acc, a, scale, acts, s);
  }
}

template <int NT, int MT, typename Acts>
__device__ __forceinline__ void unit_f16(Accumulators<NT, MT>& acc, const uint8_t* const (&w)[MT],
                                         const Acts& acts, int lane) {
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    uint4 a[MT][2];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      a[mt][0] = load16(w[mt] + (2 * s) * 512 + lane * 16);
      a[mt][1] = load16(w[mt] + (2 * s + 1) * 512 + lane * 16);
    }
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      const uint4 b = acts.load(s, nt);
#pragma unroll
      for (int mt = 0; mt < MT; ++mt) {
        mma(acc[mt][nt], a[mt][0].x, a[mt][0].y, a[mt][0].z, a[mt][0].w, b.x, b.y);
        mma(acc[mt][nt], a[mt][1].x, a[mt][1].y, a[mt][1].z, a[mt][1].w, b.z, b.w);
      }
    }
  }
}

}  // namespace fl::cuda
