// Attention of kernels/attention.h on the device: norm and rotation of queries and keys, the cache, attention
// of one query token (flash-decoding) and of many. All pointers are device memory.
//
// The cache: as on the host, block b and KV head h at (b * n_kv_heads + h) * kv_head_bytes(type, head_dim),
// but with the *values* transposed: keys [kKvBlock][head_dim], values [head_dim][kKvBlock]. Either is then
// read along the index that its matrix product contracts, 16 bytes a lane, straight into the tensor cores'
// registers. q8_0: all bytes of the head, then the f16 scales, keys [kKvBlock][head_dim / 32], values
// [head_dim / 32][kKvBlock]; when head_dim is a multiple of 64, the bytes of a key's 64 dims are permuted
// (kv_key_position).
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/queue.h"

namespace fl::cuda {

/// Tokens of a step, for the kernel that writes the cache.
struct AttentionToken {
  int32_t slot = -1;  ///< block * kKvBlock + index in the block; -1: padding
};

/// Query tokens of one sequence that attend together; for a decode step exactly one.
struct AttentionTile {
  int32_t first = 0;        ///< its first query token in the step
  int32_t n_tokens = 0;     ///< 0: padding; at most kAttentionTile
  int32_t first_index = 0;  ///< cache index of that token
  int32_t blocks = 0;       ///< where the sequence's block numbers begin in the table
};
inline constexpr int kAttentionTile = 64;
/// Pieces that a decode step cuts a sequence into at most.
inline constexpr int kMaxSplits = 32;
/// Query heads that share a KV head, in the kernel on tensor cores.
inline constexpr int kMaxGroup = 8;

struct AttentionQueries {
  float* q = nullptr;  ///< [n_tokens][stride]: head h at h * 2 * head_dim: query, then gate
  int64_t stride = 0;
};

/// Projections of a step's tokens. Queries are normed and rotated in place; keys [n_tokens][kv_stride]
/// likewise and stored with the values. cos_sin [n_tokens][2 * pairs]; q_norm, k_norm [head_dim].
struct PrepareAttention {
  AttentionQueries queries;
  const float* k = nullptr;
  const float* v = nullptr;
  int64_t kv_stride = 0;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float eps = 0;
  const float* cos_sin = nullptr;
  int pairs = 0;
  const AttentionToken* tokens = nullptr;
  int n_tokens = 0;
};
void prepare_attention(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                       const PrepareAttention& in);

/// For up to n decoding sequences.
struct AttentionScratch {
  float* partial = nullptr;    ///< [attention_partial_floats(shape, n)]
  int32_t* arrived = nullptr;  ///< [n * n_kv_heads]; zero before its first use, and left zero
};
int64_t attention_partial_floats(const AttentionShape& shape, int n);
/// True for the shapes and types that attention_decode and attention_prefill take (heads of 256, at most
/// kMaxGroup queries a KV head, f16 and q8_0); others run attention_general.
bool attention_fuses(const AttentionShape& shape, const KvCache& cache);
/// One query token of each tile, the sequence's newest, from its projections in `in` on: prepare_attention
/// must have left it out (slot -1), since this norms, rotates and stores itself, by the same arithmetic
/// (in.tokens and n_tokens are not used, and queries not written). `out` holds the step's tokens, n_heads *
/// head_dim wide, gated. How a sequence is cut depends on its length alone.
void attention_decode(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                      const PrepareAttention& in, const AttentionTile* tiles, int n_tiles,
                      const int32_t* blocks, const AttentionScratch& scratch, const Activations& out);
/// Any number of query tokens; a query's arithmetic does not depend on its tile.
void attention_prefill(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                       const AttentionQueries& queries, const AttentionTile* tiles, int n_tiles,
                       const int32_t* blocks, const Activations& out);
/// The same for every shape and type; out [n_tokens][n_heads * head_dim] f32.
void attention_general(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                       const AttentionQueries& queries, const AttentionTile* tiles, int n_tiles,
                       const int32_t* blocks, float* out);

/// cos_sin of a step's positions [n_tokens][3] (t, y, x); frequency, axis [pairs] of RopeTable.
void rope_angles(const Queue& queue, const float* frequency, const uint8_t* axis, float magnitude, int pairs,
                 const int32_t* positions, int n_tokens, float* cos_sin);

}  // namespace fl::cuda
