#include "kernels/cuda/slices.h"

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/launch.cuh"

namespace fl::cuda {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float silu(float x) {
  return x / (1.0f + __expf(-x));
}

__device__ __forceinline__ float4 halves_to_float4(uint2 bits) {
  const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
  const float2 b = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  return {a.x, a.y, b.x, b.y};
}

// A lane takes four columns of a token (grid.y).
__device__ __forceinline__ int column_of_lane() {
  return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 4;
}

__global__ void rows_to_records_kernel(const std::byte* rows, ActivationWriter out) {
  let_next_start();
  wait_for_previous();
  const int col = column_of_lane();
  if (col >= out.padded_cols) {
    return;
  }
  const int token = static_cast<int>(blockIdx.y);
  const float4 v = halves_to_float4(load_row4(rows + static_cast<int64_t>(token) * out.padded_cols * 2, col));
  constexpr float kBack = 1.0f / kActivationScale;  // a power of two: the stored bits come out the same
  store_activations4(out, token, col, {v.x * kBack, v.y * kBack, v.z * kBack, v.w * kBack});
}

// 16-byte pieces: [superblock][9][token][4 pieces].
__global__ void copy_records_kernel(const uint4* from, int from_tokens, int first, uint4* to, int n_tokens,
                                    int n) {
  let_next_start();
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) {
    const int per_block = n_tokens * 4;
    to[i] = from[(i / per_block * from_tokens + first) * 4 + i % per_block];
  }
}

__global__ void swiglu_f32_kernel(const float* gate, const float* up, int rows, int first,
                                  ActivationWriter out) {
  let_next_start();
  wait_for_previous();
  const int col = column_of_lane();
  if (col >= out.padded_cols) {
    return;
  }
  const int token = static_cast<int>(blockIdx.y);
  const int64_t at = static_cast<int64_t>(token) * rows + col;
  float v[4];
  for (int i = 0; i < 4; ++i) {
    v[i] = col + i < rows ? silu(gate[at + i]) * up[at + i] : 0.0f;
  }
  store_activations4(out, first + token, col, {v[0], v[1], v[2], v[3]});
}

__global__ void swiglu_f16_kernel(const std::byte* gate_up, int n_cols, int col0, ActivationWriter out) {
  let_next_start();
  wait_for_previous();
  const int col = column_of_lane();
  if (col >= n_cols) {
    return;
  }
  const int token = static_cast<int>(blockIdx.y);
  const std::byte* at = gate_up + (static_cast<int64_t>(token) * 2 * n_cols + col) * 2;
  const float4 g = halves_to_float4(*reinterpret_cast<const uint2*>(at));
  const float4 u = halves_to_float4(*reinterpret_cast<const uint2*>(at + static_cast<int64_t>(n_cols) * 2));
  constexpr float kBack = 1.0f / kActivationScale;
  store_activations4(out, token, col0 + col,
                     {silu(g.x * kBack) * (u.x * kBack), silu(g.y * kBack) * (u.y * kBack),
                      silu(g.z * kBack) * (u.z * kBack), silu(g.w * kBack) * (u.w * kBack)});
}

LaunchShape shape_of(int cols, int tokens) {
  return {dim3(static_cast<unsigned>((cols / 4 + kThreads - 1) / kThreads), static_cast<unsigned>(tokens)),
          dim3(kThreads), 0};
}

}  // namespace

void rows_to_records(cudaStream_t stream, bool overlap, const Activations& rows, int first,
                     const Activations& out) {
  const std::byte* from = rows.data + static_cast<int64_t>(first) * padded_cols(rows.cols) * 2;
  launch(rows_to_records_kernel, shape_of(padded_cols(out.cols), out.n_tokens), stream, overlap,
         "rows to records", from, writer(out));
}

void copy_records(cudaStream_t stream, bool overlap, const Activations& records, int first,
                  const Activations& out) {
  const int n = padded_cols(out.cols) / kSuperblock * 9 * out.n_tokens * 4;
  launch(copy_records_kernel, {dim3(static_cast<unsigned>((n + kThreads - 1) / kThreads)), dim3(kThreads), 0},
         stream, overlap, "copy records", reinterpret_cast<const uint4*>(records.data), records.n_tokens,
         first, reinterpret_cast<uint4*>(out.data), out.n_tokens, n);
}

void swiglu_f32(cudaStream_t stream, bool overlap, const float* gate, const float* up, int rows, int first,
                int n, const Activations& out) {
  launch(swiglu_f32_kernel, shape_of(padded_cols(out.cols), n), stream, overlap, "swiglu", gate, up, rows,
         first, writer(out));
}

void swiglu_f16(cudaStream_t stream, const void* gate_up, int n_cols, int col0, const Activations& out) {
  launch(swiglu_f16_kernel, shape_of(n_cols, out.n_tokens), stream, false, "swiglu",
         static_cast<const std::byte*>(gate_up), n_cols, col0, writer(out));
}

}  // namespace fl::cuda
