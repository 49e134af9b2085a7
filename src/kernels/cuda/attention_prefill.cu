// Many query tokens. For heads of 256 with keys and values in f16 or q8_0: a block takes 64 query tokens of
// one head and walks over the sequence's KV blocks, scores and outputs in registers (FlashAttention-2, arXiv
// 2307.08691); while one of K and V is multiplied the next of the other is on its way. Everything else runs a
// plain kernel. On sm_90 heads that come in pairs have a kernel of their own
// (attention_prefill_sm90a_256.cu).
#include "kernels/cuda/attention_prefill.cuh"

namespace fl::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kGeneralThreads = 128;
constexpr int kGeneralWarps = kGeneralThreads / kWarp;
constexpr int kMaxHeadDim = 1024;

// A tile in shared memory: rows of kChunks 16-byte pieces, piece c of row r at c ^ (r % 8), so that the eight
// rows of a matrix load lie in different banks.
template <int kChunks>
__device__ __forceinline__ uint4* piece(uint4* tile, int row, int chunk) {
  return tile + row * kChunks + (chunk ^ (row & 7));
}

constexpr int kRowChunks = kHeadDim / 8;  // of a query or key
constexpr int kDimChunks = kBlock / 8;    // of a dim's values
constexpr int kTileChunks = kBlock * kRowChunks;
constexpr size_t kSharedBytes = 3 * kTileChunks * sizeof(uint4);

template <DType kType>
__device__ __forceinline__ void fetch_keys(const std::byte* keys, uint4* tile) {
  const int thread = static_cast<int>(threadIdx.x);
  if (kType == DType::f16) {
#pragma unroll 4
    for (int e = thread; e < kTileChunks; e += kThreads) {
      copy_async_16(piece<kRowChunks>(tile, e / kRowChunks, e % kRowChunks),
                    reinterpret_cast<const uint4*>(keys) + e);
    }
  } else {
    // 16 bytes are 8 dims of each of two groups, see kv_key_position.
    const auto* scales = reinterpret_cast<const __half*>(keys + kBlock * kHeadDim);
#pragma unroll 8
    for (int e = thread; e < kTileChunks / 2; e += kThreads) {
      const uint4 raw = reinterpret_cast<const uint4*>(keys)[e];
      const int row = e / (kRowChunks / 2);
      const int i = e % (kRowChunks / 2);
      const int group = i / 4 * 2;
      const __half2 two = *reinterpret_cast<const __half2*>(scales + row * (kHeadDim / kGroup32) + group);
      *piece<kRowChunks>(tile, row, group * 4 + i % 4) = scaled8(raw.x, raw.y, __low2half2(two));
      *piece<kRowChunks>(tile, row, group * 4 + 4 + i % 4) = scaled8(raw.z, raw.w, __high2half2(two));
    }
  }
}

template <DType kType>
__device__ __forceinline__ void fetch_values(const std::byte* values, int left, uint4* tile) {
  const int thread = static_cast<int>(threadIdx.x);
  if (kType == DType::f16) {
    if (left >= kBlock) {
#pragma unroll 4
      for (int e = thread; e < kTileChunks; e += kThreads) {
        copy_async_16(piece<kDimChunks>(tile, e / kDimChunks, e % kDimChunks),
                      reinterpret_cast<const uint4*>(values) + e);
      }
      return;
    }
    for (int e = thread; e < kTileChunks; e += kThreads) {
      uint4 raw = reinterpret_cast<const uint4*>(values)[e];
      clear_tail(raw, e % kDimChunks * 8, left);
      *piece<kDimChunks>(tile, e / kDimChunks, e % kDimChunks) = raw;
    }
  } else {
    const auto* scales = reinterpret_cast<const uint4*>(values + kBlock * kHeadDim);
#pragma unroll 8
    for (int e = thread; e < kTileChunks / 2; e += kThreads) {
      const uint4 raw = reinterpret_cast<const uint4*>(values)[e];
      const int dim = e / (kDimChunks / 2);
      const int token = e % (kDimChunks / 2) * 16;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 scale = scales[dim / kGroup32 * kDimChunks + token / 8 + half];
        clear_tail(scale, token + 8 * half, left);
        *piece<kDimChunks>(tile, dim, token / 8 + half) =
            scaled8(half == 0 ? raw.x : raw.z, half == 0 ? raw.y : raw.w, scale);
      }
    }
  }
}

// Grid: query heads, tiles.
template <DType kTypeK, DType kTypeV>
__global__ void __launch_bounds__(kThreads) prefill_256(const PrefillArgs a) {
  extern __shared__ __align__(16) uint4 shared_tiles[];
  uint4* const q = shared_tiles;
  uint4* const k = q + kTileChunks;
  uint4* const v = k + kTileChunks;
  let_next_start();
  wait_for_previous();
  const AttentionTile tile = a.tiles[blockIdx.y];
  if (tile.n_tokens == 0) {
    return;
  }
  const int head = static_cast<int>(blockIdx.x);
  const int kv_head = head / (a.heads / a.kv_heads);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int n_keys = tile.first_index + tile.n_tokens;
  const int n_blocks = (n_keys + kBlock - 1) / kBlock;
  const int64_t bytes_k = kv_bytes(kTypeK, kHeadDim);
  const int64_t bytes_v = kv_bytes(kTypeV, kHeadDim);
  const auto block_head = [&](int b) {
    return static_cast<int64_t>(a.blocks[tile.blocks + b]) * a.kv_heads + kv_head;
  };

  fetch_keys<kTypeK>(a.cache.k + block_head(0) * bytes_k, k);
  copy_async_commit();
  for (int e = thread; e < kTileChunks; e += kThreads) {
    const int row = e / kRowChunks;
    const int chunk = e % kRowChunks;
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (row < tile.n_tokens) {
      const auto* from = reinterpret_cast<const float4*>(
          a.q + (tile.first + row) * a.stride + static_cast<int64_t>(head) * 2 * kHeadDim + chunk * 8);
      const float4 x = from[0];
      const float4 y = from[1];
      const float by = a.scale * kLog2E;
      packed = make_uint4(pack_half2(x.x * by, x.y * by), pack_half2(x.z * by, x.w * by),
                          pack_half2(y.x * by, y.y * by), pack_half2(y.z * by, y.w * by));
    }
    *piece<kRowChunks>(q, row, chunk) = packed;
  }

  float o[kHeadDim / 8][4] = {};
  float largest[2] = {kMasked, kMasked};  // of rows g and g + 8
  float total[2] = {};
  const int row_g = 16 * warp + g;
  for (int b = 0; b < n_blocks; ++b) {
    copy_async_wait<0>();
    __syncthreads();  // keys are here, values' tile is free
    fetch_values<kTypeV>(a.cache.v + block_head(b) * bytes_v, n_keys - b * kBlock, v);
    copy_async_commit();

    float s[kBlock / 8][4] = {};
#pragma unroll 4
    for (int step = 0; step < kHeadDim / 16; ++step) {
      uint32_t fa[4];
      ldmatrix_x4(fa, piece<kRowChunks>(q, 16 * warp + lane % 16, 2 * step + lane / 16));
#pragma unroll
      for (int n = 0; n < kBlock / 16; ++n) {
        uint32_t fb[4];
        ldmatrix_x4(fb, piece<kRowChunks>(k, 16 * n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
        mma_f16(s[2 * n], fa, fb[0], fb[1]);
        mma_f16(s[2 * n + 1], fa, fb[2], fb[3]);
      }
    }
    // Rows see keys up to their own index.
    const int visible = tile.first_index + row_g - b * kBlock;
    if (visible < kBlock) {
#pragma unroll
      for (int n = 0; n < kBlock / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = 8 * n + 2 * t + e % 2;
          s[n][e] = key <= visible + e / 2 * 8 ? s[n][e] : kMasked;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
#pragma unroll
      for (int n = 0; n < kBlock / 8; ++n) {
        most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 2));
      const float factor = exp2f(largest[half] - most);
      largest[half] = most;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kBlock / 8; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] = s[n][e] == kMasked ? 0.0F : exp2f(s[n][e] - most);
          sum += s[n][e];
        }
      }
      total[half] = total[half] * factor + sum;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        o[n][2 * half] *= factor;
        o[n][2 * half + 1] *= factor;
      }
    }
    copy_async_wait<0>();
    __syncthreads();  // values are here, keys' tile is free
    if (b + 1 < n_blocks) {
      fetch_keys<kTypeK>(a.cache.k + block_head(b + 1) * bytes_k, k);
    }
    copy_async_commit();
#pragma unroll
    for (int step = 0; step < kBlock / 16; ++step) {
      const uint32_t fa[4] = {pack_half2(s[2 * step][0], s[2 * step][1]),
                              pack_half2(s[2 * step][2], s[2 * step][3]),
                              pack_half2(s[2 * step + 1][0], s[2 * step + 1][1]),
                              pack_half2(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
      for (int n = 0; n < kHeadDim / 16; ++n) {
        uint32_t fb[4];
        ldmatrix_x4(fb, piece<kDimChunks>(v, 16 * n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
        mma_f16(o[2 * n], fa, fb[0], fb[1]);
        mma_f16(o[2 * n + 1], fa, fb[2], fb[3]);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(0xFFFFFFFFU, total[half], 1);
    total[half] += __shfl_xor_sync(0xFFFFFFFFU, total[half], 2);
    const int row = row_g + 8 * half;
    const bool there = row < tile.n_tokens;
    const float inverse = 1.0F / total[half];
    const int token = tile.first + row;
    const float* gate = a.q + token * a.stride + static_cast<int64_t>(head) * 2 * kHeadDim + kHeadDim;
    // Of 16 dims lane t holds 2t, 2t + 1, 8 + 2t, 9 + 2t; it stores 4t .. 4t + 3.
#pragma unroll
    for (int n = 0; n < kHeadDim / 16; ++n) {
      float mine[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int from = lane - t + (2 * t + e / 2) % 4;
        const float low = __shfl_sync(0xFFFFFFFFU, o[2 * n][2 * half + e % 2], from);
        const float high = __shfl_sync(0xFFFFFFFFU, o[2 * n + 1][2 * half + e % 2], from);
        mine[e] = (t < 2 ? low : high) * inverse;
      }
      if (there) {
        const int d = 16 * n + 4 * t;
        const float4 by = *reinterpret_cast<const float4*>(gate + d);
        store_activations4(a.activations, token, head * kHeadDim + d,
                           make_float4(mine[0] * sigmoid(by.x), mine[1] * sigmoid(by.y),
                                       mine[2] * sigmoid(by.z), mine[3] * sigmoid(by.w)));
      }
    }
  }
}

// Any type and head size: a block takes one query token and head; its warps take the keys in turn. Grid:
// heads, tiles, tokens of a tile.
__global__ void __launch_bounds__(kGeneralThreads) general(const PrefillArgs a) {
  extern __shared__ float shared_floats[];  // the query, then an output per warp
  __shared__ float maxima[kGeneralWarps];
  __shared__ float sums[kGeneralWarps];
  let_next_start();
  wait_for_previous();
  const AttentionTile tile = a.tiles[blockIdx.y];
  const int i = static_cast<int>(blockIdx.z);
  if (i >= tile.n_tokens) {
    return;
  }
  const int hd = a.head_dim;
  const int head = static_cast<int>(blockIdx.x);
  const int kv_head = head / (a.heads / a.kv_heads);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int64_t token = tile.first + i;
  const float* query = a.q + token * a.stride + static_cast<int64_t>(head) * 2 * hd;
  float* const q = shared_floats;
  float* const o = q + hd + warp * hd;
  for (int d = thread; d < hd; d += kGeneralThreads) {
    q[d] = query[d] * a.scale;
  }
  for (int d = lane; d < hd; d += kWarp) {
    o[d] = 0;
  }
  __syncthreads();
  float largest = kMasked;
  float total = 0;
  const int n_keys = tile.first_index + i + 1;
  for (int j = warp; j < n_keys; j += kGeneralWarps) {
    const int64_t block_head =
        static_cast<int64_t>(a.blocks[tile.blocks + j / kBlock]) * a.kv_heads + kv_head;
    const std::byte* key = a.cache.k + block_head * kv_bytes(a.cache.type_k, hd);
    const std::byte* value = a.cache.v + block_head * kv_bytes(a.cache.type_v, hd);
    float dot = 0;
    for (int d = lane; d < hd; d += kWarp) {
      dot += q[d] * kv_load<true>(a.cache.type_k, key, hd, j % kBlock, d);
    }
    dot = warp_sum(dot);
    const float most = fmaxf(largest, dot);
    const float factor = expf(largest - most);
    const float p = expf(dot - most);
    largest = most;
    total = total * factor + p;
    for (int d = lane; d < hd; d += kWarp) {
      o[d] = o[d] * factor + p * kv_load<false>(a.cache.type_v, value, hd, j % kBlock, d);
    }
  }
  if (lane == 0) {
    maxima[warp] = largest;
    sums[warp] = total;
  }
  __syncthreads();
  float most = kMasked;
  for (int w = 0; w < kGeneralWarps; ++w) {
    most = fmaxf(most, maxima[w]);
  }
  float sum = 0;
  for (int w = 0; w < kGeneralWarps; ++w) {
    sum += sums[w] * expf(maxima[w] - most);
  }
  for (int d = thread; d < hd; d += kGeneralThreads) {
    float value = 0;
    for (int w = 0; w < kGeneralWarps; ++w) {
      value += q[hd + w * hd + d] * expf(maxima[w] - most);
    }
    a.out[(token * a.heads + head) * hd + d] = value / sum * sigmoid(query[hd + d]);
  }
}

template <DType kTypeK, DType kTypeV>
void start(const Queue& queue, dim3 grid, const PrefillArgs& args) {
  static const cudaError_t raised =
      cudaFuncSetAttribute(prefill_256<kTypeK, kTypeV>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kSharedBytes));
  check(raised, "shared memory of attention");
  launch(queue, prefill_256<kTypeK, kTypeV>, grid, kThreads, kSharedBytes, "attention_prefill", args);
}

PrefillArgs make_args(const AttentionShape& shape, const KvCache& cache, const AttentionQueries& queries,
                      const AttentionTile* tiles, const int32_t* blocks) {
  return {static_cast<int>(shape.n_heads),
          static_cast<int>(shape.n_kv_heads),
          static_cast<int>(shape.head_dim),
          shape.scale,
          cache,
          queries.q,
          queries.stride,
          tiles,
          blocks,
          {},
          nullptr};
}

}  // namespace

void attention_prefill(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                       const AttentionQueries& queries, const AttentionTile* tiles, int n_tiles,
                       const int32_t* blocks, const Activations& out) {
  if (n_tiles == 0) {
    return;
  }
  PrefillArgs args = make_args(shape, cache, queries, tiles, blocks);
  args.activations = writer(out);
  const dim3 grid(static_cast<unsigned>(shape.n_heads), static_cast<unsigned>(n_tiles));
#ifdef FREELUNCH_SM90A
  if (prefill_sm90a_takes(shape)) {
    prefill_sm90a(queue, n_tiles, args);
    return;
  }
#endif
  const bool quantised_v = cache.type_v == DType::q8_0;
  if (cache.type_k == DType::q8_0) {
    quantised_v ? start<DType::q8_0, DType::q8_0>(queue, grid, args)
                : start<DType::q8_0, DType::f16>(queue, grid, args);
  } else {
    quantised_v ? start<DType::f16, DType::q8_0>(queue, grid, args)
                : start<DType::f16, DType::f16>(queue, grid, args);
  }
}

void attention_general(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                       const AttentionQueries& queries, const AttentionTile* tiles, int n_tiles,
                       const int32_t* blocks, float* out) {
  if (n_tiles == 0) {
    return;
  }
  PrefillArgs args = make_args(shape, cache, queries, tiles, blocks);
  args.out = out;
  static_assert((1 + kGeneralWarps) * kMaxHeadDim * sizeof(float) <= 48 * 1024);
  launch(queue, general,
         dim3(static_cast<unsigned>(shape.n_heads), static_cast<unsigned>(n_tiles), kAttentionTile),
         kGeneralThreads, static_cast<size_t>((1 + kGeneralWarps) * shape.head_dim) * sizeof(float),
         "attention_general", args);
}

}  // namespace fl::cuda
