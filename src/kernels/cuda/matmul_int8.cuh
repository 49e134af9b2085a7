// The int8 product (matmul_int8.h). A block takes 128 rows (for swiglu 64 of gate and the same 64 of up) and
// 128 or 64 tokens. A warp has a tile of 16 rows: it decodes the weights from global memory once for all
// tokens of the block, and reads activations that the block brings to shared memory, a superblock ahead.
//
// What costs is not the matrix instruction (16 clocks of a quarter of an SM on compute capability 8.6
// and 8.9) but what turns its integers into scaled f32 sums. That is two instructions a sum here:
// * Its integer accumulator starts at the bits of 1.5 * 2^23 = M: the result's bits are the float M + sum.
// * fma(result, w, -M w) is sum * w, rounded once: the scale w of a row has at most 19 bits, so that M w is
//   exact. A second fma multiplies by the token's scale and accumulates.
// Weights keep the high bits of a byte, with the sign bit flipped: a nibble becomes 16 (q - 8) by one logical
// operation, and the middle of its range becomes 0. What Q4_K and Q5_K then still have as an offset is small;
// it comes in with one f16 product a superblock (offsets by sums of activations), into the same accumulators.
#pragma once

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int8_params.h"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tile_math.cuh"

namespace fl::cuda {

inline constexpr uint32_t kMagicSum = 0x4B400000U;  // 1.5 * 2^23
inline constexpr float kMagicValue = 12582912.0f;
inline constexpr float kInt8WeightScale = 64.0f;  // of scales and offsets: keeps the offsets normal as f16
inline constexpr uint32_t kSigns = 0x80808080U;

__device__ __forceinline__ float sum_plus_magic(const IntSums& s, int i) {
  return __uint_as_float(s.c[i]);
}

/// What the sums start from, in registers that stay: the compiler would load a constant again for every
/// product. What comes from shared memory by a volatile load it has to keep.
__device__ __forceinline__ IntSums magic_sums(uint32_t* shared_word, int lane) {
  if (lane == 0) {
    *shared_word = kMagicSum;
  }
  __syncwarp();
  IntSums s;
#pragma unroll
  for (uint32_t& c : s.c) {
    asm volatile("ld.volatile.shared.u32 %0, [%1];" : "=r"(c) : "r"(shared_address(shared_word)) : "memory");
  }
  return s;
}

/// (w & mask) ^ flip
template <uint32_t kMask, uint32_t kFlip>
__device__ __forceinline__ uint32_t select_and_flip(uint32_t w) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(out) : "r"(w), "n"(kMask), "r"(in_register<kFlip>()));
  return out;
}

template <PackedType kType>
inline constexpr bool kHasOffsets = kType == PackedType::q4_k || kType == PackedType::q5_k;
/// Scales of a sub-block.
template <PackedType kType>
inline constexpr int kScalesOf = kType == PackedType::q6_k ? 2 : 1;

/// What a lane has of a row tile's superblock besides its quants: rows g and g + 8.
template <PackedType kType>
struct RawHeader {
  uint4 row[2];   ///< Q4_K, Q5_K: the file's; Q6_K: scales; Q8_0: scales as f16
  uint16_t d[2];  ///< Q6_K
};
/// Quants of sub-blocks j and j + 4.
struct RawPair {
  uint4 low;
  uint4 other;  ///< Q8_0: sub-block j + 4; Q5_K: x has the high bits; Q6_K: x and y have them
};

__device__ __forceinline__ uint4 load16_once(const uint8_t* p) {
  return __ldg(reinterpret_cast<const uint4*>(p));
}

template <PackedType kType>
__device__ __forceinline__ void load_header(RawHeader<kType>& h, const uint8_t* tile, int lane) {
  const int g = lane >> 2;
  constexpr int kAt = kType == PackedType::q4_k   ? tile::kQuants
                      : kType == PackedType::q5_k ? tile::kQ5Header
                      : kType == PackedType::q6_k ? tile::kQ6Scales
                                                  : tile::kQ8D;
  h.row[0] = load16_once(tile + kAt + g * 16);
  h.row[1] = load16_once(tile + kAt + (g + 8) * 16);
  if constexpr (kType == PackedType::q6_k) {
    h.d[0] = __ldg(reinterpret_cast<const uint16_t*>(tile + tile::kQ6D) + g);
    h.d[1] = __ldg(reinterpret_cast<const uint16_t*>(tile + tile::kQ6D) + g + 8);
  }
}

template <PackedType kType>
__device__ __forceinline__ void load_pair(RawPair& r, const uint8_t* tile, int j, int lane) {
  r.low = load16_once(tile + j * 512 + lane * 16);
  if constexpr (kType == PackedType::q8_0) {
    r.other = load16_once(tile + (j + 4) * 512 + lane * 16);
  }
  if constexpr (kType == PackedType::q5_k) {
    r.other.x = __ldg(reinterpret_cast<const uint32_t*>(tile + tile::kQ5High + lane * 16) + j);
  }
  if constexpr (kType == PackedType::q6_k) {
    const uint2 high =
        __ldg(reinterpret_cast<const uint2*>(tile + tile::kQ6High + (j >> 1) * 512 + lane * 16) + (j & 1));
    r.other.x = high.x;
    r.other.y = high.y;
  }
}

/// A header as numbers: the bytes of its scales (sub-blocks 0..3 and 4..7; Q6_K: biased by 128) and d.
template <PackedType kType>
struct Scales {
  uint4 row[2];
  float d[2];
};

template <PackedType kType>
__device__ __forceinline__ void open_header(Scales<kType>& s, const RawHeader<kType>& h) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if constexpr (kHasOffsets<kType>) {
      const RowHeader r = row_header(h.row[row]);
      s.row[row].x = r.scales[0];
      s.row[row].y = r.scales[1];
      s.d[row] = r.d * (kInt8WeightScale / (kType == PackedType::q4_k ? 16.0f : 8.0f));
    } else if constexpr (kType == PackedType::q6_k) {
      s.row[row] = {h.row[row].x ^ kSigns, h.row[row].y ^ kSigns, h.row[row].z ^ kSigns,
                    h.row[row].w ^ kSigns};
      s.d[row] = half_to_float(h.d[row]) * (kInt8WeightScale / 4.0f);
    } else {
      s.row[row] = h.row[row];
    }
  }
}

/// Operands of the offsets' product: row g, row g + 8, for sub-blocks 2t and 2t + 1.
template <PackedType kType>
__device__ __forceinline__ void offset_operands(uint32_t (&a)[2], const RawHeader<kType>& h, int t) {
  constexpr float kMiddle = kType == PackedType::q4_k ? 8.0f : 16.0f;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const RowHeader r = row_header(h.row[row]);
    const uint32_t scales = (t < 2 ? r.scales[0] : r.scales[1]) >> (16 * (t & 1));
    const uint32_t mins = (t < 2 ? r.mins[0] : r.mins[1]) >> (16 * (t & 1));
    const float d = r.d * (kMiddle * kInt8WeightScale);
    const float dmin = r.dmin * kInt8WeightScale;
    float o[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      o[i] = (byte_plus_2_23(scales, i) - k2_23) * d - (byte_plus_2_23(mins, i) - k2_23) * dmin;
    }
    a[row] = pack_half2(o[0], o[1]);
  }
}

/// Operands of sub-blocks j and j + 4, each with the scales of its rows (w) and -1.5 * 2^23 times them (n).
template <PackedType kType>
struct WeightPair {
  uint32_t a[2][4];
  float w[2][kScalesOf<kType>][2];
  float n[2][kScalesOf<kType>][2];
};

// Bytes of rows g (even) and g + 8 (odd) of two words, apart: operands 2i and 2i + 1 of words 2i, 2i + 1.
__device__ __forceinline__ void split_rows(uint32_t (&rows)[4], const uint4& q) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows[2 * i] = __byte_perm(word_of(q, 2 * i), word_of(q, 2 * i + 1), 0x6420);
    rows[2 * i + 1] = __byte_perm(word_of(q, 2 * i), word_of(q, 2 * i + 1), 0x7531);
  }
}

template <PackedType kType>
__device__ __forceinline__ void decode_quants(WeightPair<kType>& o, const RawPair& r) {
  if constexpr (kType == PackedType::q8_0) {
    // words 0, 1: row g; words 2, 3: row g + 8
    const uint4 a = r.low;
    const uint4 b = r.other;
    o.a[0][0] = a.x ^ kSigns, o.a[0][1] = a.z ^ kSigns, o.a[0][2] = a.y ^ kSigns, o.a[0][3] = a.w ^ kSigns;
    o.a[1][0] = b.x ^ kSigns, o.a[1][1] = b.z ^ kSigns, o.a[1][2] = b.y ^ kSigns, o.a[1][3] = b.w ^ kSigns;
    return;
  }
  uint32_t q[4];
  split_rows(q, r.low);
  if constexpr (kType == PackedType::q4_k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      o.a[0][i] = select_and_flip<0xF0F0F0F0U, kSigns>(q[i] << 4);
      o.a[1][i] = select_and_flip<0xF0F0F0F0U, kSigns>(q[i]);
    }
  } else if constexpr (kType == PackedType::q5_k) {
    // byte 2h + (row > 7) of the word of high bits: bit r for sub-block j, bit 4 + r for j + 4, as in the
    // nibbles
    const uint32_t high = r.other.x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // pairs r = 2 (i >> 1) and the next, bytes of row (i & 1)
      const int r0 = 2 * (i >> 1);
      const uint32_t selector = (i & 1) ? 0x7531U : 0x6420U;
      const uint32_t low_bits = __byte_perm(high << (7 - r0), high << (6 - r0), selector);
      const uint32_t high_bits = __byte_perm(high << (3 - r0), r0 == 0 ? high << 2 : high, selector);
      o.a[0][i] = select_bits<0x78787878U>(q[i] << 3, select_and_flip<kSigns, kSigns>(low_bits));
      o.a[1][i] = select_bits<0x78787878U>(q[i] >> 1, select_and_flip<kSigns, kSigns>(high_bits));
    }
  } else {
    // the word of a row: half word h has the pairs r = 0, 1 in its first byte, r = 2, 3 in its second, two
    // bits each, first those of sub-block j
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = (i & 1) ? r.other.y : r.other.x;
      const uint32_t pairs = __byte_perm(word, word >> 2, i < 2 ? 0x6420U : 0x7531U);
      o.a[0][i] = select_bits<0x3C3C3C3CU>(q[i] << 2, select_and_flip<0xC0C0C0C0U, kSigns>(pairs << 6));
      o.a[1][i] = select_bits<0x3C3C3C3CU>(q[i] >> 2, select_and_flip<0xC0C0C0C0U, kSigns>(pairs << 2));
    }
  }
}

template <PackedType kType>
__device__ __forceinline__ void decode_scales(WeightPair<kType>& o, const Scales<kType>& s, int j) {
#pragma unroll
  for (int up = 0; up < 2; ++up) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      // Q6_K and Q8_0 have two words for sub-blocks 0..3 and two for 4..7
      const uint4& words = s.row[row];
      const uint32_t word = up ? (j < 2 ? words.z : words.w) : (j < 2 ? words.x : words.y);
#pragma unroll
      for (int half = 0; half < kScalesOf<kType>; ++half) {
        float w;
        if constexpr (kHasOffsets<kType>) {
          w = (byte_plus_2_23(up ? words.y : words.x, j) - k2_23) * s.d[row];
        } else if constexpr (kType == PackedType::q6_k) {
          w = (byte_plus_2_23(word, 2 * (j & 1) + half) - (k2_23 + 128.0f)) * s.d[row];
        } else {
          w = half_to_float(word >> (16 * (j & 1)) & 0xFFFFU) * kInt8WeightScale;
        }
        o.w[up][half][row] = w;
        o.n[up][half][row] = -kMagicValue * w;
      }
    }
  }
}

__device__ __forceinline__ void add_scaled(float (&acc)[4], const IntSums& sums, const float (&w)[2],
                                           const float (&n)[2], float scale0, float scale1) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float product = fmaf(sum_plus_magic(sums, i), w[i >> 1], n[i >> 1]);
    acc[i] = fmaf((i & 1) ? scale1 : scale0, product, acc[i]);
  }
}

inline constexpr int kFactorStride = kInt8BlockRows + 4;  // floats of a token: 64 of gate, 64 of up

inline constexpr int kTilesPerGroup = kInt8Tokens / 8;

template <int NT>
using Int8Accumulators = float[NT][4];

/// acc += the products of a pair of sub-blocks. `quants` and `scales`: of the lane, for the block's first
/// token.
template <PackedType kType, int NT>
__device__ __forceinline__ void add_pair(Int8Accumulators<NT>& acc, const IntSums& start,
                                         const WeightPair<kType>& w, const uint8_t* quants,
                                         const uint8_t* scales) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    const int group = nt / kTilesPerGroup * kInt8GroupBytes;
    const uint4 b = load16(quants + group + nt % kTilesPerGroup * (8 * 64));
    const float4 s = *reinterpret_cast<const float4*>(scales + group + nt % kTilesPerGroup * (8 * 8));
    float(&y)[4] = acc[nt];
    if constexpr (kScalesOf<kType> == 1) {
      add_scaled(y, mma_int8(start, w.a[0], b.x, b.y), w.w[0][0], w.n[0][0], s.x, s.z);
      add_scaled(y, mma_int8(start, w.a[1], b.z, b.w), w.w[1][0], w.n[1][0], s.y, s.w);
    } else {
      add_scaled(y, mma_int8_half(start, w.a[0][0], w.a[0][1], b.x), w.w[0][0], w.n[0][0], s.x, s.z);
      add_scaled(y, mma_int8_half(start, w.a[0][2], w.a[0][3], b.y), w.w[0][1], w.n[0][1], s.x, s.z);
      add_scaled(y, mma_int8_half(start, w.a[1][0], w.a[1][1], b.z), w.w[1][0], w.n[1][0], s.y, s.w);
      add_scaled(y, mma_int8_half(start, w.a[1][2], w.a[1][3], b.w), w.w[1][1], w.n[1][1], s.y, s.w);
    }
  }
}

/// kGroups: groups of 64 tokens that a block takes.
template <PackedType kType, int kGroups>
__global__ void __launch_bounds__(kInt8Threads, 1) int8_kernel(const __grid_constant__ Int8Params p) {
  constexpr int NT = kGroups * kTilesPerGroup;
  constexpr int kStageBytes = kGroups * kInt8GroupBytes;
  constexpr int kTileBytes = tile_bytes(kType);
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ uint32_t magic[kInt8Warps];
  let_next_start();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int token_blocks = (p.n_groups + kGroups - 1) / kGroups;
  const int row_block = static_cast<int>(blockIdx.x) / token_blocks;
  const int first_group = (static_cast<int>(blockIdx.x) - row_block * token_blocks) * kGroups;
  int segment = 0;
  while (segment + 1 < p.n_segments && row_block >= p.segments[segment + 1].first) {
    ++segment;
  }
  const Int8Segment& s = p.segments[segment];
  // the warp's tile: one of the block's eight; for swiglu four of gate, then the same of up. Beyond the
  // matrix its last tile repeats.
  const bool pairs = s.w_up != nullptr;
  const bool up = pairs && warp >= kInt8Warps / 2;
  const int block_tile = (row_block - s.first) * (pairs ? kInt8Warps / 2 : kInt8Warps);
  const int tile = block_tile + (up ? warp - kInt8Warps / 2 : warp);
  const uint8_t* weights = (up ? s.w_up : s.w) + static_cast<int64_t>(min(tile, (s.rows - 1) / kTileRows)) *
                                                     p.n_superblocks * kTileBytes;
  RawHeader<kType> header;
  RawPair raw;
  load_header<kType>(header, weights, lane);
  load_pair<kType>(raw, weights, 0, lane);
  wait_for_previous();

  const int copied = min(kGroups, p.n_groups - first_group) * kInt8GroupBytes;
  const auto copy_stage = [&](int k) {
    const uint8_t* from =
        p.activations + (static_cast<int64_t>(k) * p.n_groups + first_group) * kInt8GroupBytes;
    uint8_t* to = shared + (k & 1) * kStageBytes;
    for (int at = static_cast<int>(threadIdx.x) * 16; at < copied; at += kInt8Threads * 16) {
      copy_async_16(to + at, from + at);
    }
    copy_async_commit();
  };
  copy_stage(0);

  const IntSums start = magic_sums(magic + warp, lane);
  Int8Accumulators<NT> acc;
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      acc[nt][i] = 0.0f;
    }
  }
  for (int k = 0; k < p.n_superblocks; ++k) {
    copy_async_wait<0>();
    __syncthreads();
    if (k + 1 < p.n_superblocks) {
      copy_stage(k + 1);
    }
    const uint8_t* stage = shared + (k & 1) * kStageBytes;
    Scales<kType> scales;
    open_header<kType>(scales, header);
    if constexpr (kHasOffsets<kType>) {
      uint32_t offsets[2];
      offset_operands<kType>(offsets, header, lane & 3);
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) {
        const uint8_t* sums = stage + nt / kTilesPerGroup * kInt8GroupBytes + kInt8Sums +
                              nt % kTilesPerGroup * (8 * 16) + lane * 4;
        mma_f16_k8(acc[nt], offsets[0], offsets[1], *reinterpret_cast<const uint32_t*>(sums));
      }
    }
    // Not unrolled: a superblock's instructions would not fit the first instruction cache.
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      WeightPair<kType> operands;
      decode_quants<kType>(operands, raw);
      decode_scales<kType>(operands, scales, j);
      // the next pair is on its way while this one is multiplied
      if (j == 3) {
        weights += kTileBytes;
      }
      if (j < 3 || k + 1 < p.n_superblocks) {
        load_pair<kType>(raw, weights, (j + 1) & 3, lane);
        if (j == 3) {
          load_header<kType>(header, weights, lane);
        }
      }
      add_pair<kType, NT>(acc, start, operands, stage + j * (kInt8Tokens * 64) + lane * 16,
                          stage + kInt8Scales + j * (kInt8Tokens * 8) + (lane & 3) * 16);
    }
  }

  constexpr float kResult = 1.0f / (kActivationScale * kInt8WeightScale);
  const int g = lane >> 2;
  const int t = lane & 3;
  const int first_token = first_group * kInt8Tokens;
  if (!pairs) {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = tile * kTileRows + g + 8 * (i >> 1);
        const int token = first_token + nt * 8 + 2 * t + (i & 1);
        if (row < s.rows && token < p.n_tokens) {
          float* y = s.y + token * s.stride + row;
          const float value = acc[nt][i] * kResult;
          *y = p.add != 0 ? *y + value : value;
        }
      }
    }
    return;
  }
  // gate and up of 64 rows: through shared memory into the order in which activations are written
  constexpr int kRows = kInt8BlockRows / 2;
  float* factors = reinterpret_cast<float*>(shared);
  __syncthreads();
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      factors[(nt * 8 + 2 * t + (i & 1)) * kFactorStride + warp * kTileRows + g + 8 * (i >> 1)] =
          acc[nt][i] * kResult;
    }
  }
  __syncthreads();
  const int row0 = block_tile * kTileRows;
  const auto swiglu = [&](const float* gate, int row) {
    return row0 + row < s.rows ? gate[0] / (1.0f + __expf(-gate[0])) * gate[kRows] : 0.0f;
  };
  for (int i = threadIdx.x; i < kGroups * kInt8Tokens * (kRows / 4); i += kInt8Threads) {
    const int token = i / (kRows / 4);
    const int row = i % (kRows / 4) * 4;
    if (first_token + token < p.n_tokens && row0 + row < p.out.padded_cols) {
      const float* gate = factors + token * kFactorStride + row;
      store_activations4(p.out, first_token + token, row0 + row,
                         {swiglu(gate, row), swiglu(gate + 1, row + 1), swiglu(gate + 2, row + 2),
                          swiglu(gate + 3, row + 3)});
    }
  }
}

template <PackedType kType>
void launch_int8(cudaStream_t stream, bool overlap, int groups, int grid, const Int8Params& p) {
  const auto run = [&](auto kernel, int n) {
    const int shared_bytes = 2 * n * kInt8GroupBytes;
    prepare_shared(kernel, shared_bytes, "int8 product");
    launch(kernel, {dim3(static_cast<unsigned>(grid)), dim3(kInt8Threads), shared_bytes}, stream, overlap,
           "int8 product", p);
  };
  static_assert(2 * 2 * kInt8GroupBytes <= (99 << 10), "a block of compute capability 8.6, 8.9 and 12.0");
  static_assert(2 * kInt8GroupBytes >= kInt8Tokens * kFactorStride * 4, "swiglu passes through it");
  groups == 2 ? run(int8_kernel<kType, 2>, 2) : run(int8_kernel<kType, 1>, 1);
}

}  // namespace fl::cuda
