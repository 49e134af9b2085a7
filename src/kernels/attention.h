// Causal softmax attention of grouped heads over a cache of blocks, with an output gate:
//   o_h[t] = sigmoid(gate_h[t]) * sum_j softmax_j(scale * q_h[t] . k_g[j]) v_g[j],  j = 0 .. index of t,
//   g = h / (n_heads / n_kv_heads)
// Causality follows the cache index, not the RoPE position.
//
// The cache: blocks of kKvBlock tokens. In a block each KV head has its keys transposed
// ([head_dim][kKvBlock], so that scores of 64 keys are independent sums over lanes) and its values as rows
// ([kKvBlock][head_dim]). q8_0 groups what one dot product of bytes adds: keys [head_dim / 4][kKvBlock][4
// dims], plus 128, and values [kKvBlock / 4][head_dim][4 tokens]; one f16 scale per 32 dims of a token,
// [head_dim / 32][kKvBlock] behind the head's bytes. A value too large for f16 is stored as the largest f16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "kernels/cpu/matmul.h"

namespace fl {

inline constexpr int64_t kKvBlock = 64;
inline constexpr int64_t kKvQuantGroup = 32;

struct AttentionShape {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 0;
  int64_t group() const { return n_heads / n_kv_heads; }
};

/// f32, f16, bf16, and q8_0 when head_dim is a multiple of 32.
bool kv_type_supported(DType type, int64_t head_dim);
/// Bytes of the keys (or values) of one block of one KV head.
int64_t kv_head_bytes(DType type, int64_t head_dim);

/// One layer's cache: block b, head g at k + (b * n_kv_heads + g) * kv_head_bytes(type_k, head_dim); likewise
/// v.
struct KvCache {
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  DType type_k = DType::f16;
  DType type_v = DType::f16;
};

/// Query tokens of one sequence.
struct AttentionInput {
  const float* q = nullptr;     ///< normed and rotated; head h of token t at q + t * stride + h * head_stride
  const float* gate = nullptr;  ///< before the sigmoid; the same strides
  int64_t stride = 0;
  int64_t head_stride = 0;
  int64_t n_tokens = 0;
  int64_t first_index = 0;          ///< cache index of the first query token
  std::span<const int32_t> blocks;  ///< hold cache indices [0, first_index + n_tokens)
};

}  // namespace fl

namespace fl::ref {

/// Plain arrays: k, v [n_keys][n_kv_heads * head_dim]; q, gate, out [n_tokens][n_heads * head_dim]; the last
/// query sees all n_keys.
void attention(const AttentionShape& shape, const double* q, const double* gate, const double* k,
               const double* v, int64_t n_tokens, int64_t n_keys, double* out);

}  // namespace fl::ref

namespace fl::cpu {

/// Writes one KV head of one token: k, v [head_dim], `index` its cache index.
void kv_store(Isa isa, const AttentionShape& shape, const KvCache& cache, std::span<const int32_t> blocks,
              int64_t index, int64_t kv_head, const float* k, const float* v);

/// Query tokens are taken in tiles of at most kQueryTile; a tile's result does not depend on the others in
/// it.
inline constexpr int64_t kQueryTile = 16;

/// Floats that one call of attention needs for itself.
int64_t attention_scratch(const AttentionShape& shape);

/// Query tokens [first, first + n) of the input, n <= kQueryTile, one KV head with its group of query heads.
/// out [n_tokens][out_stride]; scratch is 64-byte aligned.
void attention(Isa isa, const AttentionShape& shape, const KvCache& cache, const AttentionInput& in,
               int64_t kv_head, int64_t first, int64_t n, float* out, int64_t out_stride, float* scratch);

}  // namespace fl::cpu
