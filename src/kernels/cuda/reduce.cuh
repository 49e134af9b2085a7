// Device helpers that every op shares: reductions in a fixed order, activation functions, 16-byte accesses.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/queue.h"

namespace fl::cuda {

inline constexpr int kWarp = 32;

/// Every lane gets the sum; the order of additions does not depend on the lane.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask >>= 1) {
    v += __shfl_xor_sync(0xFFFFFFFFU, v, mask);
  }
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask >>= 1) {
    v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFU, v, mask));
  }
  return v;
}

/// Every thread gets the sum over the block. `partial` holds a float per warp; the block has whole warps. A
/// barrier stands at the beginning and one in the middle, so `partial` may be used again at once.
__device__ __forceinline__ float block_sum(float v, float* partial) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) {
    partial[threadIdx.x / kWarp] = v;
  }
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; ++i) {
    sum += partial[i];
  }
  return sum;
}

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0F / (1.0F + __expf(-x));
}

__device__ __forceinline__ float silu(float x) {
  return x / (1.0F + __expf(-x));
}

/// log(1 + e^x), exact to rounding on both sides.
__device__ __forceinline__ float softplus(float x) {
  return x > 20.0F ? x : log1pf(expf(x));
}

/// A launch of this room's operations.
template <typename... Parameters, typename... Arguments>
void launch(const Queue& queue, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const char* name, const Arguments&... arguments) {
  launch(kernel, LaunchShape{grid, block, static_cast<int>(shared_bytes)}, queue.stream, queue.overlap, name,
         arguments...);
}

}  // namespace fl::cuda
