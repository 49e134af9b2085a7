#include "kernels/cuda/embedding.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "base/result.h"
#include "kernels/cuda/reduce.cuh"

namespace fl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 4096;  // elements of a row that a block takes; a whole number of blocks of any type

using Bytes = const uint8_t*;

__constant__ int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

__device__ __forceinline__ uint32_t u16(Bytes p) {
  return p[0] | static_cast<uint32_t>(p[1]) << 8;
}
__device__ __forceinline__ uint32_t u32(Bytes p) {
  return u16(p) | u16(p + 2) << 16;
}
__device__ __forceinline__ float f16(Bytes p) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(u16(p))));
}
__device__ __forceinline__ int nibble32(Bytes qs, int e) {
  return e < 16 ? qs[e] & 15 : qs[e - 16] >> 4;
}
__device__ __forceinline__ float scale_min_k(Bytes b, int k, int q) {
  Bytes s = b + 4;
  const int scale = k < 4 ? s[k] & 63 : (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
  const int min = k < 4 ? s[k + 4] & 63 : (s[k + 4] >> 4) | (s[k] >> 6) << 4;
  return f16(b) * static_cast<float>(scale * q) - f16(b + 2) * static_cast<float>(min);
}

// Element e of the block at b; the definitions of core/dequantize.cpp.
__device__ float element(DType type, Bytes b, int e) {
  switch (type) {
    case DType::f32:
      return __uint_as_float(u32(b));
    case DType::f16:
      return f16(b);
    case DType::bf16:
      return __uint_as_float(u16(b) << 16);
    case DType::q4_0:
      return f16(b) * static_cast<float>(nibble32(b + 2, e) - 8);
    case DType::q4_1:
      return f16(b) * static_cast<float>(nibble32(b + 4, e)) + f16(b + 2);
    case DType::q5_0:
      return f16(b) *
             static_cast<float>((nibble32(b + 6, e) | static_cast<int>(u32(b + 2) >> e & 1U) << 4) - 16);
    case DType::q5_1:
      return f16(b) * static_cast<float>(nibble32(b + 8, e) | static_cast<int>(u32(b + 4) >> e & 1U) << 4) +
             f16(b + 2);
    case DType::q8_0:
      return f16(b) * static_cast<float>(static_cast<int8_t>(b[2 + e]));
    case DType::iq4_nl:
      return f16(b) * static_cast<float>(kIq4Values[nibble32(b + 2, e)]);
    case DType::q2_k: {
      const int q = b[16 + 32 * (e / 128) + e % 32] >> (2 * (e % 128 / 32)) & 3;
      const int s = b[e / 16];
      return f16(b + 80) * static_cast<float>((s & 15) * q) - f16(b + 82) * static_cast<float>(s >> 4);
    }
    case DType::q3_k: {
      const int half = e / 128;
      const int j = e % 128 / 32;
      const int l = e % 32;
      const int low = b[32 + 32 * half + l] >> (2 * j) & 3;
      const int q = (b[l] >> (4 * half + j) & 1) != 0 ? low : low - 4;
      const int k = e / 16;
      Bytes scales = b + 96;
      const int scale_low = k < 8 ? scales[k] & 15 : scales[k - 8] >> 4;
      const int scale_high = scales[8 + k % 4] >> (2 * (k / 4)) & 3;
      return f16(b + 108) * static_cast<float>(((scale_low | scale_high << 4) - 32) * q);
    }
    case DType::q4_k: {
      const int k = e / 32;
      const int byte = b[16 + 32 * (k / 2) + e % 32];
      return scale_min_k(b, k, k % 2 == 0 ? byte & 15 : byte >> 4);
    }
    case DType::q5_k: {
      const int k = e / 32;
      const int byte = b[48 + 32 * (k / 2) + e % 32];
      return scale_min_k(b, k, (k % 2 == 0 ? byte & 15 : byte >> 4) | (b[16 + e % 32] >> k & 1) << 4);
    }
    case DType::q6_k: {
      const int half = e / 128;
      const int g = e % 128 / 32;
      const int l = e % 32;
      const int byte = b[64 * half + 32 * (g & 1) + l];
      const int low = g < 2 ? byte & 15 : byte >> 4;
      const int high = b[128 + 32 * half + l] >> (2 * g) & 3;
      return f16(b + 208) *
             static_cast<float>(static_cast<int8_t>(b[192 + e / 16]) * ((low | high << 4) - 32));
    }
    case DType::iq4_xs: {
      const int k = e / 32;
      const int scale = (b[4 + k / 2] >> (4 * (k & 1)) & 15) | static_cast<int>(u16(b + 2) >> (2 * k) & 3U)
                                                                   << 4;
      return f16(b) * static_cast<float>((scale - 32) * kIq4Values[nibble32(b + 8 + 16 * k, e % 32)]);
    }
  }
  return 0;
}

// Grid: pieces of a row, tokens. The bytes come over first, in wide neighbouring reads: they may be far away.
__global__ void __launch_bounds__(kThreads)
    embed_rows(const std::byte* data, DType type, int n_table, int cols, int block_elems, int block_bytes,
               const TokenSource tokens, float* out) {
  extern __shared__ __align__(16) uint8_t bytes[];
  let_next_start();
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.y);
  int id = tokens.ids[i];
  if (id < 0 && tokens.feedback[i] >= 0) {
    id = tokens.sampled[tokens.feedback[i]];
  }
  id = id < 0 || id >= n_table ? 0 : id;
  const int first = static_cast<int>(blockIdx.x) * kPiece;
  const int n = min(kPiece, cols - first);
  const int n_bytes = n / block_elems * block_bytes;
  const int64_t row_bytes = static_cast<int64_t>(cols / block_elems) * block_bytes;
  const auto* from = reinterpret_cast<const uint8_t*>(data) + id * row_bytes +
                     static_cast<int64_t>(first / block_elems) * block_bytes;
  const auto misaligned = reinterpret_cast<uintptr_t>(from) | static_cast<uintptr_t>(n_bytes);
  if (misaligned % 16 == 0) {
    for (int e = static_cast<int>(threadIdx.x); e < n_bytes / 16; e += kThreads) {
      reinterpret_cast<uint4*>(bytes)[e] = reinterpret_cast<const uint4*>(from)[e];
    }
  } else if (misaligned % 4 == 0) {
    for (int e = static_cast<int>(threadIdx.x); e < n_bytes / 4; e += kThreads) {
      reinterpret_cast<uint32_t*>(bytes)[e] = reinterpret_cast<const uint32_t*>(from)[e];
    }
  } else {
    for (int e = static_cast<int>(threadIdx.x); e < n_bytes; e += kThreads) {
      bytes[e] = from[e];
    }
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < n; e += kThreads) {
    out[static_cast<int64_t>(i) * cols + first + e] =
        element(type, bytes + e / block_elems * block_bytes, e % block_elems);
  }
}

}  // namespace

void embed(const Queue& queue, const EmbeddingTable& table, const TokenSource& tokens, int n, float* out) {
  const DTypeInfo& info = dtype_info(table.type);
  const auto block_elems = static_cast<int>(info.block_elems);
  const auto block_bytes = static_cast<int>(info.block_bytes);
  FL_CHECK(kPiece % block_elems == 0, "pieces of whole blocks");
  const int elements = table.cols < kPiece ? table.cols : kPiece;
  launch(queue, embed_rows,
         dim3(static_cast<unsigned>((table.cols + kPiece - 1) / kPiece), static_cast<unsigned>(n)), kThreads,
         static_cast<size_t>(elements / block_elems * block_bytes), "embed", table.data, table.type,
         table.n_tokens, table.cols, block_elems, block_bytes, tokens, out);
}

}  // namespace fl::cuda
