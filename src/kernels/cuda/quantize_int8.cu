// Activations from rows to int8 (matmul_int8.h).
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_int8_params.h"

namespace fl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanesPerSuperblock = 16;  // of a token: four pairs of sub-blocks by four
constexpr float kMost = 127.0f;

struct Quantized {
  uint32_t words[2];
  float scale;
  float sum;  ///< of the quantised values, times the scale
};

// A sub-block, of which four neighbouring lanes hold columns 4t..4t+3 and 16+4t..16+4t+3 each.
__device__ __forceinline__ Quantized quantize(const float (&v)[8]) {
  float most = 0;
#pragma unroll
  for (const float x : v) {
    most = fmaxf(most, fabsf(x));
  }
  most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
  most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
  Quantized q{};
  q.scale = most / kMost;
  const float inverse = most > 0.0f ? kMost / most : 0.0f;
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int value = __float2int_rn(v[i] * inverse);
    sum += value;
    q.words[i / 4] |= (static_cast<uint32_t>(value) & 0xFFU) << (8 * (i % 4));
  }
  sum += __shfl_xor_sync(~0U, sum, 1);
  sum += __shfl_xor_sync(~0U, sum, 2);
  q.sum = static_cast<float>(sum) * q.scale;
  return q;
}

__device__ __forceinline__ void read4(float* v, const std::byte* row, int col) {
  const uint2 bits = load_row4(row, col);
  const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
  const float2 b = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
}

__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const std::byte* rows, int n_tokens, int n_groups, int n_superblocks, std::byte* out) {
  let_next_start();
  wait_for_previous();
  const int piece = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) / kLanesPerSuperblock;
  const int token = piece / n_superblocks;
  const int superblock = piece - token * n_superblocks;
  if (token >= n_groups * kInt8Tokens) {  // the same for whole warps: 64 n_groups is even
    return;
  }
  const int p = (threadIdx.x >> 2) & 3;
  const int t = threadIdx.x & 3;
  float low[8] = {};
  float high[8] = {};
  if (token < n_tokens) {
    const std::byte* row = rows + static_cast<int64_t>(token) * n_superblocks * kSuperblock * 2;
    const int col = superblock * kSuperblock + 32 * p + 4 * t;
    read4(low, row, col);
    read4(low + 4, row, col + 16);
    read4(high, row, col + 128);
    read4(high + 4, row, col + 144);
  }
  const Quantized a = quantize(low);
  const Quantized b = quantize(high);
  std::byte* group =
      out + (static_cast<int64_t>(superblock) * n_groups + token / kInt8Tokens) * kInt8GroupBytes;
  const int i = token % kInt8Tokens;
  *reinterpret_cast<uint4*>(group + (p * kInt8Tokens + i) * 64 + t * 16) = {a.words[0], a.words[1],
                                                                            b.words[0], b.words[1]};
  if (t == 0) {
    *reinterpret_cast<float2*>(group + kInt8Scales + (p * kInt8Tokens + i) * 8) = {a.scale, b.scale};
  }
  if (t == 1) {
    __half* sums = reinterpret_cast<__half*>(group + kInt8Sums + i * 16);
    sums[p] = __float2half_rn(fminf(fmaxf(a.sum, -65504.0f), 65504.0f));
    sums[p + 4] = __float2half_rn(fminf(fmaxf(b.sum, -65504.0f), 65504.0f));
  }
}

}  // namespace

void quantize_activations(cudaStream_t stream, bool overlap, const Activations& rows, std::byte* out) {
  const int n_groups = (rows.n_tokens + kInt8Tokens - 1) / kInt8Tokens;
  const int n_superblocks = padded_cols(rows.cols) / kSuperblock;
  const int64_t threads = static_cast<int64_t>(n_groups) * kInt8Tokens * n_superblocks * kLanesPerSuperblock;
  launch(quantize_kernel,
         {dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)), dim3(kThreads), 0}, stream,
         overlap, "quantize activations", rows.data, rows.n_tokens, n_groups, n_superblocks, out);
}

}  // namespace fl::cuda
