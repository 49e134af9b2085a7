// RMS norm of one row, plain and gated. The caller spreads rows over threads.
//   plain: y[i] = x[i] * w[i] / sqrt(mean(x^2) + eps)
//   gated: y[i] = plain(x)[i] * silu(z[i])          (norm first, gate second)
// w is used as stored in GGUF (the converter already added one where the model wants it).
// Source: huggingface/transformers, models/qwen3_5/modeling_qwen3_5.py (Qwen3_5RMSNorm, Qwen3_5RMSNormGated).
#pragma once

#include <cstdint>

#include "kernels/cpu/matmul.h"

namespace fl::ref {

void rms_norm(const double* x, const double* w, double eps, int64_t n, double* y);
void gated_rms_norm(const double* x, const double* z, const double* w, double eps, int64_t n, double* y);

}  // namespace fl::ref

namespace fl::cpu {

/// x [n], w [n], y [n]; y may be x.
void rms_norm(Isa isa, const float* x, const float* w, float eps, int64_t n, float* y);
void gated_rms_norm(Isa isa, const float* x, const float* z, const float* w, float eps, int64_t n, float* y);

}  // namespace fl::cpu
