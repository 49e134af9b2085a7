// Small kernels around the products: activations cut to slices of tokens, and SwiGLU of finished factors.
#pragma once

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

/// Tokens [first, first + out.n_tokens) of rows as records.
void rows_to_records(cudaStream_t stream, bool overlap, const Activations& rows, int first,
                     const Activations& out);
/// The same of records.
void copy_records(cudaStream_t stream, bool overlap, const Activations& records, int first,
                  const Activations& out);

/// out[first + t] = silu(gate[t]) * up[t], f32 [n][rows].
void swiglu_f32(cudaStream_t stream, bool overlap, const float* gate, const float* up, int rows, int first,
                int n, const Activations& out);
/// Columns [col0, col0 + n_cols) of out from f16 [n_tokens][2 n_cols], gate then up, both times
/// kActivationScale.
void swiglu_f16(cudaStream_t stream, const void* gate_up, int n_cols, int col0, const Activations& out);

}  // namespace fl::cuda
