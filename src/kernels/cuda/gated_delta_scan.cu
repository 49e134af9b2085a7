// The chunks of a sequence in turn, with the state in registers: gated_delta_chunks.cuh.
#include "kernels/cuda/gated_delta_scan.cuh"

namespace fl::cuda {
namespace {

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
  const int begin = a.sequence_begin[blockIdx.z];
  const int end = a.sequence_begin[blockIdx.z + 1];
  if (begin == end) {
    return;
  }
  if (threadIdx.x >= kScanWarps * kWarp) {
    fetch_all<kStages, false>(a, begin, end, stages, [] {});
    return;
  }
  const ScanPlace place;
  const LaneAddresses at = lane_addresses();
  const DeltaRun first = a.chunks[begin];
  float* const state = lane_state(a, first, place);
  float s[kDim / 8][4];
  load_state(state, first.n_cached != 0, s);

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
    take_predictions(stage, place, power_of_two(-scale_s - kScaleK), x, o);

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
      high_operand(d, step, fd);
      const uint32_t p_at = (base + at.p) ^ (step * 32U);
#pragma unroll
      for (int tile = 2 * step; tile < kChunk / 8; tile += 2) {
        uint32_t fp[4];
        load_matrices(fp, p_at + tile * 8 * kChunkPieces * 16);
        mma_f16(o[tile], fd, fp[0], fp[1]);
        mma_f16(o[tile + 1], fd, fp[2], fp[3]);
      }
    }
    store_outputs(a, chunk, place, power_of_two(-unit - kScaleP), o);

    PairA fd[kChunk / 16];
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      fd[step] = decayed_operand(d, step, stage, place);
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
  store_state(state, s);
}

template <typename Kernel>
void allow_shared(Kernel kernel, size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of the delta rule's scan");
}

// Chunks that the scan holds in shared memory: one in work and one on its way where a block may have so much.
int choose_stages() {
  const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, "shared memory of a block");
  if (static_cast<size_t>(most) >= 2 * sizeof(ScanStage)) {
    allow_shared(scan_chunks<2>, 2 * sizeof(ScanStage));
    return 2;
  }
  allow_shared(scan_chunks<1>, sizeof(ScanStage));
  return 1;
}

}  // namespace

void delta_scan(const Queue& queue, const ChunkArgs& args, int n_sequences, DeltaScan scan) {
#ifdef FREELUNCH_SM90A
  static const bool hopper = device_arch() == 90;
  if (hopper && scan == DeltaScan::best) {
    delta_scan_sm90a(queue, args, n_sequences);
    return;
  }
#endif
  static const int stages = choose_stages();
  launch(queue, stages == 2 ? scan_chunks<2> : scan_chunks<1>,
         dim3(kDim / kScanColumns, static_cast<unsigned>(args.dims.value_heads),
              static_cast<unsigned>(n_sequences)),
         kScanThreads, stages * sizeof(ScanStage), "delta_scan", args);
}

}  // namespace fl::cuda
