// What the kernel of matmul_batch.h does with complete sums.
#pragma once

#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/matmul_rows_store.cuh"

namespace fl::cuda::batch {

/// A warp's rows of a tile, and the lane's first token.
struct Place {
  int tile;
  int row;  ///< the lane's of slot 0; slot 1 is 8 rows on (or of the second matrix)
  int token;
};

// y (+)= the tile. Lanes of one t hold eight rows in a row: a store fills whole sectors.
template <int N, bool kAdd>
__device__ __forceinline__ void write_floats(const BatchSegment& s, const float (&d)[N / 2], const Place& at,
                                             const float* factors, int n_tokens) {
#pragma unroll
  for (int i = 0; i < N / 4; ++i) {  // [8 tokens][e]
    const int token = at.token + 8 * (i >> 1) + (i & 1);
    const int j = 4 * (i >> 1) + (i & 1);
    if (token < n_tokens) {
      const float factor = factors[token];
      float* const y = s.y + token * s.stride + at.row;
#pragma unroll
      for (int slot = 0; slot < 2; ++slot) {
        if (at.row + 8 * slot < s.rows) {
          if constexpr (kAdd) {
            atomicAdd(y + 8 * slot, d[j + 2 * slot] * factor);  // one for each element: nobody waits for it
          } else {
            y[8 * slot] = d[j + 2 * slot] * factor;
          }
        }
      }
    }
  }
}

// Activations from gate and up (kPair), or from one matrix.
template <int N, bool kPair, bool kKept>
__device__ __forceinline__ void write_halves(const BatchParams& f, const float (&d)[N / 2], const Place& at,
                                             const float* factors, int n_tokens) {
  const bool odd_row = (at.row & 1) != 0;
  const int mine = at.token + (odd_row ? 1 : 0);
  std::byte* to = f.out + static_cast<int64_t>(mine) * f.out_padded_cols * 2;
  const int at0 = row_position(at.row & ~1) * 2;
  const int at1 = row_position((at.row & ~1) + 8) * 2;
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const bool there = mine + 8 * i < n_tokens;
    const float2 factor = *reinterpret_cast<const float2*>(factors + at.token + 8 * i);
    const float v[4] = {d[4 * i] * factor.x, d[4 * i + 1] * factor.y, d[4 * i + 2] * factor.x,
                        d[4 * i + 3] * factor.y};
    if constexpr (kPair) {
      write_pair<false>(to + at0, there, odd_row, swiglu_of(v[0], v[2]), swiglu_of(v[1], v[3]));
    } else {
      write_pair<kKept>(to + at0, there, odd_row, v[0], v[1]);
      write_pair<kKept>(to + at1, there, odd_row, v[2], v[3]);
    }
    to += static_cast<int64_t>(f.out_padded_cols) * 16;
  }
}

// The next norm's weights of the lane's rows.
__device__ __forceinline__ float2 norm_weights(const BatchParams& f, const Place& at) {
  return {f.norm_weight[at.row], f.norm_weight[at.row + 8]};
}

// What is in the residual before an addition that also norms: asked for before the sums are complete.
template <int N>
__device__ __forceinline__ void read_residual(float (&old)[N / 2], const BatchSegment& s, const Place& at,
                                              int n_tokens) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const int token = at.token + 8 * (i >> 2) + (i & 1);
    old[i] = token < n_tokens ? __ldcg(s.y + token * s.stride + at.row + 8 * ((i >> 1) & 1)) : 0.0F;
  }
}

// residual = old + the tile; the next product's activations without the norm's factor; a tile's part of the
// sum of squares.
template <int N>
__device__ __forceinline__ void write_normed(const BatchParams& f, const BatchSegment& s, float (&d)[N / 2],
                                             const float (&old)[N / 2], float2 weight, const Place& at,
                                             const float* factors, int n_tokens, int lane) {
  const int n_partials = rms_partials(s.rows);
#pragma unroll
  for (int i = 0; i < N / 4; ++i) {
    const int token = at.token + 8 * (i >> 1) + (i & 1);
    const int j = 4 * (i >> 1) + (i & 1);
    const bool there = token < n_tokens;
    const float factor = there ? factors[token] : 0.0F;
    const float upper = old[j] + d[j] * factor;
    const float lower = old[j + 2] + d[j + 2] * factor;
    if (there) {
      float* const y = s.y + token * s.stride + at.row;
      y[0] = upper;
      y[8] = lower;
    }
    d[j] = upper * weight.x;
    d[j + 2] = lower * weight.y;
    float squares = upper * upper + lower * lower;
    squares += __shfl_xor_sync(~0U, squares, 4);
    squares += __shfl_xor_sync(~0U, squares, 8);
    squares += __shfl_xor_sync(~0U, squares, 16);
    if (there && lane < 4) {
      f.sum_of_squares[static_cast<int64_t>(token) * n_partials + at.tile] = squares;
    }
  }
  const bool odd_row = (at.row & 1) != 0;
  const int mine = at.token + (odd_row ? 1 : 0);
  std::byte* to = f.out + static_cast<int64_t>(mine) * f.out_padded_cols * 2;
  const int at0 = row_position(at.row & ~1) * 2;
  const int at1 = row_position((at.row & ~1) + 8) * 2;
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const bool there = mine + 8 * i < n_tokens;
    write_pair<false>(to + at0, there, odd_row, d[4 * i], d[4 * i + 1]);
    write_pair<false>(to + at1, there, odd_row, d[4 * i + 2], d[4 * i + 3]);
    to += static_cast<int64_t>(f.out_padded_cols) * 16;
  }
}

}  // namespace fl::cuda::batch
