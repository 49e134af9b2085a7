// What the scans over chunks share, with mma.sync (gated_delta_scan.cu) and with warpgroup products
// (gated_delta_scan_sm90a_128.cu): how a chunk comes into shared memory, and a lane's part of everything.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/cuda/gated_delta_chunks.cuh"

namespace fl::cuda {

// A warp has 16 columns of S and everything that belongs to them, transposed: rows of its products are
// columns of S, so that a result is the next product's first operand in the registers where it is. Row g of a
// tile is column 2g, row g + 8 column 2g + 1, which makes them neighbours in memory. Warps share only what
// they read.
inline constexpr int kScanWarps = 4;
inline constexpr int kWarpColumns = 16;
inline constexpr int kScanColumns = kScanWarps * kWarpColumns;
inline constexpr int kFetchThreads = 128;  // of more warps, which bring what the others multiply
inline constexpr int kScanThreads = kScanWarps * kWarp + kFetchThreads;
inline constexpr int kValuePieces = kScanColumns / 4;  // 16-byte pieces of a row of V, f32

struct alignas(1024) ScanStage {
  uint4 k[kChunk * 2 * kPieces];
  uint4 q[kChunk * kPieces];
  uint4 t[kChunk * 2 * kChunkPieces];
  uint4 p[kChunk * kChunkPieces];
  uint4 v[kChunk * kValuePieces];
  float decay[kChunk];       // e^c
  float decay_left[kChunk];  // e^(c_last - c)
};

// Piece c of row r of V at c ^ 2 (r / 2 % 4): lanes read pairs of columns of rows 2t and 2t + 1.
__device__ __forceinline__ int swizzled_value(int row, int piece) {
  return row * kValuePieces + (piece ^ (row / 2 % 4 * 2));
}

// Of `from` nothing is read when it is not there.
template <int kBytes>
__device__ __forceinline__ void copy_or_clear(uint32_t address, const void* from, bool there) {
  const int bytes = there ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes),
                 "r"(bytes));
  }
}

// Rows of kRow pieces, by all threads that fetch; from row `n` on zeros. kPitch: pieces between rows in
// shared memory. kToDiagonal: of rows of one or two parts of kChunkPieces, only what is not above the
// diagonal's blocks.
template <int kRow, int kPitch, bool kToDiagonal, typename Place>
__device__ __forceinline__ void fetch_rows(int thread, const float* from, int64_t width, int n,
                                           Place&& place) {
  constexpr int kStep = kFetchThreads / kRow;
  constexpr int kSame = 8 % kStep == 0 ? 8 / kStep : 1;  // steps after which a place's swizzle comes again
  const int piece = thread % kRow;
  const int row0 = thread / kRow;
  const float* at = from + row0 * width + piece * 4;
  uint32_t to[kSame];
#pragma unroll
  for (int i = 0; i < kSame; ++i) {
    to[i] = static_cast<uint32_t>(__cvta_generic_to_shared(place(row0 + i * kStep, piece)));
  }
#pragma unroll
  for (int i = 0; i < kChunk / kStep; ++i, at += kStep * width) {
    const int row = row0 + i * kStep;
    if (!kToDiagonal || piece % kChunkPieces * 8 <= (row | 15)) {
      copy_or_clear<16>(to[i % kSame] + i / kSame * kSame * kStep * kPitch * 16, at, row < n);
    }
  }
}

// Piece c of row r of a tile of panels: [64 rows][8 pieces] each, as warpgroup products read them.
__device__ __forceinline__ int panel_place(int row, int piece) {
  return piece / 8 * kChunk * 8 + swizzled<8>(row, piece % 8);
}

// Everything that a chunk needs; `kPanels`: K, Q, T and P in panels, else row by row.
template <bool kPanels>
__device__ __forceinline__ void fetch_chunk(const ChunkArgs& a, const DeltaRun& chunk, int head, int column0,
                                            int thread, ScanStage& s) {
  const int64_t width = a.dims.conv_channels();
  const int qk = a.dims.qk_channels();
  const int n = chunk.n_tokens;
  const float* const q = a.mixed + chunk.first * width + head % a.dims.key_heads * kDim;
  const float* const v = a.mixed + chunk.first * width + 2 * qk + head * kDim + column0;
  const auto halves = [&](auto pieces, auto to_diagonal, const float* from, uint4* to) {
    constexpr int kRow = decltype(pieces)::value;
    fetch_rows<kRow, kPanels ? 8 : kRow, decltype(to_diagonal)::value>(
        thread, from, width, n, [&](int row, int piece) {
          return to + (kPanels ? panel_place(row, piece) : swizzled<kRow>(row, piece));
        });
  };
  halves(std::integral_constant<int, 2 * kPieces>{}, std::false_type{}, q + qk, s.k);
  halves(std::integral_constant<int, kPieces>{}, std::false_type{}, q, s.q);
  fetch_rows<kValuePieces, kValuePieces, false>(
      thread, v, width, n, [&](int row, int piece) { return s.v + swizzled_value(row, piece); });
  halves(std::integral_constant<int, 2 * kChunkPieces>{}, std::true_type{},
         a.spare + spare_t(a.dims, chunk.first, head), s.t);
  halves(std::integral_constant<int, kChunkPieces>{}, std::true_type{},
         a.spare + spare_p(a.dims, chunk.first, head), s.p);
  static_assert(kFetchThreads == 2 * kChunk);
  const int row = thread % kChunk;
  const int64_t token = chunk.first + row;
  const bool left = thread >= kChunk;
  copy_or_clear<4>(
      static_cast<uint32_t>(__cvta_generic_to_shared((left ? s.decay_left : s.decay) + row)),
      a.spare + (left ? spare_decay_left(a.dims, token, head) : spare_decay(a.dims, token, head)), row < n);
}

// The power of two that brings the largest of a warp's values to just below 2^kLargest. The low parts of
// halves keep 2^-25, far less than a float's last bit of the largest.
inline constexpr int kLargestS = 14;
inline constexpr int kLargestX = 5;
inline constexpr int kMostScale = 40;
template <int kLargest, int kTiles>
__device__ __forceinline__ int scale_of(const float (&x)[kTiles][4]) {
  float most[8] = {};  // independent of one another: nothing else runs beside this warp
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float& m = most[n % 2 * 4 + e];
      m = fmaxf(m, fabsf(x[n][e]));
    }
  }
  const float all = fmaxf(fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])),
                          fmaxf(fmaxf(most[4], most[5]), fmaxf(most[6], most[7])));
  const auto exponent = static_cast<int>(__reduce_max_sync(0xFFFFFFFFU, __float_as_uint(all)) >> 23);
  return max(-kMostScale, min(126 + kLargest - exponent, kMostScale));
}

// Columns 16 step .. + 15 of a warp's 16 rows as the first operand, times `by`.
template <int kTiles>
__device__ __forceinline__ PairA operand(const float (&x)[kTiles][4], int step, float by) {
  PairA a;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* const from = x[2 * step + i / 2] + i % 2 * 2;
    a.set(i, from[0] * by, from[1] * by);
  }
  return a;
}

// What a scanning warp works on: a lane's place in memory.
struct ScanPlace {
  int head, column0;  // of the block
  int my_column;      // of the block's: this lane's first; and the next
  int t;
  __device__ __forceinline__ ScanPlace()
      : head(static_cast<int>(blockIdx.y)),
        column0(static_cast<int>(blockIdx.x) * kScanColumns),
        my_column(static_cast<int>(threadIdx.x) / kWarp * kWarpColumns +
                  static_cast<int>(threadIdx.x) % kWarp / 4 * 2),
        t(static_cast<int>(threadIdx.x) % 4) {}
};
__device__ __forceinline__ float* lane_state(const ChunkArgs& a, const DeltaRun& first,
                                             const ScanPlace& place) {
  return a.state.base + first.state_row * a.state.row_stride +
         static_cast<int64_t>(place.head) * kDim * kDim + place.column0 + place.my_column +
         2 * place.t * kDim;
}
__device__ __forceinline__ void load_state(const float* state, bool there, float (&s)[kDim / 8][4]) {
#pragma unroll
  for (int tile = 0; tile < kDim / 8; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float2 v =
          there ? *reinterpret_cast<const float2*>(state + (8 * tile + e) * kDim) : make_float2(0, 0);
      s[tile][e] = v.x;
      s[tile][2 + e] = v.y;
    }
  }
}
__device__ __forceinline__ void store_state(float* state, const float (&s)[kDim / 8][4]) {
#pragma unroll
  for (int tile = 0; tile < kDim / 8; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      *reinterpret_cast<float2*>(state + (8 * tile + e) * kDim) = make_float2(s[tile][e], s[tile][2 + e]);
    }
  }
}

// From K S times 2^-down and Q S: X = V - diag(e^c) K S, and diag(e^c) Q S.
__device__ __forceinline__ void take_predictions(const ScanStage& stage, const ScanPlace& place, float down,
                                                 float (&x)[kChunk / 8][4], float (&o)[kChunk / 8][4]) {
#pragma unroll
  for (int tile = 0; tile < kChunk / 8; ++tile) {
    const int i = 8 * tile + 2 * place.t;
    const float2 decay = *reinterpret_cast<const float2*>(stage.decay + i);
    const auto value = [&](int row) {
      const uint4* const piece = stage.v + swizzled_value(row, place.my_column / 4);
      return reinterpret_cast<const float2*>(piece)[place.my_column / 2 % 2];
    };
    const float2 v0 = value(i);
    const float2 v1 = value(i + 1);
    x[tile][0] = v0.x - decay.x * (x[tile][0] * down);
    x[tile][1] = v1.x - decay.y * (x[tile][1] * down);
    x[tile][2] = v0.y - decay.x * (x[tile][2] * down);
    x[tile][3] = v1.y - decay.y * (x[tile][3] * down);
    o[tile][0] *= decay.x;
    o[tile][1] *= decay.y;
    o[tile][2] *= decay.x;
    o[tile][3] *= decay.y;
  }
}

__device__ __forceinline__ void store_outputs(const ChunkArgs& a, const DeltaRun& chunk,
                                              const ScanPlace& place, float down,
                                              const float (&o)[kChunk / 8][4]) {
  const int64_t width = a.dims.conv_channels();
  float* const out = a.mixed + (chunk.first + 2 * place.t) * width + 2 * a.dims.qk_channels() +
                     place.head * kDim + place.column0 + place.my_column;
#pragma unroll
  for (int tile = 0; tile < kChunk / 8; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (8 * tile + 2 * place.t + e < chunk.n_tokens) {
        *reinterpret_cast<float2*>(out + (8 * tile + e) * width) =
            make_float2(o[tile][e] * down, o[tile][2 + e] * down);
      }
    }
  }
}

// D as the first operand: its high parts alone, for P; and times e^(c_last - c), for K^T.
__device__ __forceinline__ void high_operand(const float (&d)[kChunk / 8][4], int step, uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* const from = d[2 * step + i / 2] + i % 2 * 2;
    a[i] = pack_half2(from[0], from[1]);
  }
}
__device__ __forceinline__ PairA decayed_operand(const float (&d)[kChunk / 8][4], int step,
                                                 const ScanStage& stage, const ScanPlace& place) {
  PairA a;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int tile = 2 * step + half;
    const float2 left = *reinterpret_cast<const float2*>(stage.decay_left + 8 * tile + 2 * place.t);
    a.set(2 * half, d[tile][0] * left.x, d[tile][1] * left.y);
    a.set(2 * half + 1, d[tile][2] * left.x, d[tile][3] * left.y);
  }
  return a;
}

// The warps that fetch: a chunk ahead of the others when there are two stages. The others wait likewise at
// the begin of a chunk and, with one stage, at its end.
template <int kStages, bool kPanels, typename Written>
__device__ __forceinline__ void fetch_all(const ChunkArgs& a, int begin, int end, ScanStage* stages,
                                          Written&& written) {
  const ScanPlace place;
  const int thread = static_cast<int>(threadIdx.x) - kScanWarps * kWarp;
  for (int index = begin; index < end; ++index) {
    fetch_chunk<kPanels>(a, a.chunks[index], place.head, place.column0, thread,
                         stages[(index - begin) % kStages]);
    copy_async_commit();
    copy_async_wait<0>();
    written();
    __syncthreads();  // the chunk is here, and the one before is no longer needed
    if (kStages == 1) {
      __syncthreads();
    }
  }
}

/// The scan by warpgroup products, on sm_90 alone.
void delta_scan_sm90a(const Queue& queue, const ChunkArgs& args, int n_sequences);

}  // namespace fl::cuda
