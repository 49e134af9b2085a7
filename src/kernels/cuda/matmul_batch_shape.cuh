// What a block of the kernel of matmul_batch.h is made of, and its share of a launch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/wgmma_products.cuh"

namespace fl::cuda::batch {

constexpr int kPairWarps = 8;  // that multiply with a superblock
constexpr int kFactorWarps = 2;
constexpr int kWarps = kWarpgroup / kWarp;  // of a warpgroup
// Barriers: [full, empty][stage] of weights and of tokens, then these.
constexpr int kFactorsBarrier = 4 * kMaxStages;
constexpr int kExchangeFull = kFactorsBarrier + 1;
constexpr int kExchangeFree = kExchangeFull + 2 * kWarps;
constexpr int kBarriers = kExchangeFree + 2 * kWarps;
static_assert(kBarriers * 8 <= kBarrierSpace && kBarriers <= kWarpgroup);

/// Arrivals that end a phase. Where lanes have read or written ordinarily each of them arrives (see
/// Exchange); activations are read by products of whole warps.
__device__ __forceinline__ constexpr int arrivals_of(int barrier) {
  if (barrier >= kExchangeFull) {
    return kWarp;
  }
  if (barrier == kFactorsBarrier) {
    return kFactorWarps;
  }
  const int ring = barrier / kMaxStages;
  return ring == 1 ? kPairWarps * kWarp : ring == 3 ? kPairWarps : 1;
}

template <int N>
struct Shape {
  static constexpr int kPairs = N <= 32 ? 2 : 1;
  static constexpr int kThreads = kWarpgroup * (1 + 2 * kPairs);
  // Of a thread. What a launch has for all (96 with two pairs, 168 with one) is given out anew, to the last.
  static constexpr int kHelperRegisters = kPairs == 2 ? 32 : 56;
  static constexpr int kMultiplierRegisters = kPairs == 2 ? 112 : 224;
  static constexpr int kStepBytes = N * kSwizzledColumns * 2;
  static constexpr int kTokenStage = kStepsPerSuperblock * kStepBytes;
  static constexpr int kExchange = kPairs == 2 ? 2 * kWarpgroup * (N / 2) * 4 : 0;
};

constexpr int group_tiles(bool pair) {
  return pair ? kBatchGroupTiles / 2 : kBatchGroupTiles;
}

/// A part of a group: superblocks [k0, k1).
struct Work {
  int group;
  int k0;
  int k1;
};

/// Superblocks of all groups before the share of a block.
template <typename Launch>
__device__ __forceinline__ int share_start(const Launch& f, int block) {
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

}  // namespace fl::cuda::batch
