// A warp's own ring of tiles in shared memory, filled by asynchronous copies (async_copy.cuh). No other warp
// takes part, so nothing in the stream of weights ever waits for the slowest warp.
//
// Addresses run along instead of being worked out from a number, and a slot's barrier lies behind its tile:
// where the time of a tile is a warp's latency, what the ring does counts as much as the multiplication
// (docs/decisions/0069).
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/matmul_params.h"

namespace fl::cuda {

#ifdef __CUDA_ARCH__
inline constexpr int kDeviceArch = __CUDA_ARCH__ / 10;  ///< like DeviceInfo::arch
#else
inline constexpr int kDeviceArch = 90;  // the host's pass sees the names
#endif

/// A value that the compiler keeps in a register. It would rather work out an address in shared memory again
/// than keep it, beginning with the block's number in its cluster, which takes long to read.
__device__ __forceinline__ uint32_t kept(uint32_t value) {
  uint32_t out;
  asm volatile("mov.u32 %0, %1;" : "=r"(out) : "r"(value));
  return out;
}

/// Used by one warp, all lanes together. Slots are taken in the order in which they were filled.
class TileRing {
 public:
  /// `slots`: n_slots of slot_bytes; slot_bytes_of.
  __device__ TileRing(uint8_t* slots, int n_slots, int slot_bytes, int lane)
      : first_(kept(shared_address(slots))),
        last_(kept(first_ + static_cast<uint32_t>((n_slots - 1) * slot_bytes))),
        fill_(first_),
        take_(first_),
        slot_bytes_(slot_bytes),
        n_slots_(n_slots),
        lane_(lane) {
#if __CUDA_ARCH__ >= 900
    policy_ = evict_first_policy();
    if (lane == 0) {  // the caller's fence makes them known to copies
      for (int i = 0; i < n_slots; ++i) {
        barrier_init(barrier_of(first_ + static_cast<uint32_t>(i * slot_bytes)), 1);
      }
    }
#endif
  }

  __device__ int free_slots() const {
    return n_slots_ - held_;
  }

  __device__ void fill(const uint8_t* from, int bytes) {
    copy(fill_, from, bytes);
    fill_ = behind(fill_);
  }

  /// The next `count` (1 .. MT) filled tiles; they stay until release(count). Absent ones repeat the first.
  template <int MT>
  __device__ void take(int count, const uint8_t* (&tiles)[MT]) {
    await(count);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      if (i < count) {
        tiles[i] = tile();
        next();
      } else {
        tiles[i] = tiles[0];
      }
    }
  }
  __device__ void release(int count) {
    __syncwarp();
    held_ -= count;
  }

  /// One tile at a time: the next filled one; when all lanes have read it, done(); then, if there is more to
  /// come, another one in its place; and next().
  __device__ const uint8_t* current() {
    await(1);
    return tile();
  }
  __device__ void done() {
    release(1);
  }
  __device__ void replace(const uint8_t* from, int bytes) {
    copy(take_, from, bytes);
  }
  __device__ void next() {
    parity_ ^= take_ == last_ ? 1U : 0U;
    take_ = behind(take_);
  }

 private:
  __device__ uint32_t barrier_of(uint32_t slot) const {
    return slot + static_cast<uint32_t>(slot_bytes_ - kSlotBarrierBytes);
  }
  __device__ uint32_t behind(uint32_t slot) const {
    return slot == last_ ? first_ : slot + static_cast<uint32_t>(slot_bytes_);
  }
  // Before sm_90 copies end in order, and those of `count` tiles are awaited together.
  __device__ void await([[maybe_unused]] int count) {
#if __CUDA_ARCH__ < 900
    wait_copies(held_ - count);
    __syncwarp();
#endif
  }
  __device__ const uint8_t* tile() {
#if __CUDA_ARCH__ >= 900
    barrier_wait(barrier_of(take_), parity_);
#endif
    return static_cast<const uint8_t*>(__cvta_shared_to_generic(take_));
  }
  __device__ void copy(uint32_t to, const uint8_t* from, int bytes) {
#if __CUDA_ARCH__ >= 900
    warp_copy_streamed(to, from, static_cast<uint32_t>(bytes), barrier_of(to), policy_);
#else
    for (int at = lane_ * 16; at < bytes; at += 32 * 16) {
      copy16(to + static_cast<uint32_t>(at), from + at);
    }
    commit_copies();
#endif
    ++held_;
  }

#if __CUDA_ARCH__ >= 900
  uint64_t policy_ = 0;
#endif
  // shared addresses of slots
  uint32_t first_;
  uint32_t last_;
  uint32_t fill_;
  uint32_t take_;
  int slot_bytes_;
  int n_slots_;
  int lane_;
  int held_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace fl::cuda
