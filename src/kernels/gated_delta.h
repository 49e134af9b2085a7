// The gated delta rule with its gates, per value head h, key head h % n_key_heads, state S
// [key_dim][value_dim]:
//   q^ = q / sqrt(sum(q^2) + 1e-6) / sqrt(key_dim),  k^ = k / sqrt(sum(k^2) + 1e-6)
//   beta = 1 / (1 + exp(-b)),  g = a[h] * softplus(alpha + dt[h])
//   S <- e^g S,  d = beta (v - S^T k^),  S <- S + k^ d^T,  o = S^T q^
//   y = gated RMS norm of o with z (rms_norm.h)
// Source: arXiv 2412.06464 and huggingface/transformers, models/qwen3_5/modeling_qwen3_5.py. The chunked form
// solves the same recurrence for up to kDeltaChunk tokens at once; with c_i the running sum of g, L_ij =
// beta_i e^(c_i - c_j) (k_i . k_j) for j < i, and S the state before the chunk:
//   (I + L) D = diag(beta) (V - diag(e^c) K S)
//   O = diag(e^c) Q S + (e^(c_i - c_j) (q_i . k_j), j <= i) D
//   S' = e^(c_last) S + (diag(e^(c_last - c)) K)^T D
// No exponent is positive.
//
// Which form runs depends only on a chunk's length and chunks lie on the grid of absolute positions, so
// results do not depend on how a prompt was cut at multiples of kDeltaChunk.
#pragma once

#include <cstdint>

#include "kernels/cpu/matmul.h"

namespace fl {

inline constexpr int64_t kDeltaChunk = 64;
/// Shorter chunks take the recurrent form, token by token.
inline constexpr int64_t kDeltaMinChunk = 16;
inline constexpr double kL2NormEps = 1e-6;

struct DeltaShape {
  int64_t n_key_heads = 0;
  int64_t n_value_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  int64_t qk_channels() const { return n_key_heads * key_dim; }
  int64_t v_channels() const { return n_value_heads * value_dim; }
  int64_t conv_channels() const { return 2 * qk_channels() + v_channels(); }
};

/// Inputs of n_tokens consecutive tokens of one sequence. T is double in ref, float in cpu.
template <typename T>
struct DeltaInput {
  const T* qkv = nullptr;  ///< [n_tokens][qkv_stride]: q heads, k heads, v heads, after convolution and SiLU
  int64_t qkv_stride = 0;
  const T* z = nullptr;      ///< [n_tokens][v_channels]
  const T* alpha = nullptr;  ///< [n_tokens][n_value_heads]
  const T* beta = nullptr;   ///< [n_tokens][n_value_heads]
  const T* a = nullptr;      ///< [n_value_heads], negative
  const T* dt = nullptr;     ///< [n_value_heads]
  const T* norm = nullptr;   ///< [value_dim]
  T eps = 0;
  int64_t n_tokens = 0;
  int64_t first_position = 0;  ///< index of the first token in its sequence, decides the chunk grid
};

}  // namespace fl

namespace fl::ref {

/// Token by token. state [n_value_heads][key_dim][value_dim], y [n_tokens][v_channels].
void gated_delta(const DeltaShape& shape, const DeltaInput<double>& in, double* state, double* y);

}  // namespace fl::ref

namespace fl::cpu {

/// Floats that one call of gated_delta needs for itself.
int64_t gated_delta_scratch(const DeltaShape& shape);

/// One value head. `state` is that of the whole layer and sequence; scratch is 64-byte aligned.
void gated_delta(Isa isa, const DeltaShape& shape, const DeltaInput<float>& in, int64_t value_head,
                 float* state, float* y, float* scratch);

}  // namespace fl::cpu
