// Tiles to f16 rows, for products by a library, in the column order of activation rows (activations.cuh). A
// lane decodes its operands as the product kernels do, but with f16 arithmetic: q * scale is an integer that
// f16 holds, d has its file's f16, so a weight is rounded once or twice.
#include "base/result.h"
#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tile_math.cuh"

namespace fl::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ __half2 as_half2(uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}
__device__ __forceinline__ __half2 both(float v) {
  return __float2half2_rn(v);
}

// Where a lane's two rows go, and which of them exist.
struct Rows {
  __half* row[2];
  bool there[2];
  int t;
};

// The 32 weights of sub-block s of one row, eight a lane (pairs r = 0..3). Of each 16 columns the row has
// first the pairs with even r of all lanes, then those with odd r: two lanes exchange, so that each stores 8
// bytes twice.
__device__ __forceinline__ void store_sub_block(const Rows& rows, int row, int s, const __half2 (&w)[4]) {
  const bool odd = (rows.t & 1) != 0;
  const uint32_t got0 = __shfl_xor_sync(~0U, bits_of(odd ? w[0] : w[1]), 1);
  const uint32_t got1 = __shfl_xor_sync(~0U, bits_of(odd ? w[2] : w[3]), 1);
  if (rows.there[row]) {
    __half* to = rows.row[row] + row_position(s * 32 + (odd ? 4 * (rows.t - 1) + 2 : 4 * rows.t));
    *reinterpret_cast<uint2*>(to) = odd ? uint2{got0, bits_of(w[1])} : uint2{bits_of(w[0]), got0};
    *reinterpret_cast<uint2*>(to + 16) = odd ? uint2{got1, bits_of(w[3])} : uint2{bits_of(w[2]), got1};
  }
}

// w = (v - offset) * scale * d + shift for the pairs of one row.
__device__ __forceinline__ void decode(const Operands& a, int row, float offset, float scale, __half2 d,
                                       __half2 shift, __half2 (&w)[4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const __half2 q = __hsub2(as_half2(a[(r >> 1) * 4 + (r & 1) * 2 + row]), both(offset));
    w[r] = __hfma2(__hmul2(q, both(scale)), d, shift);
  }
}

__device__ __forceinline__ float byte_of(uint32_t w, int i) {
  return byte_plus_2_23(w, i) - k2_23;
}

template <bool kFive>
__device__ __forceinline__ void expand_k45(const uint8_t* w, const Rows& rows, int lane) {
  const int g = lane >> 2;
  RowHeader header[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    header[row] = row_header(w + (kFive ? tile::kQ5Header : tile::kQuants) + (g + 8 * row) * 16);
  }
  uint4 high{};
  if (kFive) {
    high = load16(w + tile::kQ5High + lane * 16);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint4 q = load16(w + j * 512 + lane * 16);
    Operands a[2];
    nibble_operands<0>(a[0], q);
    nibble_operands<1>(a[1], q);
    if (kFive) {
      add_high_bits<0>(a[0], word_of(high, j));
      add_high_bits<1>(a[1], word_of(high, j));
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const RowHeader& h = header[row];
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        __half2 v[4];
        decode(a[upper], row, 1024.0f, byte_of(h.scales[upper], j) * (upper ? 0.0625f : 1.0f), both(h.d),
               both(-h.dmin * byte_of(h.mins[upper], j)), v);
        store_sub_block(rows, row, j + 4 * upper, v);
      }
    }
  }
}

__device__ __forceinline__ void expand_q6(const uint8_t* w, const Rows& rows, int lane) {
  const int g = lane >> 2;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint4 q = load16(w + j * 512 + lane * 16);
    const uint4 high = load16(w + tile::kQ6High + (j >> 1) * 512 + lane * 16);
    Operands a[2];
    nibble_operands<0>(a[0], q);
    nibble_operands<1>(a[1], q);
    add_high_pairs<0>(a[0], word_of(high, 2 * (j & 1)), word_of(high, 2 * (j & 1) + 1));
    add_high_pairs<1>(a[1], word_of(high, 2 * (j & 1)), word_of(high, 2 * (j & 1) + 1));
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int r = g + 8 * row;
      const float d = half_to_float(*reinterpret_cast<const uint16_t*>(w + tile::kQ6D + 2 * r));
      const auto* scales = reinterpret_cast<const int8_t*>(w + tile::kQ6Scales + r * 16);
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        __half2 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float scale =
              static_cast<float>(scales[8 * upper + 2 * j + (i >> 1)]) * (upper ? 0.0625f : 1.0f);
          const __half2 x =
              __hsub2(as_half2(a[upper][(i >> 1) * 4 + (i & 1) * 2 + row]), both(upper ? 1536.0f : 1056.0f));
          v[i] = __hmul2(__hmul2(x, both(scale)), both(d));
        }
        store_sub_block(rows, row, j + 4 * upper, v);
      }
    }
  }
}

__device__ __forceinline__ void expand_q8(const uint8_t* w, const Rows& rows, int lane) {
  const int g = lane >> 2;
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    const uint4 q = load16(w + s * 512 + lane * 16);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float d =
          half_to_float(*reinterpret_cast<const uint16_t*>(w + tile::kQ8D + (g + 8 * row) * 16 + 2 * s));
      __half2 v[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint32_t bits = __byte_perm(word_of(q, 2 * row + (r >> 1)), in_register<0x64646464U>(),
                                          (r & 1) ? 0x4342U : 0x4140U);
        v[r] = __hmul2(__hsub2(as_half2(bits), both(1152.0f)), both(d));
      }
      store_sub_block(rows, row, s, v);
    }
  }
}

__device__ __forceinline__ void expand_f16_tile(const uint8_t* w, const Rows& rows, int lane) {
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    const uint4 a = load16(w + 2 * s * 512 + lane * 16);
    const uint4 b = load16(w + (2 * s + 1) * 512 + lane * 16);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const __half2 v[4] = {as_half2(word_of(a, row)), as_half2(word_of(a, 2 + row)),
                            as_half2(word_of(b, row)), as_half2(word_of(b, 2 + row))};
      store_sub_block(rows, row, s, v);
    }
  }
}

// One warp a tile.
template <PackedType kType>
__global__ void __launch_bounds__(kThreads)
    expand_kernel(const uint8_t* tiles, int n_tiles, int n_superblocks, int n_rows, __half* out) {
  const int index = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  if (index >= n_tiles * n_superblocks) {
    return;
  }
  const int lane = threadIdx.x % 32;
  const int superblock = index % n_superblocks;
  const int row0 = index / n_superblocks * kTileRows + (lane >> 2);
  const uint8_t* w = tiles + static_cast<int64_t>(index) * tile_bytes(kType);
  Rows rows;
  rows.t = lane & 3;
  for (int row = 0; row < 2; ++row) {
    rows.there[row] = row0 + 8 * row < n_rows;
    rows.row[row] = out + (static_cast<int64_t>(row0 + 8 * row) * n_superblocks + superblock) * kSuperblock;
  }
  if constexpr (kType == PackedType::q4_k) {
    expand_k45<false>(w, rows, lane);
  } else if constexpr (kType == PackedType::q5_k) {
    expand_k45<true>(w, rows, lane);
  } else if constexpr (kType == PackedType::q6_k) {
    expand_q6(w, rows, lane);
  } else if constexpr (kType == PackedType::q8_0) {
    expand_q8(w, rows, lane);
  } else {
    expand_f16_tile(w, rows, lane);
  }
}

}  // namespace

void expand_f16(cudaStream_t stream, const PackedMatrix& w, int32_t row0, int32_t n_rows, void* out) {
  FL_CHECK(row0 % kTileRows == 0 && row0 + n_rows <= w.rows, "expansion starts at a whole tile");
  const int n_superblocks = padded_cols(w.cols) / kSuperblock;
  const int n_tiles = padded_rows(n_rows) / kTileRows;
  const uint8_t* tiles = reinterpret_cast<const uint8_t*>(w.data) +
                         static_cast<int64_t>(row0 / kTileRows) * n_superblocks * tile_bytes(w.type);
  const int64_t threads = static_cast<int64_t>(n_tiles) * n_superblocks * 32;
  const auto grid = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  auto* to = static_cast<__half*>(out);
  switch (w.type) {
    case PackedType::q4_k:
      expand_kernel<PackedType::q4_k>
          <<<grid, kThreads, 0, stream>>>(tiles, n_tiles, n_superblocks, n_rows, to);
      break;
    case PackedType::q5_k:
      expand_kernel<PackedType::q5_k>
          <<<grid, kThreads, 0, stream>>>(tiles, n_tiles, n_superblocks, n_rows, to);
      break;
    case PackedType::q6_k:
      expand_kernel<PackedType::q6_k>
          <<<grid, kThreads, 0, stream>>>(tiles, n_tiles, n_superblocks, n_rows, to);
      break;
    case PackedType::q8_0:
      expand_kernel<PackedType::q8_0>
          <<<grid, kThreads, 0, stream>>>(tiles, n_tiles, n_superblocks, n_rows, to);
      break;
    case PackedType::f16:
      expand_kernel<PackedType::f16>
          <<<grid, kThreads, 0, stream>>>(tiles, n_tiles, n_superblocks, n_rows, to);
      break;
  }
  check_launch("expand");
}

}  // namespace fl::cuda
