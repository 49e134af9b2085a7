// RMS norm of kernels/rms_norm.h on the device, ready for a product, and copies of whole rows.
#pragma once

#include "kernels/cuda/matmul.h"
#include "kernels/cuda/queue.h"

namespace fl::cuda {

/// out = x w / sqrt(mean(x^2) + eps) for each of out.n_tokens rows of out.cols floats; x has rows of `stride`
/// floats.
void rms_norm(const Queue& queue, const float* x, int64_t stride, const float* w, float eps,
              const Activations& out);

/// to[i] = from[index[i]], rows of `n` floats (a multiple of 4), for i < n_rows.
void gather_rows(const Queue& queue, const float* from, const int32_t* index, int n_rows, int64_t n,
                 float* to);

}  // namespace fl::cuda
