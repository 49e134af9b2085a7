// Device helpers that every op shares: reductions in a fixed order, activation functions, 16-byte accesses.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

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

/// Every thread gets the sum over the block. `partial` holds a float per warp; the block has whole warps. A barrier
/// stands at the beginning and one in the middle, so `partial` may be used again at once.
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

/// Programmatic dependent launch: waits until the results of the kernels before are visible. A kernel launched without
/// the attribute passes at once.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel start its part that needs no results of this one.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace fl::cuda
