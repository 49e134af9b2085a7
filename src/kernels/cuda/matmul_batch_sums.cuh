// How the kernel of matmul_batch.h adds up what several multiply: in a block the sums of two warps, in a
// launch the parts of a group. Neither way has a fence: each thread passes its sums to one other thread.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/matmul_batch_shape.cuh"

namespace fl::cuda::batch {

/// Sums that the second pair of warpgroups gives to the first, in shared memory: each lane to the one of its
/// number in the same warp of the same warpgroup of the other pair. Both sides see the same works in the same
/// order.
///
/// Why no access is a race. A thread's place is written by one thread (its giver) and read by one (its
/// taker), by ordinary loads and stores; no copy and no tensor core touches it, so barriers order all there
/// is:
///   * read i after write i: the giver arrives at `full` after write i, the taker waits for phase i of it;
///   * write i + 1 after read i: the taker arrives at `free` after read i, the giver waits for phase i of it;
///   * a parity stands for one phase: `full` can't end phase i + 1 before `free` has ended i, nor the other
///     way round, so neither is ever two phases ahead of who waits.
/// All lanes arrive themselves. One lane for the warp after __syncwarp would be as right, but racecheck
/// (2025.3) does not follow an order that passes from a lane to another before it comes to a barrier: it
/// reported the 31 other lanes' places (docs/decisions/0079).
template <int N>
class Exchange {
 public:
  __device__ Exchange(float4* places, uint64_t* full, uint64_t* free, int warpgroup, int thread)
      : place_(places + warpgroup * (N / 8) * kWarpgroup + thread),
        full_(full + warpgroup * kWarps + thread / kWarp),
        free_(free + warpgroup * kWarps + thread / kWarp) {}

  __device__ __forceinline__ void give(const float (&d)[N / 2]) {
    barrier_wait(free_, parity_ ^ 1U);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      place_[i * kWarpgroup] = make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
    }
    barrier_arrive(full_);
    parity_ ^= 1U;
  }

  __device__ __forceinline__ void take(float (&d)[N / 2]) {
    barrier_wait(full_, parity_);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      const float4 v = place_[i * kWarpgroup];
      d[4 * i] += v.x;
      d[4 * i + 1] += v.y;
      d[4 * i + 2] += v.z;
      d[4 * i + 3] += v.w;
    }
    barrier_arrive(free_);
    parity_ ^= 1U;
  }

 private:
  float4* place_;
  uint64_t* full_;
  uint64_t* free_;
  uint32_t parity_ = 0;  // of the next exchange
};

// Parts of a group. The block with its start adds those of the blocks that follow, which wait for nobody.
//
// A part is its own flag: a place holds kAbsentSum until its sum is there and again once it has been taken,
// so that neither side has to order two accesses, which takes longer than all of the rest (0078). Why no
// stale sum is taken for one of this launch, and none is missed:
//   * every word says for itself whether it is there, so it doesn't matter in which order words arrive;
//   * no sum is kAbsentSum (`present`), also of inputs that are no numbers;
//   * a place has one writer and one reader in a launch, and at most one sum: a block's share is one stretch,
//     so only its first work can begin inside a group. The reader puts kAbsentSum back after reading, in the
//     same thread and to the same address. It reads exactly the parts that are written: those of non-empty
//     shares that begin inside the group;
//   * so all places are absent when a launch ends, as they are before the first (Matmul's constructor), and
//   the
//     next one touches them after wait_for_previous(). Launches share places only in the order of a stream.

constexpr uint32_t kAbsentSum = 0xFFFFFFFFU;  // kAbsentByte four times: a NaN
constexpr uint32_t kNoNumber = 0x7FFFFFFFU;   // the NaN that f32 arithmetic gives

__device__ __forceinline__ uint32_t present(float sum) {
  const uint32_t bits = __float_as_uint(sum);
  return bits == kAbsentSum ? kNoNumber : bits;
}
__device__ __forceinline__ void put(float4* to, const uint4& v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}
__device__ __forceinline__ uint4 look(const float4* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

/// A thread's places of a part: [block][warpgroup][N / 8][thread] float4.
template <int N>
__device__ __forceinline__ float4* part_of(const BatchParams& p, int block, int warpgroup, int thread) {
  return reinterpret_cast<float4*>(p.parts) +
         static_cast<int64_t>(block * 2 + warpgroup) * (N / 8) * kWarpgroup + thread;
}

template <int N>
__device__ __forceinline__ void hand_over(const BatchParams& p, const float (&d)[N / 2], int warpgroup,
                                          int thread) {
  float4* const to = part_of<N>(p, static_cast<int>(blockIdx.x), warpgroup, thread);
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    put(to + i * kWarpgroup,
        {present(d[4 * i]), present(d[4 * i + 1]), present(d[4 * i + 2]), present(d[4 * i + 3])});
  }
}

// d += the rest of a group, in order.
template <int N>
__device__ __forceinline__ void collect(const BatchParams& p, float (&d)[N / 2], int group, int warpgroup,
                                        int thread) {
  const int end = (group + 1) * p.n_superblocks;
  int block = static_cast<int>(blockIdx.x) + 1;
  int start = share_start(p, block);
  while (start < end) {
    const int next = share_start(p, block + 1);
    if (start < next) {
      float4* const from = part_of<N>(p, block, warpgroup, thread);
      uint4 v[N / 8];
      bool absent = true;
      while (absent) {
        absent = false;
#pragma unroll
        for (int i = 0; i < N / 8; ++i) {
          v[i] = look(from + i * kWarpgroup);
          absent |=
              v[i].x == kAbsentSum || v[i].y == kAbsentSum || v[i].z == kAbsentSum || v[i].w == kAbsentSum;
        }
      }
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        put(from + i * kWarpgroup, {kAbsentSum, kAbsentSum, kAbsentSum, kAbsentSum});
        d[4 * i] += __uint_as_float(v[i].x);
        d[4 * i + 1] += __uint_as_float(v[i].y);
        d[4 * i + 2] += __uint_as_float(v[i].z);
        d[4 * i + 3] += __uint_as_float(v[i].w);
      }
    }
    start = next;
    ++block;
  }
}

}  // namespace fl::cuda::batch
