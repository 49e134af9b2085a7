// The kernel of matmul_batch.h. A block has one warpgroup of helpers: a warp that brings weights, one that
// brings activations, two that work out the norm's factors. Its others multiply 64 rows each: two with the
// same activations, and up to 32 tokens two pairs that take turns at superblocks and add their sums at a
// group's end, so that each scheduler has four warps to decode for. The second pair goes on while the first
// puts sums together and writes.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/matmul_batch_products.cuh"
#include "kernels/cuda/matmul_batch_shape.cuh"
#include "kernels/cuda/matmul_batch_store.cuh"
#include "kernels/cuda/matmul_batch_sums.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/stage_ring.cuh"
#include "kernels/cuda/wgmma_products.cuh"

namespace fl::cuda::batch {

template <typename Launch>
__device__ __forceinline__ const auto& segment_of(const Launch& f, int group) {
  int s = 0;
  while (s + 1 < f.n_segments && group >= f.segments[s + 1].first) {
    ++s;
  }
  return f.segments[s];
}

/// Shared memory.
struct Shared {
  StageRing weights;
  StageRing tokens;
  uint64_t* factors_full;
  uint64_t* exchange_full;  ///< of Exchange
  uint64_t* exchange_free;  ///< ditto
  float* factors;           ///< by token: of the norm, and back from stored activations
  float4* exchange;         ///< of Exchange
};

// What this block's number begins with in the launch behind this one, on its way to L2 while the last
// products are multiplied (decision 0066).
constexpr int kAskedSuperblocks = 4;
constexpr int kAskedAfter = 4;  // stages that were free again since the last weights were asked for
__device__ __forceinline__ void ask_for_next(const BatchNext& next, int lane) {
  const int block = static_cast<int>(blockIdx.x);
  const int start = share_start(next, block);
  const int group = start / next.n_superblocks;
  const int k0 = start - group * next.n_superblocks;
  const int count =
      min(kAskedSuperblocks, min(next.n_superblocks - k0, share_start(next, block + 1) - start));
  if (count <= 0) {
    return;  // a smaller grid
  }
  const BatchNext::Segment& s = segment_of(next, group);
  const int tiles = group_tiles(s.w_up != nullptr);
  const int tile = (group - s.first) * tiles + (lane & (tiles - 1));
  if (lane < kBatchGroupTiles && tile < padded_rows(s.rows) / kTileRows) {
    bulk_prefetch_l2((lane >= tiles ? s.w_up : s.w) +
                         (static_cast<int64_t>(tile) * next.n_superblocks + k0) * s.tile_bytes,
                     static_cast<uint32_t>(count * s.tile_bytes));
  }
}

__device__ __forceinline__ void bring_weights(const BatchParams& p, StageRing ring, int lane) {
  const uint64_t once = evict_first_policy();
  const bool pair = p.epilogue == BatchEpilogue::swiglu;
  const int tiles = group_tiles(pair);
  Share share(p);
  Work work;
  while (share.next(work)) {
    const BatchSegment& s = segment_of(p, work.group);
    const int first = (work.group - s.first) * tiles;
    const int here = min(tiles, padded_rows(s.rows) / kTileRows - first);
    const int tile = lane & (tiles - 1);
    const bool mine = lane < kBatchGroupTiles && tile < here;
    const uint8_t* from = (lane >= tiles ? s.w_up : s.w) +
                          (static_cast<int64_t>(first + tile) * p.n_superblocks + work.k0) * s.tile_bytes;
    const auto bytes = static_cast<uint32_t>(s.tile_bytes);
    for (int k = work.k0; k < work.k1; ++k) {
      barrier_wait(ring.empty + ring.stage, ring.parity ^ 1U);
      if (lane == 0) {
        barrier_expect(ring.full + ring.stage, bytes * static_cast<uint32_t>(pair ? 2 * here : here));
      }
      __syncwarp();
      if (mine) {
        bulk_copy_streamed(ring.data() + lane * p.slot_bytes, from, bytes, ring.full + ring.stage, once);
      }
      from += s.tile_bytes;
      ring.advance();
    }
  }
  if (p.next.n_segments > 0) {
    // Sooner, what this launch still waits for would come later.
    for (int i = 0; i < min(kAskedAfter, p.weight_stages); ++i) {
      barrier_wait(ring.empty + ring.stage, ring.parity ^ 1U);
      ring.advance();
    }
    ask_for_next(p.next, lane);
  }
}

// One thread.
template <int N>
__device__ __forceinline__ void bring_tokens(const BatchParams& p, const CUtensorMap& x, StageRing ring) {
  Share share(p);
  Work work;
  while (share.next(work)) {
    for (int k = work.k0; k < work.k1; ++k) {
      barrier_wait(ring.empty + ring.stage, ring.parity ^ 1U);
      barrier_expect(ring.full + ring.stage, static_cast<uint32_t>(Shape<N>::kTokenStage));
#pragma unroll
      for (int step = 0; step < kStepsPerSuperblock; ++step) {
        tensor_copy(ring.data() + step * Shape<N>::kStepBytes, x, k * kSuperblock + step * kSwizzledColumns,
                    0, ring.full + ring.stage);
      }
      ring.advance();
    }
  }
}

// Two warps: the next norm's weights on their way to L2, all blocks together; weights, so before the wait.
__device__ __forceinline__ void prefetch_norm(const BatchParams& p, int thread) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(float));
  const int rows = p.segments[0].rows;
  for (int at = (static_cast<int>(blockIdx.x) + thread * static_cast<int>(gridDim.x)) * kLine; at < rows;
       at += 2 * kWarp * static_cast<int>(gridDim.x) * kLine) {
    prefetch_l2(p.norm_weight + at);
  }
}

// Warps: what the sums of products are multiplied by, token by token.
__device__ __forceinline__ void find_factors(const BatchParams& p, const Shared& s, int warp, int lane) {
  const RmsScale& scale = p.scale;
  const int n4 = scale.n_partials / 4;
  for (int token = 2 * warp; token < p.n_tokens; token += 2 * kFactorWarps) {
    float factor[2] = {kUnscaleActivations, kUnscaleActivations};
    if (scale.sum_of_squares != nullptr) {
      const float* const first = scale.sum_of_squares + static_cast<int64_t>(token) * scale.n_partials;
      const float* const second = token + 1 < p.n_tokens ? first + scale.n_partials : first;
      float sums[2] = {0, 0};
      for (int i = lane; i < n4; i += kWarp) {
        const float4 a = __ldcg(reinterpret_cast<const float4*>(first) + i);
        const float4 b = __ldcg(reinterpret_cast<const float4*>(second) + i);
        sums[0] += (a.x + a.y) + (a.z + a.w);
        sums[1] += (b.x + b.y) + (b.z + b.w);
      }
      for (int i = 4 * n4 + lane; i < scale.n_partials; i += kWarp) {
        sums[0] += __ldcg(first + i);
        sums[1] += __ldcg(second + i);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float mean = __fdividef(warp_sum(sums[i]), static_cast<float>(scale.n));
        factor[i] *= rsqrtf(mean + scale.eps);
      }
    }
    if (lane == 0) {
      s.factors[token] = factor[0];
      s.factors[token + 1] = factor[1];
    }
  }
  __syncwarp();
  if (lane == 0) {
    barrier_arrive(s.factors_full);
  }
}

template <int N>
__device__ __forceinline__ void multiply(const BatchParams& p, Shared& shared, int which, int thread) {
  constexpr int kPairs = Shape<N>::kPairs;
  constexpr bool kEarlyNorm = N <= 16;  // two registers that more tokens do not have
  const int pair = which / 2;
  const int warpgroup = which % 2;
  const int lane = thread % 32;
  const int warp = thread / 32;
  StageRing& weights = shared.weights;
  StageRing& tokens = shared.tokens;
  weights.advance(pair);
  tokens.advance(pair);
  [[maybe_unused]] Exchange<N> exchange(shared.exchange, shared.exchange_full, shared.exchange_free,
                                        warpgroup, thread);
  wait_for_previous();
  const bool two = p.epilogue == BatchEpilogue::swiglu;
  // Of gate and up two warps share a tile each, eight rows of both.
  const int half = two ? warp & 1 : 0;
  const int slot = two ? warpgroup * 2 + (warp >> 1) : warpgroup * 4 + warp;
  int seen = 0;  // superblocks of the works before
  Share share(p);
  Work work;
  while (share.next(work)) {
    const BatchSegment& s = segment_of(p, work.group);
    float d[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      d[i] = 0;
    }
    int n = work.k1 - work.k0;
    if constexpr (kPairs == 2) {
      const int skip = (pair - seen) & 1;
      seen += n;
      n = (n - skip + 1) / 2;
    }
    const auto type = static_cast<PackedType>(s.type);
    if (two) {
      chain_of<N, true>(type, d, n, slot, p.slot_bytes, half, lane, weights, tokens);
    } else {
      chain_of<N, false>(type, d, n, slot, p.slot_bytes, half, lane, weights, tokens);
    }
    if constexpr (kPairs == 2) {
      if (pair == 1) {
        exchange.give(d);
        continue;
      }
    }
    const int tile = (work.group - s.first) * group_tiles(two) + slot;
    const Place at{tile, tile * kTileRows + 8 * half + (lane >> 2), 2 * (lane & 3)};
    const bool exists = tile * kTileRows < s.rows;
    float old[N / 2];
    [[maybe_unused]] float2 weight{0, 0};
    if (p.epilogue == BatchEpilogue::add_and_norm && work.k0 == 0) {
      read_residual<N>(old, s, at, p.n_tokens);
      if constexpr (kEarlyNorm) {
        weight = norm_weights(p, at);
      }
    }
    if constexpr (kPairs == 2) {
      exchange.take(d);
    }
    if (work.k0 > 0) {
      hand_over<N>(p, d, warpgroup, thread);
      continue;
    }
    if (work.k1 < p.n_superblocks) {
      collect<N>(p, d, work.group, warpgroup, thread);
    }
    barrier_wait(shared.factors_full, 0);
    if (!exists) {
      continue;
    }
    switch (p.epilogue) {
      case BatchEpilogue::store:
        write_floats<N, false>(s, d, at, shared.factors, p.n_tokens);
        break;
      case BatchEpilogue::add:
        write_floats<N, true>(s, d, at, shared.factors, p.n_tokens);
        break;
      case BatchEpilogue::add_and_norm:
        if constexpr (!kEarlyNorm) {
          weight = norm_weights(p, at);
        }
        write_normed<N>(p, s, d, old, weight, at, shared.factors, p.n_tokens, lane);
        break;
      case BatchEpilogue::swiglu:
        write_halves<N, true, false>(p, d, at, shared.factors, p.n_tokens);
        break;
      case BatchEpilogue::keep_gate:
        write_halves<N, false, false>(p, d, at, shared.factors, p.n_tokens);
        break;
      case BatchEpilogue::swiglu_kept:
        write_halves<N, false, true>(p, d, at, shared.factors, p.n_tokens);
        break;
    }
  }
}

template <int N>
__global__ void __launch_bounds__(Shape<N>::kThreads, 1)
    batch_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ BatchParams p) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* const base = unaligned + (-shared_address(unaligned) & 1023U);
  auto* const barriers = reinterpret_cast<uint64_t*>(base);
  let_next_start();
  Shared shared{{barriers, barriers + kMaxStages, nullptr, p.weight_stages, kBatchGroupTiles * p.slot_bytes},
                {barriers + 2 * kMaxStages, barriers + 3 * kMaxStages, base + kBarrierSpace, p.token_stages,
                 Shape<N>::kTokenStage},
                barriers + kFactorsBarrier,
                barriers + kExchangeFull,
                barriers + kExchangeFree,
                nullptr,
                nullptr};
  uint8_t* const behind = shared.tokens.stages + p.token_stages * Shape<N>::kTokenStage;
  shared.exchange = reinterpret_cast<float4*>(behind);
  shared.factors = reinterpret_cast<float*>(behind + Shape<N>::kExchange);
  shared.weights.stages = behind + Shape<N>::kExchange + kMostBatchTokens * 4;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kBarriers) {
    barrier_init(barriers + thread, arrivals_of(thread));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (thread < kWarpgroup) {
    give_registers<Shape<N>::kHelperRegisters>();
    const int warp = thread / 32;
    if (warp == 0) {
      bring_weights(p, shared.weights, thread);
    } else if (warp == 1) {
      if (thread == 32) {
        wait_for_previous();
        bring_tokens<N>(p, x, shared.tokens);
      }
    } else {
      if (p.epilogue == BatchEpilogue::add_and_norm) {
        prefetch_norm(p, thread % (2 * kWarp));
      }
      wait_for_previous();
      find_factors(p, shared, warp - 2, thread % 32);
    }
  } else {
    take_registers<Shape<N>::kMultiplierRegisters>();
    // From one lane: what follows from it, descriptors of stages above all, is then in uniform registers.
    multiply<N>(p, shared, __shfl_sync(~0U, thread / kWarpgroup - 1, 0), thread % kWarpgroup);
  }
}

template <int N>
void launch_instance(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                     const BatchParams& p) {
  prepare_shared(batch_kernel<N>, shared_bytes, "batch product");
  launch(batch_kernel<N>, {dim3(static_cast<unsigned>(grid)), dim3(Shape<N>::kThreads), shared_bytes}, stream,
         overlap, "batch product", x, p);
}

}  // namespace fl::cuda::batch
