// The scan of gated_delta_scan.cu on Hopper's warpgroup products: 64 columns of S are the 64 rows of one, and
// what the four warps share is read from shared memory once for all of them.
#include "kernels/cuda/gated_delta_scan.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fl::cuda {
namespace {

constexpr int kStages = 2;
constexpr uint64_t kPanelOn = kChunk * 8;  // operands count in pieces
constexpr uint64_t kTokensOn = 16 * 8;     // 16 tokens on in a panel whose rows are tokens
constexpr int kPanelSteps = kSwizzledColumns / 16;

// A lane's sums in the order of the instruction.
template <int kTiles>
__device__ __forceinline__ float (&flat(float (&x)[kTiles][4]))[kTiles * 4] {
  return reinterpret_cast<float(&)[kTiles * 4]>(x);
}

// Operands stay what they are until here.
__device__ __forceinline__ void hold_operand(PairA& a) {
  asm volatile(""
               : "+r"(a.high[0]), "+r"(a.high[1]), "+r"(a.high[2]), "+r"(a.high[3]), "+r"(a.low[0]),
                 "+r"(a.low[1]), "+r"(a.low[2]), "+r"(a.low[3])::"memory");
}

// d += a B in pairs of halves; B's high and low parts.
__device__ __forceinline__ void product_pairs(float (&d)[kChunk / 2], const PairA& a, uint64_t high,
                                              uint64_t low) {
  wgmma<kChunk>(d, a.low, high);
  wgmma<kChunk>(d, a.high, low);
  wgmma<kChunk>(d, a.high, high);
}

// Grid: column blocks of S, value heads, sequences.
__global__ void __launch_bounds__(kScanThreads, 1) scan_chunks_by_warpgroup(const ChunkArgs a) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto* const stages = reinterpret_cast<ScanStage*>(shared_bytes);
  const int begin = a.sequence_begin[blockIdx.z];
  const int end = a.sequence_begin[blockIdx.z + 1];
  if (begin == end) {
    return;
  }
  // Nothing is fetched above the diagonals of T and P.
  for (int stage = 0; stage < kStages; ++stage) {
    for (int i = static_cast<int>(threadIdx.x); i < kChunk * 2 * kChunkPieces; i += kScanThreads) {
      stages[stage].t[i] = make_uint4(0, 0, 0, 0);
    }
    for (int i = static_cast<int>(threadIdx.x); i < kChunk * kChunkPieces; i += kScanThreads) {
      stages[stage].p[i] = make_uint4(0, 0, 0, 0);
    }
  }
  shared_for_products();
  __syncthreads();
  if (threadIdx.x >= kScanWarps * kWarp) {
    fetch_all<kStages, true>(a, begin, end, stages, [] { shared_for_products(); });
    return;
  }
  const ScanPlace place;
  const DeltaRun first = a.chunks[begin];
  float* const state = lane_state(a, first, place);
  float s[kDim / 8][4];
  load_state(state, first.n_cached != 0, s);

  for (int index = begin; index < end; ++index) {
    const DeltaRun chunk = a.chunks[index];
    ScanStage& stage = stages[(index - begin) % kStages];
    const uint64_t k_high = swizzled_operand(stage.k);
    const uint64_t k_low = k_high + kDim / kSwizzledColumns * kPanelOn;
    const uint64_t q = swizzled_operand(stage.q);
    const uint64_t t_high = swizzled_operand(stage.t);
    const uint64_t t_low = t_high + kPanelOn;
    const uint64_t p = swizzled_operand(stage.p);
    __syncthreads();

    float x[kChunk / 8][4] = {};  // K S, then X
    float o[kChunk / 8][4] = {};  // Q S, then O
    const int scale_s = scale_of<kLargestS>(s);
    const float up_s = power_of_two(scale_s);
    PairA fs[kDim / 16];
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      const uint64_t on = step / kPanelSteps * kPanelOn + step % kPanelSteps * kNext16Columns;
      fs[step] = operand(s, step, up_s);
      wgmma_fence();
      product_pairs(flat(x), fs[step], k_high + on, k_low + on);
      wgmma<kChunk>(flat(o), fs[step].high, q + on);
    }
    wgmma_commit();
    wgmma_wait<0>();
    hold_sums(flat(x));
    hold_sums(flat(o));
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      hold_operand(fs[step]);
    }
    take_predictions(stage, place, power_of_two(-scale_s - kScaleK), x, o);

    float d[kChunk / 8][4] = {};
    const int scale_x = scale_of<kLargestX>(x);
    const float up_x = power_of_two(scale_x);
    PairA fx[kChunk / 16];
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      const uint64_t on = step * kNext16Columns;
      fx[step] = operand(x, step, up_x);
      wgmma_fence();
      product_pairs(flat(d), fx[step], t_high + on, t_low + on);
    }
    wgmma_commit();
    // d stands for 2^-unit times itself.
    const int unit = kScaleT + scale_x;
    const float up_o = power_of_two(unit - scale_s);
#pragma unroll
    for (int tile = 0; tile < kChunk / 8; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        o[tile][e] *= up_o;
      }
    }
    wgmma_wait<0>();
    hold_sums(flat(d));
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      hold_operand(fx[step]);
    }

    PairA fd[kChunk / 16];
    float sums[2][kChunk / 8][4] = {};  // of S, for the two panels of dims
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      fd[step] = decayed_operand(d, step, stage, place);
      wgmma_fence();
#pragma unroll
      for (int panel = 0; panel < 2; ++panel) {
        const uint64_t on = panel * kPanelOn + step * kTokensOn;
        wgmma_transposed_64(flat(sums[panel]), fd[step].low, k_high + on);
        wgmma_transposed_64(flat(sums[panel]), fd[step].high, k_low + on);
        wgmma_transposed_64(flat(sums[panel]), fd[step].high, k_high + on);
      }
    }
    wgmma_commit();
    uint32_t fo[kChunk / 16][4];
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      high_operand(d, step, fo[step]);
    }
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      wgmma<kChunk>(flat(o), fo[step], p + step * kNext16Columns);
    }
    wgmma_commit();
    wgmma_wait<1>();
    const float all = stage.decay[chunk.n_tokens - 1];
    const float down_d = power_of_two(-unit - kScaleK);
#pragma unroll
    for (int panel = 0; panel < 2; ++panel) {
      hold_sums(flat(sums[panel]));
#pragma unroll
      for (int tile = 0; tile < kChunk / 8; ++tile) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& to = s[panel * (kChunk / 8) + tile][e];
          to = to * all + sums[panel][tile][e] * down_d;
        }
      }
    }
    wgmma_wait<0>();
    hold_sums(flat(o));
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
      hold_operand(fd[step]);
      asm volatile("" : "+r"(fo[step][0]), "+r"(fo[step][1]), "+r"(fo[step][2]), "+r"(fo[step][3])::"memory");
    }
    store_outputs(a, chunk, place, power_of_two(-unit - kScaleP), o);
  }
  store_state(state, s);
}

}  // namespace

void delta_scan_sm90a(const Queue& queue, const ChunkArgs& args, int n_sequences) {
  static const cudaError_t raised =
      cudaFuncSetAttribute(scan_chunks_by_warpgroup, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kStages * sizeof(ScanStage)));
  check(raised, "shared memory of the delta rule's scan");
  launch(queue, scan_chunks_by_warpgroup,
         dim3(kDim / kScanColumns, static_cast<unsigned>(args.dims.value_heads),
              static_cast<unsigned>(n_sequences)),
         kScanThreads, kStages * sizeof(ScanStage), "delta_scan", args);
}

}  // namespace fl::cuda
