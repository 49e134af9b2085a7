// The kernel of matmul_batch.h. A block has one warpgroup of helpers: a warp that brings weights, one that
// brings activations, two that work out the norm's factors. Its others
// multiply 64 rows each: two with the same activations, and up to 32 tokens two pairs that take turns at
// superblocks and add their sums at a group's end, so that each scheduler has four warps to decode for. The
// second pair goes on while the first puts sums together and writes.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/matmul_batch_decode.cuh"
#include "kernels/cuda/matmul_batch_store.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/stage_ring.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fl::cuda::batch {

constexpr int kWarpgroup = 128;
constexpr int kPairWarps = 8;        // that multiply with a superblock
constexpr int kMaxStages = 16;       // of a ring
constexpr int kBarrierSpace = 1024;  // barriers, and the alignment of what follows
constexpr int kStepsPerSuperblock = kSuperblock / kSwizzledColumns;
constexpr int kFactorWarps = 2;
// Barriers: [full, empty][stage] of weights and of tokens, then these.
constexpr int kFactorsBarrier = 4 * kMaxStages;
constexpr int kExchangeFull = kFactorsBarrier + 1;
constexpr int kExchangeFree = kExchangeFull + 2;
constexpr int kBarriers = kExchangeFree + 2;
static_assert(kBarriers * 8 <= kBarrierSpace && kBarriers <= kWarpgroup);

template <int N>
struct Shape {
  static constexpr int kPairs = N <= 32 ? 2 : 1;
  static constexpr int kThreads = kWarpgroup * (1 + 2 * kPairs);
  static constexpr int kHelperRegisters = 56;
  static constexpr int kMultiplierRegisters = kPairs == 2 ? 104 : 224;
  static constexpr int kStepBytes = N * kSwizzledColumns * 2;
  static constexpr int kTokenStage = kStepsPerSuperblock * kStepBytes;
  static constexpr int kExchange = kPairs == 2 ? 2 * kWarpgroup * (N / 2) * 4 : 0;
};

/// A part of a group: superblocks [k0, k1).
struct Work {
  int group;
  int k0;
  int k1;
};

/// Superblocks of all groups before the share of a block.
__device__ __forceinline__ int share_start(const BatchParams& f, int block) {
  const uint32_t cost = min(f.cost, static_cast<uint32_t>(block) * f.cost_per_block);
  int s = 0;
  while (s + 1 < f.n_segments && cost >= f.segments[s + 1].first_cost) {
    ++s;
  }
  return f.segments[s].first * f.n_superblocks +
         static_cast<int>((cost - f.segments[s].first_cost) / f.segments[s].cost);
}

class Share {
 public:
  __device__ explicit Share(const BatchParams& f)
      : n_superblocks_(f.n_superblocks),
        at_(share_start(f, static_cast<int>(blockIdx.x))),
        end_(share_start(f, static_cast<int>(blockIdx.x) + 1)) {}

  __device__ bool next(Work& w) {
    if (at_ >= end_) {
      return false;
    }
    w.group = at_ / n_superblocks_;
    w.k0 = at_ - w.group * n_superblocks_;
    w.k1 = min(n_superblocks_, w.k0 + end_ - at_);
    at_ += w.k1 - w.k0;
    return true;
  }

 private:
  int n_superblocks_;
  int at_;
  int end_;
};

__device__ __forceinline__ const BatchSegment& segment_of(const BatchParams& f, int group) {
  int s = 0;
  while (s + 1 < f.n_segments && group >= f.segments[s + 1].first) {
    ++s;
  }
  return f.segments[s];
}

constexpr int group_tiles(bool pair) {
  return pair ? kBatchGroupTiles / 2 : kBatchGroupTiles;
}

/// Shared memory.
struct Shared {
  StageRing weights;
  StageRing tokens;
  uint64_t* factors_full;
  uint64_t* exchange_full;  ///< [2 warpgroups] the second pair's sums are there
  uint64_t* exchange_free;  ///< ditto: they have been read
  float* factors;           ///< by token: of the norm, and back from stored activations
  float4* exchange;         ///< sums of the second pair
};

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

// Half a step: 32 columns. `a` is free; `last`: operands of the half before, under way until the wait below.
template <int N, int kStep, int kUpper, typename Decoder, typename Source>
__device__ __forceinline__ void half_step(float (&d)[N / 2], Decoder& decoder, const Source& source,
                                          Fragment& a, Fragment& last, uint32_t tokens) {
  constexpr uint32_t kBytes = kStep * Shape<N>::kStepBytes + kUpper * 64;
  decoder.template decode<kStep, kUpper>(source, a);
  wgmma_fence();
  wgmma<N>(d, a, swizzled_operand(tokens, kBytes));
  wgmma<N>(d, a + 4, swizzled_operand(tokens, kBytes + 32));
  wgmma_commit();
  wgmma_wait<1>(last);
}
template <int N, int kStep, typename Decoder, typename Source>
__device__ __forceinline__ void step(float (&d)[N / 2], Decoder& decoder, const Source& source,
                                     Fragment& lower, Fragment& upper, uint32_t tokens) {
  half_step<N, kStep, 0>(d, decoder, source, lower, upper, tokens);
  half_step<N, kStep, 1>(d, decoder, source, upper, lower, tokens);
}

// total += n superblocks, every Shape::kPairs-th of the rings. `tiles`: offsets of the warp's one or two
// tiles in a stage of weights.
template <int N, PackedType kType, bool kPair>
__device__ __forceinline__ void chain(float (&total)[N / 2], int n, const int (&tiles)[2], int half, int lane,
                                      StageRing& weights, StageRing& tokens) {
  Fragment lower = {};
  Fragment upper = {};
  for (int k = 0; k < n; ++k) {
    barrier_wait(weights.full + weights.stage, weights.parity);
    const uint8_t* stage = weights.data();
    const FragmentSource<kPair> source{{stage + tiles[0], stage + tiles[1]}, half, lane};
    UnitDecoder<kType, kPair> decoder;
    decoder.begin(source);
    float d[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      d[i] = 0;
    }
    barrier_wait(tokens.full + tokens.stage, tokens.parity);
    const uint32_t operand = shared_address(tokens.data());
    step<N, 0>(d, decoder, source, lower, upper, operand);
    step<N, 1>(d, decoder, source, lower, upper, operand);
    step<N, 2>(d, decoder, source, lower, upper, operand);
    step<N, 3>(d, decoder, source, lower, upper, operand);
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(weights.empty + weights.stage);
    }
    weights.advance(Shape<N>::kPairs);
    wgmma_wait<0>(upper);
    hold_sums(d);
    if (lane == 0) {
      barrier_arrive(tokens.empty + tokens.stage);
    }
    tokens.advance(Shape<N>::kPairs);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      total[i] += d[i] * decoder.factor((i >> 1) & 1);
    }
  }
}

template <int N, bool kPair>
__device__ __forceinline__ void chain_of(PackedType type, float (&total)[N / 2], int n, int slot,
                                         int slot_bytes, int half, int lane, StageRing& weights,
                                         StageRing& tokens) {
  const int tiles[2] = {slot * slot_bytes, (kPair ? slot + group_tiles(true) : slot) * slot_bytes};
  switch (type) {
    case PackedType::q4_k:
      chain<N, PackedType::q4_k, kPair>(total, n, tiles, half, lane, weights, tokens);
      break;
    case PackedType::q5_k:
      chain<N, PackedType::q5_k, kPair>(total, n, tiles, half, lane, weights, tokens);
      break;
    case PackedType::q6_k:
      chain<N, PackedType::q6_k, kPair>(total, n, tiles, half, lane, weights, tokens);
      break;
    case PackedType::q8_0:
      chain<N, PackedType::q8_0, kPair>(total, n, tiles, half, lane, weights, tokens);
      break;
    case PackedType::f16:
      chain<N, PackedType::f16, kPair>(total, n, tiles, half, lane, weights, tokens);
      break;
  }
}

// Named barrier of a warpgroup of the first pair, the first of two.
constexpr int kOwnBarrier = 1;

/// For the warps of a warpgroup, one arrival each.
__device__ __forceinline__ void arrive_as_warp(uint64_t* barrier, int lane) {
  __syncwarp();
  if (lane == 0) {
    barrier_arrive(barrier);
  }
}

/// The sums of a group that several blocks share: [block][warpgroup][N / 8][thread] float4.
template <int N>
__device__ __forceinline__ float4* sums_of(const BatchParams& p, int block, int warpgroup, int thread) {
  return reinterpret_cast<float4*>(p.scratch) +
         static_cast<int64_t>(block * 2 + warpgroup) * (N / 8) * kWarpgroup + thread;
}

template <int N>
__device__ __forceinline__ void hand_over(const BatchParams& p, const float (&d)[N / 2], int warpgroup,
                                          int thread) {
  const int block = static_cast<int>(blockIdx.x);
  float4* to = sums_of<N>(p, block, warpgroup, thread);
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    __stcg(to + i * kWarpgroup, make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
  }
  group_barrier(kOwnBarrier + warpgroup, kWarpgroup);
  if (thread == 0) {
    raise_flag(p.flags + block * 2 + warpgroup);
  }
}

// The rest of a group, from the blocks that follow, in order.
template <int N>
__device__ __forceinline__ void collect(const BatchParams& p, float (&d)[N / 2], int group, int warpgroup,
                                        int thread) {
  const int end = (group + 1) * p.n_superblocks;
  const int first = static_cast<int>(blockIdx.x) + 1;
  const auto has_part = [&](int block) { return share_start(p, block) < share_start(p, block + 1); };
  for (int block = first + thread; share_start(p, block) < end; block += kWarpgroup) {
    if (has_part(block)) {
      wait_flag(p.flags + block * 2 + warpgroup);
    }
  }
  group_barrier(kOwnBarrier + warpgroup, kWarpgroup);
  for (int block = first; share_start(p, block) < end; ++block) {
    if (!has_part(block)) {
      continue;
    }
    const float4* from = sums_of<N>(p, block, warpgroup, thread);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      const float4 v = __ldcg(from + i * kWarpgroup);
      d[4 * i] += v.x;
      d[4 * i + 1] += v.y;
      d[4 * i + 2] += v.z;
      d[4 * i + 3] += v.w;
    }
  }
}

template <int N>
__device__ __forceinline__ void multiply(const BatchParams& p, Shared& shared, int which, int thread) {
  constexpr int kPairs = Shape<N>::kPairs;
  const int pair = which / 2;
  const int warpgroup = which % 2;
  const int lane = thread % 32;
  const int warp = thread / 32;
  StageRing& weights = shared.weights;
  StageRing& tokens = shared.tokens;
  weights.advance(pair);
  tokens.advance(pair);
  uint64_t* const exchange_full = shared.exchange_full + warpgroup;
  uint64_t* const exchange_free = shared.exchange_free + warpgroup;
  float4* const exchange = shared.exchange + warpgroup * (N / 8) * kWarpgroup + thread;
  wait_for_previous();
  const bool two = p.epilogue == BatchEpilogue::swiglu;
  // Of gate and up two warps share a tile each, eight rows of both.
  const int half = two ? warp & 1 : 0;
  const int slot = two ? warpgroup * 2 + (warp >> 1) : warpgroup * 4 + warp;
  int seen = 0;         // superblocks of the works before
  uint32_t parity = 0;  // of the exchanges, one a work
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
    const uint32_t turn = parity;
    parity ^= 1U;
    if constexpr (kPairs == 2) {
      if (pair == 1) {
        barrier_wait(exchange_free, turn ^ 1U);
#pragma unroll
        for (int i = 0; i < N / 8; ++i) {
          exchange[i * kWarpgroup] = make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
        }
        arrive_as_warp(exchange_full, lane);
        continue;
      }
    }
    const int tile = (work.group - s.first) * group_tiles(two) + slot;
    const Place at{tile, tile * kTileRows + 8 * half + (lane >> 2), 2 * (lane & 3)};
    const bool exists = tile * kTileRows < s.rows;
    float old[N / 2];
    if (p.epilogue == BatchEpilogue::add_and_norm && work.k0 == 0) {
      read_residual<N>(old, s, at, p.n_tokens);
    }
    if constexpr (kPairs == 2) {
      barrier_wait(exchange_full, turn);
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        const float4 v = exchange[i * kWarpgroup];
        d[4 * i] += v.x;
        d[4 * i + 1] += v.y;
        d[4 * i + 2] += v.z;
        d[4 * i + 3] += v.w;
      }
      arrive_as_warp(exchange_free, lane);
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
        write_normed<N>(p, s, d, old, at, shared.factors, p.n_tokens, lane);
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
    const bool empty = (thread / kMaxStages) % 2 != 0;
    const int arrivals = thread >= kExchangeFull     ? kWarpgroup / kWarp
                         : thread == kFactorsBarrier ? kFactorWarps
                         : empty                     ? kPairWarps
                                                     : 1;
    barrier_init(barriers + thread, arrivals);
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
