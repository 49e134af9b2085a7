// What the two kernels of the chunked form share (gated_delta_chunked.cu, gated_delta_scan.cu), for heads of
// 128 by 128. With c_i the running sum of the log decays of a chunk and T = (I + L)^-1
// (kernels/gated_delta.h), the first finds for all chunks at once
//   T diag(beta)   and   P_ij = e^(c_i - c_j) (q_i . k_j) for j <= i,
// and the second goes through a sequence's chunks in turn with the state S in registers:
//   X = V - diag(e^c) K S,  D = T diag(beta) X,  O = diag(e^c) Q S + P D,
//   S <- e^(c_last) S + K^T diag(e^(c_last - c)) D.
// What the state depends on is multiplied as pairs of halves, high and low part, three instructions instead
// of one (docs/decisions/0072); Q and P reach the output only, which becomes f16 anyway, and are halves.
#pragma once

#include "kernels/cuda/gated_delta.cuh"
#include "kernels/cuda/mma.cuh"

namespace fl::cuda {

inline constexpr int kDim = 128;
inline constexpr int kChunk = static_cast<int>(kDeltaChunk);
inline constexpr int kPieces = kDim / 8;         // 16-byte pieces of a row of halves
inline constexpr int kChunkPieces = kChunk / 8;  // of a row of T or P

// Powers of two by which operands are multiplied before they become halves. |k| = 1, |q| = 1 / sqrt(128);
// entries of L, its inverse and T diag(beta) are at most 1, since every step of the rule is a contraction.
inline constexpr int kScaleK = 8;
inline constexpr int kScaleQ = 10;
inline constexpr int kScaleP = 10;
inline constexpr int kScaleT = 4;
inline constexpr int kScaleL = 8;
static_assert(kScaleP == kScaleQ);  // Q S and P D add up

struct ChunkArgs {
  DeltaDims dims;
  DeltaWeights w;
  DeltaState state;
  const float* alpha;
  const float* beta;
  int64_t gate_stride;
  const DeltaRun* chunks;
  const int32_t* sequence_begin;
  float* mixed;  // q, k, v -> their halves, o
  float* spare;  // see spare_*
};

// The place of q of a token becomes 128 halves, that of k 128 high and 128 low parts. The spare row of a
// token: its row of T diag(beta) of all heads, high and low parts; of P of all heads; e^c of all heads;
// e^(c_last - c) of all heads.
__device__ __forceinline__ int64_t spare_t(const DeltaDims& d, int64_t token, int head) {
  return token * d.conv_channels() + head * kChunk;
}
__device__ __forceinline__ int64_t spare_p(const DeltaDims& d, int64_t token, int head) {
  return token * d.conv_channels() + d.value_heads * kChunk + head * (kChunk / 2);
}
__device__ __forceinline__ int64_t spare_decay(const DeltaDims& d, int64_t token, int head) {
  return token * d.conv_channels() + d.value_heads * (kChunk + kChunk / 2) + head;
}
__device__ __forceinline__ int64_t spare_decay_left(const DeltaDims& d, int64_t token, int head) {
  return spare_decay(d, token, head) + d.value_heads;
}
inline constexpr int kSpare = kChunk + kChunk / 2 + 2;  // floats of a value head

__device__ __forceinline__ float power_of_two(int e) {
  return __uint_as_float(static_cast<uint32_t>(e + 127) << 23);
}

// Two floats as halves, and as halves what those lost.
struct HalfPair {
  uint32_t high;
  uint32_t low;
};
__device__ __forceinline__ HalfPair split_half2(float x, float y) {
  const __half2 high = __floats2half2_rn(x, y);
  const float2 back = __half22float2(high);
  return {*reinterpret_cast<const uint32_t*>(&high), pack_half2(x - back.x, y - back.y)};
}
struct PairA {
  uint32_t high[4];
  uint32_t low[4];
  __device__ __forceinline__ void set(int i, float x, float y) {
    const HalfPair p = split_half2(x, y);
    high[i] = p.high;
    low[i] = p.low;
  }
};
// b: high parts of both registers, then low parts. The product of the low parts is left out.
__device__ __forceinline__ void mma_pairs(float (&c)[4], const PairA& a, const uint32_t (&b)[4]) {
  mma_f16(c, a.low, b[0], b[1]);
  mma_f16(c, a.high, b[2], b[3]);
  mma_f16(c, a.high, b[0], b[1]);
}

// Rows of kRow 16-byte pieces in shared memory, piece c of row r at c ^ (r % 8): the eight rows of a matrix
// lie in different banks.
template <int kRow>
__device__ __forceinline__ int swizzled(int row, int piece) {
  return row * kRow + (piece ^ (row & 7));
}

/// The first kernel, for all chunks.
void delta_chunks(const Queue& queue, const ChunkArgs& args, int n_chunks);
/// The second, for all sequences.
void delta_scan(const Queue& queue, const ChunkArgs& args, int n_sequences, DeltaScan scan);

}  // namespace fl::cuda
