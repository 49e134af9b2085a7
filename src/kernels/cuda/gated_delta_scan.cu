// The chunks of a sequence in turn, with the state in registers: gated_delta_chunks.cuh.
#include <cstddef>

#include "kernels/cuda/gated_delta_chunks.cuh"

namespace fl::cuda {
namespace {

// A warp has 16 columns of S and everything that belongs to them, transposed: rows of its products are
// columns of S, so that a result is the next product's first operand in the registers where it is. Row g of a
// tile is column 2g, row g + 8 column 2g + 1, which makes them neighbours in memory. Warps share only what
// they read.
constexpr int kScanWarps = 4;
constexpr int kWarpColumns = 16;
constexpr int kScanColumns = kScanWarps * kWarpColumns;
constexpr int kFetchThreads = 128;  // of more warps, which bring what the others multiply
constexpr int kScanThreads = kScanWarps * kWarp + kFetchThreads;
constexpr int kValuePieces = kScanColumns / 4;  // 16-byte pieces of a row of V, f32

struct alignas(1024) ScanStage {
  uint4 k[kChunk * 2 * kPieces];
  uint4 q[kChunk * kPieces];
  uint4 t[kChunk * 2 * kChunkPieces];
  uint4 p[kChunk * kChunkPieces];
  uint4 v[kChunk * kValuePieces];
  float decay[kChunk];       // e^c
  float decay_left[kChunk];  // e^(c_last - c)
};

// Piece c of row r of V at c ^ 2 (r / 2 % 4): lanes read pairs of columns of rows 2t and 2t + 1.
__device__ __forceinline__ int swizzled_value(int row, int piece) {
  return row * kValuePieces + (piece ^ (row / 2 % 4 * 2));
}

// Of `from` nothing is read when it is not there.
template <int kBytes>
__device__ __forceinline__ void copy_or_clear(uint32_t address, const void* from, bool there) {
  const int bytes = there ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes),
                 "r"(bytes));
  }
}

// Rows of kRow pieces, by all threads that fetch; from row `n` on zeros. `to_diagonal`: of rows of one or two
// parts of kChunkPieces, only what is not above the diagonal's blocks.
template <int kRow, bool kToDiagonal, typename Place>
__device__ __forceinline__ void fetch_rows(int thread, const float* from, int64_t width, int n,
                                           Place&& place) {
  constexpr int kStep = kFetchThreads / kRow;
  constexpr int kSame = 8 % kStep == 0 ? 8 / kStep : 1;  // steps after which a place's swizzle comes again
  const int piece = thread % kRow;
  const int row0 = thread / kRow;
  const float* at = from + row0 * width + piece * 4;
  uint32_t to[kSame];
#pragma unroll
  for (int i = 0; i < kSame; ++i) {
    to[i] = static_cast<uint32_t>(__cvta_generic_to_shared(place(row0 + i * kStep, piece)));
  }
#pragma unroll
  for (int i = 0; i < kChunk / kStep; ++i, at += kStep * width) {
    const int row = row0 + i * kStep;
    if (!kToDiagonal || piece % kChunkPieces * 8 <= (row | 15)) {
      copy_or_clear<16>(to[i % kSame] + i / kSame * kSame * kStep * kRow * 16, at, row < n);
    }
  }
}

// Everything that a chunk needs.
__device__ __forceinline__ void fetch_chunk(const ChunkArgs& a, const DeltaRun& chunk, int head, int column0,
                                            int thread, ScanStage& s) {
  const int64_t width = a.dims.conv_channels();
  const int qk = a.dims.qk_channels();
  const int n = chunk.n_tokens;
  const float* const q = a.mixed + chunk.first * width + head % a.dims.key_heads * kDim;
  const float* const v = a.mixed + chunk.first * width + 2 * qk + head * kDim + column0;
  fetch_rows<2 * kPieces, false>(thread, q + qk, width, n,
                                 [&](int row, int piece) { return s.k + swizzled<2 * kPieces>(row, piece); });
  fetch_rows<kPieces, false>(thread, q, width, n,
                             [&](int row, int piece) { return s.q + swizzled<kPieces>(row, piece); });
  fetch_rows<kValuePieces, false>(thread, v, width, n,
                                  [&](int row, int piece) { return s.v + swizzled_value(row, piece); });
  fetch_rows<2 * kChunkPieces, true>(
      thread, a.spare + spare_t(a.dims, chunk.first, head), width, n,
      [&](int row, int piece) { return s.t + swizzled<2 * kChunkPieces>(row, piece); });
  fetch_rows<kChunkPieces, true>(
      thread, a.spare + spare_p(a.dims, chunk.first, head), width, n,
      [&](int row, int piece) { return s.p + swizzled<kChunkPieces>(row, piece); });
  static_assert(kFetchThreads == 2 * kChunk);
  const int row = thread % kChunk;
  const int64_t token = chunk.first + row;
  const bool left = thread >= kChunk;
  copy_or_clear<4>(
      static_cast<uint32_t>(__cvta_generic_to_shared((left ? s.decay_left : s.decay) + row)),
      a.spare + (left ? spare_decay_left(a.dims, token, head) : spare_decay(a.dims, token, head)), row < n);
}

// The power of two that brings the largest of a warp's values to just below 2^kLargest. The low parts of
// halves keep 2^-25, far less than a float's last bit of the largest.
constexpr int kLargestS = 14;
constexpr int kLargestX = 5;
constexpr int kMostScale = 40;
template <int kLargest, int kTiles>
__device__ __forceinline__ int scale_of(const float (&x)[kTiles][4]) {
  float most[8] = {};  // independent of one another: nothing else runs beside this warp
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float& m = most[n % 2 * 4 + e];
      m = fmaxf(m, fabsf(x[n][e]));
    }
  }
  const float all = fmaxf(fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])),
                          fmaxf(fmaxf(most[4], most[5]), fmaxf(most[6], most[7])));
  const auto exponent = static_cast<int>(__reduce_max_sync(0xFFFFFFFFU, __float_as_uint(all)) >> 23);
  return max(-kMostScale, min(126 + kLargest - exponent, kMostScale));
}

// Columns 16 step .. + 15 of a warp's 16 rows as the first operand, times `by`.
template <int kTiles>
__device__ __forceinline__ PairA operand(const float (&x)[kTiles][4], int step, float by) {
  PairA a;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* const from = x[2 * step + i / 2] + i % 2 * 2;
    a.set(i, from[0] * by, from[1] * by);
  }
  return a;
}

// Four matrices at a lane's address in shared memory.
template <bool kTransposed = false>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  if constexpr (kTransposed) {  // lane 4 g + t gets (2t, g) and (2t + 1, g)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
  }
}

// c[i] += a b[i] for several tiles, the parts of the split product after one another, so that no instruction
// waits for the one before.
template <int kTiles>
__device__ __forceinline__ void mma_tiles(float (*c)[4], const PairA& a, const uint32_t (&b)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    mma_f16(c[i], a.low, b[i][0], b[i][1]);
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    mma_f16(c[i], a.high, b[i][2], b[i][3]);
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    mma_f16(c[i], a.high, b[i][0], b[i][1]);
  }
}

// Where a lane's rows of the matrices begin in a stage; the exclusive or with 16 times an even piece gives
// that piece's (rows of kRow pieces and their parts begin at multiples of what it changes).
struct LaneAddresses {
  uint32_t k, k_transposed, q, t, p;
};
__device__ __forceinline__ LaneAddresses lane_addresses() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = lane % 8;
  const int upper = lane / 16;   // of a load of four matrices: the second two,
  const int odd = lane / 8 % 2;  // and the second of each two
  const auto bytes = [](size_t begin, int pieces) { return static_cast<uint32_t>(begin) + pieces * 16U; };
  return {bytes(offsetof(ScanStage, k), swizzled<2 * kPieces>(row, upper * kPieces + odd)),
          bytes(offsetof(ScanStage, k), swizzled<2 * kPieces>(8 * odd + row, upper)),
          bytes(offsetof(ScanStage, q), swizzled<kPieces>(8 * upper + row, odd)),
          bytes(offsetof(ScanStage, t), swizzled<2 * kChunkPieces>(row, upper * kChunkPieces + odd)),
          bytes(offsetof(ScanStage, p), swizzled<kChunkPieces>(8 * upper + row, odd))};
}

// Grid: column blocks of S, value heads, sequences.
template <int kStages>
__global__ void __launch_bounds__(kScanThreads, 1) scan_chunks(const ChunkArgs a) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto* const stages = reinterpret_cast<ScanStage*>(shared_bytes);
  const int head = static_cast<int>(blockIdx.y);
  const int column0 = static_cast<int>(blockIdx.x) * kScanColumns;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int begin = a.sequence_begin[blockIdx.z];
  const int end = a.sequence_begin[blockIdx.z + 1];
  if (begin == end) {
    return;
  }
  if (warp >= kScanWarps) {
    const int thread = static_cast<int>(threadIdx.x) - kScanWarps * kWarp;
    for (int index = begin; index < end; ++index) {
      fetch_chunk(a, a.chunks[index], head, column0, thread, stages[(index - begin) % kStages]);
      copy_async_commit();
      copy_async_wait<0>();
      __syncthreads();  // the chunk is here, and the one before is no longer needed
      if (kStages == 1) {
        __syncthreads();
      }
    }
    return;
  }
  const int64_t width = a.dims.conv_channels();
  const DeltaRun first = a.chunks[begin];
  const LaneAddresses at = lane_addresses();
  const int my_column = warp * kWarpColumns + 2 * g;  // of the block's; and the next
  float* const state = a.state.base + first.state_row * a.state.row_stride +
                       static_cast<int64_t>(head) * kDim * kDim + column0 + my_column;
  float s[kDim / 8][4];
#pragma unroll
  for (int tile = 0; tile < kDim / 8; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float2 v = first.n_cached == 0
                           ? make_float2(0, 0)
                           : *reinterpret_cast<const float2*>(state + (8 * tile + 2 * t + e) * kDim);
      s[tile][e] = v.x;
      s[tile][2 + e] = v.y;
    }
  }

  for (int index = begin; index < end; ++index) {
    const DeltaRun chunk = a.chunks[index];
    ScanStage& stage = stages[(index - begin) % kStages];
    const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(&stage));
    __syncthreads();

    float x[kChunk / 8][4] = {};  // K S, then X
    float o[kChunk / 8][4] = {};  // Q S, then O
    const int scale_s = scale_of<kLargestS>(s);
    const float up_s = power_of_two(scale_s);
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      const PairA fs = operand(s, step, up_s);
      const uint32_t k_at = (base + at.k) ^ (step * 32U);
      const uint32_t q_at = (base + at.q) ^ (step * 32U);
#pragma unroll
      for (int tile = 0; tile < kChunk / 8; tile += 4) {
        uint32_t fk[4][4];
        uint32_t fq[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          load_matrices(fk[i], k_at + (tile + i) * 8 * 2 * kPieces * 16);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          load_matrices(fq[i], q_at + (tile + 2 * i) * 8 * kPieces * 16);
        }
        mma_tiles(x + tile, fs, fk);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          mma_f16(o[tile + i], fs.high, fq[i / 2][i % 2 * 2], fq[i / 2][i % 2 * 2 + 1]);
        }
      }
    }
    const float down_s = power_of_two(-scale_s - kScaleK);
#pragma unroll
    for (int tile = 0; tile < kChunk / 8; ++tile) {
      const int i = 8 * tile + 2 * t;
      const float2 decay = *reinterpret_cast<const float2*>(stage.decay + i);
      const auto value = [&](int row) {
        const uint4* const piece = stage.v + swizzled_value(row, my_column / 4);
        return reinterpret_cast<const float2*>(piece)[g % 2];
      };
      const float2 v0 = value(i);
      const float2 v1 = value(i + 1);
      x[tile][0] = v0.x - decay.x * (x[tile][0] * down_s);
      x[tile][1] = v1.x - decay.y * (x[tile][1] * down_s);
      x[tile][2] = v0.y - decay.x * (x[tile][2] * down_s);
      x[tile][3] = v1.y - decay.y * (x[tile][3] * down_s);
      o[tile][0] *= decay.x;
      o[tile][1] *= decay.y;
      o[tile][2] *= decay.x;
      o[tile][3] *= decay.y;
    }

    float d[kChunk / 8][4] = {};
    static_assert(kChunk << (kScaleT + kLargestX) <= 1 << 15);
    const int scale_x = scale_of<kLargestX>(x);
    const float up_x = power_of_two(scale_x);
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      const PairA fx = operand(x, step, up_x);
      const uint32_t t_at = (base + at.t) ^ (step * 32U);
#pragma unroll
      for (int tile = 2 * step; tile < kChunk / 8; tile += 2) {
        uint32_t ft[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          load_matrices(ft[i], t_at + (tile + i) * 8 * 2 * kChunkPieces * 16);
        }
        mma_tiles(d + tile, fx, ft);
      }
    }
    // d stands for 2^-unit times itself. |T diag(beta)| <= 1, so it is below 2^15.
    const int unit = kScaleT + scale_x;
    const float up_o = power_of_two(unit - scale_s);
#pragma unroll
    for (int tile = 0; tile < kChunk / 8; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        o[tile][e] *= up_o;
      }
    }
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      uint32_t fd[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const from = d[2 * step + i / 2] + i % 2 * 2;
        fd[i] = pack_half2(from[0], from[1]);
      }
      const uint32_t p_at = (base + at.p) ^ (step * 32U);
#pragma unroll
      for (int tile = 2 * step; tile < kChunk / 8; tile += 2) {
        uint32_t fp[4];
        load_matrices(fp, p_at + tile * 8 * kChunkPieces * 16);
        mma_f16(o[tile], fd, fp[0], fp[1]);
        mma_f16(o[tile + 1], fd, fp[2], fp[3]);
      }
    }
    static_assert(kScaleP == kScaleQ);
    const float down_o = power_of_two(-unit - kScaleP);
    float* const out =
        a.mixed + chunk.first * width + 2 * a.dims.qk_channels() + head * kDim + column0 + my_column;
#pragma unroll
    for (int tile = 0; tile < kChunk / 8; ++tile) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int i = 8 * tile + 2 * t + e;
        if (i < chunk.n_tokens) {
          *reinterpret_cast<float2*>(out + i * width) =
              make_float2(o[tile][e] * down_o, o[tile][2 + e] * down_o);
        }
      }
    }

    PairA fd[kChunk / 16];
#pragma unroll
    for (int tile = 0; tile < kChunk / 8; ++tile) {
      const float2 left = *reinterpret_cast<const float2*>(stage.decay_left + 8 * tile + 2 * t);
      fd[tile / 2].set(tile % 2 * 2, d[tile][0] * left.x, d[tile][1] * left.y);
      fd[tile / 2].set(tile % 2 * 2 + 1, d[tile][2] * left.x, d[tile][3] * left.y);
    }
    const float all = stage.decay[chunk.n_tokens - 1];
    const float down_d = power_of_two(-unit - kScaleK);
    constexpr int kTogether = 4;  // tiles of S whose sums wait in registers
#pragma unroll
    for (int tiles = 0; tiles < kDim / 8; tiles += kTogether) {
      float sum[kTogether][4] = {};
#pragma unroll
      for (int step = 0; step < kChunk / 16; ++step) {
        uint32_t fk[kTogether][4];
#pragma unroll
        for (int two = 0; two < kTogether; two += 2) {
          uint32_t high[4];
          uint32_t low[4];
          const uint32_t k_at =
              ((base + at.k_transposed) ^ ((tiles + two) * 16U)) + step * 16 * 2 * kPieces * 16;
          load_matrices<true>(high, k_at);
          load_matrices<true>(low, k_at + kPieces * 16);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            fk[two + i][0] = high[2 * i];
            fk[two + i][1] = high[2 * i + 1];
            fk[two + i][2] = low[2 * i];
            fk[two + i][3] = low[2 * i + 1];
          }
        }
        mma_tiles(sum, fd[step], fk);
      }
#pragma unroll
      for (int tile = 0; tile < kTogether; ++tile) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s[tiles + tile][e] = s[tiles + tile][e] * all + sum[tile][e] * down_d;
        }
      }
    }
    if (kStages == 1) {
      __syncthreads();
    }
  }
#pragma unroll
  for (int tile = 0; tile < kDim / 8; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      *reinterpret_cast<float2*>(state + (8 * tile + 2 * t + e) * kDim) =
          make_float2(s[tile][e], s[tile][2 + e]);
    }
  }
}

template <typename Kernel>
void allow_shared(Kernel kernel, size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of the delta rule's scan");
}

// Chunks that the scan holds in shared memory: one in work and one on its way where a block may have so much.
int choose_stages() {
  int device = 0;
  int most = 0;
  check(cudaGetDevice(&device), "device of the delta rule's scan");
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "shared memory of a block");
  if (static_cast<size_t>(most) >= 2 * sizeof(ScanStage)) {
    allow_shared(scan_chunks<2>, 2 * sizeof(ScanStage));
    return 2;
  }
  allow_shared(scan_chunks<1>, sizeof(ScanStage));
  return 1;
}

}  // namespace

void delta_scan(const Queue& queue, const ChunkArgs& args, int n_sequences) {
  static const int stages = choose_stages();
  launch(queue, stages == 2 ? scan_chunks<2> : scan_chunks<1>,
         dim3(kDim / kScanColumns, static_cast<unsigned>(args.dims.value_heads),
              static_cast<unsigned>(n_sequences)),
         kScanThreads, stages * sizeof(ScanStage), "delta_scan", args);
}

}  // namespace fl::cuda
