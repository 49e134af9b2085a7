// Causal depthwise convolution over tokens, then SiLU:
//   y[t, c] = silu(sum_j w[j, c] * u[t - (kernel - 1) + j, c]),  j = 0 (oldest) .. kernel - 1 (the token
//   itself).
// Inputs before the first token of the call come from `window` [kernel - 1][channels], oldest first;
// afterwards it holds the last kernel - 1 *inputs* (before convolution and SiLU) of window and call together,
// also when the call is shorter. Source: huggingface/transformers, models/qwen3_5/modeling_qwen3_5.py
// (Qwen3_5GatedDeltaNet).
#pragma once

#include <cstdint>

#include "kernels/cpu/matmul.h"

namespace fl {

inline constexpr int64_t kMaxConvKernel = 8;

}  // namespace fl

namespace fl::ref {

/// u, y [n_tokens][channels]; w [kernel][channels]; y is not u.
void causal_conv_silu(const double* u, const double* w, int64_t kernel, int64_t n_tokens, int64_t channels,
                      double* window, double* y);

}  // namespace fl::ref

namespace fl::cpu {

/// In place on channels [first, last) of x [n_tokens][stride]; w and window have rows of `channels`.
/// kernel in [2, kMaxConvKernel].
void causal_conv_silu(Isa isa, float* x, int64_t stride, int64_t n_tokens, const float* w, float* window,
                      int64_t kernel, int64_t channels, int64_t first, int64_t last);

}  // namespace fl::cpu
