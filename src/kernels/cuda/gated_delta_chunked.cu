// What the chunks of a prompt need that does not depend on the state: gated_delta_chunks.cuh.
#include "kernels/cuda/gated_delta_chunks.cuh"

namespace fl::cuda {
namespace {

constexpr int kPrepareThreads = 256;
constexpr int kHeadsAtOnce = 3;  // value heads of one key head that are inverted together
constexpr int kLaneL = kChunk + 4;
constexpr int kLeaf = 16;  // diagonal blocks of I + L that are inverted row by row
constexpr int kLoadTokens = kChunk * kPieces / kPrepareThreads;  // a thread loads 8 dims of so many tokens

struct PrepareShared {
  union {
    struct {
      uint4 k[kChunk * 2 * kPieces];
      uint4 q[kChunk * kPieces];
    };
    float l[kHeadsAtOnce][kChunk][kLaneL];  // L, then T; blocks above the diagonal hold what is between
  };
  float c[kHeadsAtOnce][kChunk];  // the running sums are c + c_rest
  float c_rest[kHeadsAtOnce][kChunk];
  float beta[kHeadsAtOnce][kChunk];
};

// One 16x8 tile of A B, both from floats of at most about 1: a(row, k), b(k, column).
template <typename LoadA, typename LoadB>
__device__ __forceinline__ void small_product(float (&acc)[4], int depth, LoadA&& a, LoadB&& b) {
  constexpr float kUp = 1 << kScaleL;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  for (int k = 2 * t; k < depth; k += 16) {
    PairA fa;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = g + i % 2 * 8;
      const int column = k + i / 2 * 8;
      fa.set(i, a(row, column) * kUp, a(row, column + 1) * kUp);
    }
    const HalfPair b0 = split_half2(b(k, g) * kUp, b(k + 1, g) * kUp);
    const HalfPair b1 = split_half2(b(k + 8, g) * kUp, b(k + 9, g) * kUp);
    const uint32_t fb[4] = {b0.high, b1.high, b0.low, b1.low};
    mma_pairs(acc, fa, fb);
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    acc[e] *= 1.0F / (kUp * kUp);
  }
}

// The inverses of the unit lower triangular matrices I + L in place: leaves by substitution, then pairs of
// blocks, [A 0; B C]^-1 = [A^-1 0; -C^-1 B A^-1, C^-1]. B A^-1 waits above the diagonal.
__device__ void invert(float (*l)[kChunk][kLaneL], int n_heads) {
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  if (thread < n_heads * kChunk) {
    auto& m = l[thread / kChunk];
    const int base = thread % kChunk / kLeaf * kLeaf;
    const int column = thread % kLeaf;
    float x[kLeaf];
#pragma unroll
    for (int i = 0; i < kLeaf; ++i) {
      float sum = i == column ? 1.0F : 0.0F;
#pragma unroll
      for (int j = 0; j < i; ++j) {
        sum -= m[base + i][base + j] * x[j];
      }
      x[i] = sum;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kLeaf; ++i) {
      m[base + i][base + column] = x[i];
    }
  }
#pragma unroll
  for (int size = kLeaf; size < kChunk; size *= 2) {
    const int across = size / 8;
    const int tiles = kChunk / (2 * size) * (size / 16) * across;
    const auto for_tiles = [&](auto&& work) {
      __syncthreads();
      for (int tile = warp; tile < n_heads * tiles; tile += kPrepareThreads / kWarp) {
        const int in_head = tile % tiles;
        const int base = in_head / (size / 16 * across) * 2 * size;
        work(l[tile / tiles], base, in_head / across % (size / 16) * 16, in_head % across * 8);
      }
    };
    for_tiles([&](auto& m, int base, int row0, int column0) {
      float acc[4] = {};
      small_product(
          acc, size, [&](int r, int k) { return m[base + size + row0 + r][base + k]; },
          [&](int k, int c) { return k >= column0 + c ? m[base + k][base + column0 + c] : 0.0F; });
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        m[base + row0 + g + e / 2 * 8][base + size + column0 + 2 * t + e % 2] = acc[e];
      }
    });
    for_tiles([&](auto& m, int base, int row0, int column0) {
      float acc[4] = {};
      small_product(
          acc, size,
          [&](int r, int k) { return row0 + r >= k ? m[base + size + row0 + r][base + size + k] : 0.0F; },
          [&](int k, int c) { return m[base + k][base + size + column0 + c]; });
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        m[base + size + row0 + g + e / 2 * 8][base + column0 + 2 * t + e % 2] = -acc[e];
      }
    });
  }
  __syncthreads();
}

// The running sums of a head's log decays, by one warp; they reach hundreds: in float their rounding alone
// would show in the state (docs/decisions/0001). A lane has two neighbouring tokens.
__device__ void sum_decays(const ChunkArgs& a, const DeltaRun& chunk, int head, float* c, float* c_rest,
                           float* beta) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double sums[2];
  for (int e = 0; e < 2; ++e) {
    const int i = 2 * lane + e;
    const bool there = i < chunk.n_tokens;
    const int64_t at = (chunk.first + i) * a.gate_stride + head;
    sums[e] = there ? static_cast<double>(log_decay(a.w.a[head], a.alpha[at], a.w.dt[head])) : 0.0;
    beta[i] = there ? sigmoid(a.beta[at]) : 0.0F;
  }
  sums[1] += sums[0];
  double before = sums[1];
  for (int step = 1; step < kWarp; step *= 2) {
    const double other = __shfl_up_sync(0xFFFFFFFFU, before, step);
    before += lane >= step ? other : 0.0;
  }
  const double last = __shfl_sync(0xFFFFFFFFU, before, kWarp - 1);
  before -= sums[1];
  for (int e = 0; e < 2; ++e) {
    const int i = 2 * lane + e;
    const double sum = before + sums[e];
    c[i] = static_cast<float>(sum);
    c_rest[i] = static_cast<float>(sum - static_cast<double>(c[i]));
    if (i < chunk.n_tokens) {
      a.spare[spare_decay(a.dims, chunk.first + i, head)] = expf(static_cast<float>(sum));
      a.spare[spare_decay_left(a.dims, chunk.first + i, head)] = expf(static_cast<float>(last - sum));
    }
  }
}

__device__ __forceinline__ uint4 pack8(const uint32_t (&x)[4]) {
  return make_uint4(x[0], x[1], x[2], x[3]);
}

// Grid: key heads, chunks.
__global__ void __launch_bounds__(kPrepareThreads, 2) prepare_chunks(const ChunkArgs a) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  PrepareShared& s = *reinterpret_cast<PrepareShared*>(shared_bytes);
  const DeltaRun chunk = a.chunks[blockIdx.y];
  const int key_head = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int n = chunk.n_tokens;
  const int64_t width = a.dims.conv_channels();
  float* const q_rows = a.mixed + static_cast<int64_t>(chunk.first) * width + key_head * kDim;
  float* const k_rows = q_rows + a.dims.qk_channels();

  // Q and K become halves, here and where they were.
  const int piece = thread % kPieces;
  const int first_row = thread / kPieces * kLoadTokens;
  const auto load = [&](const float* rows, float4(&x)[kLoadTokens][2]) {
#pragma unroll
    for (int i = 0; i < kLoadTokens; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t at = (first_row + i) * width + piece * 8 + half * 4;
        x[i][half] =
            first_row + i < n ? *reinterpret_cast<const float4*>(rows + at) : make_float4(0, 0, 0, 0);
      }
    }
    __syncthreads();  // all of them are read
  };
  {
    constexpr float kUp = 1 << kScaleK;
    float4 k[kLoadTokens][2];
    load(k_rows, k);
#pragma unroll
    for (int i = 0; i < kLoadTokens; ++i) {
      const int row = first_row + i;
      uint32_t high[4];
      uint32_t low[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const HalfPair x = split_half2(k[i][half].x * kUp, k[i][half].y * kUp);
        const HalfPair y = split_half2(k[i][half].z * kUp, k[i][half].w * kUp);
        high[2 * half] = x.high;
        high[2 * half + 1] = y.high;
        low[2 * half] = x.low;
        low[2 * half + 1] = y.low;
      }
      s.k[swizzled<2 * kPieces>(row, piece)] = pack8(high);
      s.k[swizzled<2 * kPieces>(row, kPieces + piece)] = pack8(low);
      if (row < n) {
        reinterpret_cast<uint4*>(k_rows + row * width)[piece] = pack8(high);
        reinterpret_cast<uint4*>(k_rows + row * width)[kPieces + piece] = pack8(low);
      }
    }
  }
  {
    constexpr float kUp = 1 << kScaleQ;
    float4 q[kLoadTokens][2];
    load(q_rows, q);
#pragma unroll
    for (int i = 0; i < kLoadTokens; ++i) {
      const int row = first_row + i;
      const uint32_t x[4] = {
          pack_half2(q[i][0].x * kUp, q[i][0].y * kUp), pack_half2(q[i][0].z * kUp, q[i][0].w * kUp),
          pack_half2(q[i][1].x * kUp, q[i][1].y * kUp), pack_half2(q[i][1].z * kUp, q[i][1].w * kUp)};
      s.q[swizzled<kPieces>(row, piece)] = pack8(x);
      if (row < n) {
        reinterpret_cast<uint4*>(q_rows + row * width)[piece] = pack8(x);
      }
    }
  }
  __syncthreads();

  // K K^T and Q K^T up to the diagonal: a warp has 16 rows and 32 columns of both.
  const int m = warp % 4 * 16;
  const int n0 = warp / 4 * 32;
  float kk[4][4] = {};
  float qk[4][4] = {};
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    PairA fk;
    uint32_t fq[4];
    const int row = m + lane % 16;
    const int at = 2 * step + lane / 16;
    ldmatrix_x4(fk.high, s.k + swizzled<2 * kPieces>(row, at));
    ldmatrix_x4(fk.low, s.k + swizzled<2 * kPieces>(row, kPieces + at));
    ldmatrix_x4(fq, s.q + swizzled<kPieces>(row, at));
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
      if (n0 + tile * 8 < m + 16) {
        uint32_t fb[4];
        ldmatrix_x4(fb, s.k + swizzled<2 * kPieces>(n0 + tile * 8 + lane % 8,
                                                    lane / 16 * kPieces + 2 * step + lane / 8 % 2));
        mma_pairs(kk[tile], fk, fb);
        mma_f16(qk[tile], fq, fb[0], fb[1]);
      }
    }
  }

  const int heads_of_key = a.dims.value_heads / a.dims.key_heads;
  for (int first = 0; first < heads_of_key; first += kHeadsAtOnce) {
    const int n_heads = min(kHeadsAtOnce, heads_of_key - first);
    const auto head_of = [&](int h) { return key_head + (first + h) * a.dims.key_heads; };
    if (warp < n_heads) {
      sum_decays(a, chunk, head_of(warp), s.c[warp], s.c_rest[warp], s.beta[warp]);
    }
    __syncthreads();  // sums are here; K and Q, or the heads before, are no longer needed
    for (int h = 0; h < n_heads; ++h) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = m + g + half * 8;
        const float c = s.c[h][i];
        const float c_rest = s.c_rest[h][i];
        const float beta = s.beta[h][i] * (1.0F / (1 << 2 * kScaleK));
#pragma unroll
        for (int tile = 0; tile < 4; ++tile) {
          const int j = n0 + tile * 8 + 2 * t;
          float l[2];
          float p[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = j + e;
            const float decay =
                column <= i ? __expf((c - s.c[h][column]) + (c_rest - s.c_rest[h][column])) : 0.0F;
            l[e] = column < i ? beta * decay * kk[tile][2 * half + e] : column == i ? 1.0F : 0.0F;
            p[e] = decay * qk[tile][2 * half + e] * power_of_two(kScaleP - kScaleQ - kScaleK);
          }
          *reinterpret_cast<float2*>(&s.l[h][i][j]) = make_float2(l[0], l[1]);
          if (i < n && j < m + 16) {
            *reinterpret_cast<uint32_t*>(a.spare + spare_p(a.dims, chunk.first + i, head_of(h)) + j / 2) =
                pack_half2(p[0], p[1]);
          }
        }
      }
    }
    __syncthreads();
    invert(s.l, n_heads);
    for (int e = thread; e < n_heads * kChunk * kChunkPieces; e += kPrepareThreads) {
      const int h = e / (kChunk * kChunkPieces);
      const int i = e / kChunkPieces % kChunk;
      const int eight = e % kChunkPieces;
      if (i >= n || eight * 8 > (i | (kLeaf - 1))) {
        continue;
      }
      uint32_t high[4];
      uint32_t low[4];
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        constexpr float kUp = 1 << kScaleT;
        const int j = eight * 8 + 2 * x;
        const HalfPair pair = split_half2(j <= i ? s.l[h][i][j] * s.beta[h][j] * kUp : 0.0F,
                                          j + 1 <= i ? s.l[h][i][j + 1] * s.beta[h][j + 1] * kUp : 0.0F);
        high[x] = pair.high;
        low[x] = pair.low;
      }
      auto* const row = reinterpret_cast<uint4*>(a.spare + spare_t(a.dims, chunk.first + i, head_of(h)));
      row[eight] = pack8(high);
      row[kChunkPieces + eight] = pack8(low);
    }
    __syncthreads();  // beta and T are read
  }
}

}  // namespace

void delta_chunks(const Queue& queue, const ChunkArgs& args, int n_chunks) {
  static const cudaError_t raised = cudaFuncSetAttribute(
      prepare_chunks, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(PrepareShared)));
  check(raised, "shared memory of the delta rule's chunks");
  launch(queue, prepare_chunks,
         dim3(static_cast<unsigned>(args.dims.key_heads), static_cast<unsigned>(n_chunks)), kPrepareThreads,
         sizeof(PrepareShared), "delta_chunks", args);
}

bool delta_chunked_supported(const DeltaShape& s) {
  const int64_t spare = s.n_value_heads * kSpare;
  return s.key_dim == kDim && s.value_dim == kDim && spare <= s.conv_channels();
}

void delta_chunked(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                   const DeltaState& state, const DeltaProjections& in, const DeltaRun* chunks, int n_chunks,
                   const int32_t* sequence_begin, int n_sequences, float* mixed, float* spare,
                   DeltaScan scan) {
  if (n_chunks == 0) {
    return;
  }
  const ChunkArgs args{delta_dims(shape, w), w,      state,          in.alpha, in.beta,
                       in.gate_stride,       chunks, sequence_begin, mixed,    spare};
  const Queue serial{queue.stream, false};
  delta_chunks(serial, args, n_chunks);
  delta_scan(serial, args, n_sequences, scan);
}

}  // namespace fl::cuda
