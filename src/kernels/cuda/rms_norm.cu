#include "kernels/cuda/rms_norm.h"

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/reduce.cuh"

namespace fl::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float4 load4(const float* row, int column, int cols) {
  if (column + 4 <= cols && (reinterpret_cast<uintptr_t>(row) & 15U) == 0) {
    return *reinterpret_cast<const float4*>(row + column);
  }
  return make_float4(column < cols ? row[column] : 0.0F, column + 1 < cols ? row[column + 1] : 0.0F,
                     column + 2 < cols ? row[column + 2] : 0.0F, column + 3 < cols ? row[column + 3] : 0.0F);
}

__global__ void __launch_bounds__(kThreads)
    norm(const float* x, int64_t stride, const float* w, float eps, int cols, const ActivationWriter out) {
  __shared__ float partial[kThreads / kWarp];
  let_next_start();
  wait_for_previous();
  const int token = static_cast<int>(blockIdx.x);
  const float* row = x + token * stride;
  float sum = 0;
  for (int c = 4 * static_cast<int>(threadIdx.x); c < cols; c += 4 * kThreads) {
    const float4 v = load4(row, c, cols);
    sum += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
  }
  const float scale = rsqrtf(block_sum(sum, partial) / static_cast<float>(cols) + eps);
  // padded_cols is a multiple of 256, so neighbouring lanes leave the loop together.
  for (int c = 4 * static_cast<int>(threadIdx.x); c < out.padded_cols; c += 4 * kThreads) {
    const float4 v = load4(row, c, cols);
    const float4 by = load4(w, c, cols);
    store_activations4(
        out, token, c,
        make_float4(v.x * scale * by.x, v.y * scale * by.y, v.z * scale * by.z, v.w * scale * by.w));
  }
}

__global__ void __launch_bounds__(kThreads)
    gather(const float4* from, const int32_t* index, int64_t n4, float4* to) {
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const float4* source = from + index[row] * n4;
  for (int64_t i = threadIdx.x; i < n4; i += kThreads) {
    to[row * n4 + i] = source[i];
  }
}

}  // namespace

void rms_norm(const Queue& queue, const float* x, int64_t stride, const float* w, float eps,
              const Activations& out) {
  if (out.n_tokens > 0) {
    launch(queue, norm, static_cast<unsigned>(out.n_tokens), kThreads, 0, "rms_norm", x, stride, w, eps,
           static_cast<int>(out.cols), writer(out));
  }
}

void gather_rows(const Queue& queue, const float* from, const int32_t* index, int n_rows, int64_t n,
                 float* to) {
  if (n_rows > 0) {
    launch(queue, gather, static_cast<unsigned>(n_rows), kThreads, 0, "gather_rows",
           reinterpret_cast<const float4*>(from), index, n / 4, reinterpret_cast<float4*>(to));
  }
}

}  // namespace fl::cuda
