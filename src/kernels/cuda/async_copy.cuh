// A warp's own ring of tiles in shared memory, filled by asynchronous copies: bulk copies with a barrier a
// slot on sm_90 and up, 16-byte cp.async groups before. No other warp takes part, so nothing in the stream of
// weights ever waits for the slowest warp.
#pragma once

#include <cstdint>

namespace fl::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(barrier))
               : "memory");
}
/// Returns when the phase of this parity is over. Phases start at parity 0.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  do {
#if __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
#else
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
#endif
  } while (done == 0);
}

__device__ __forceinline__ void prefetch_l2(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

/// One thread tells another block that what it has written is there; the other takes the flag down again.
__device__ __forceinline__ void raise_flag(int32_t* flag) {
  __threadfence();
  asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
}
__device__ __forceinline__ void wait_flag(int32_t* flag) {
  int32_t up = 0;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(up) : "l"(flag) : "memory");
  } while (up == 0);
  *flag = 0;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900  // the host's pass sees the names
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
/// One thread; multiples of 16 bytes.
__device__ __forceinline__ void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
/// One thread; multiples of 16 bytes. Nothing waits for it.
__device__ __forceinline__ void bulk_prefetch_l2(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
/// Weights pass once: they must not push the activations out of the L2 cache.
__device__ __forceinline__ void bulk_copy_streamed(void* to, const void* from, uint32_t bytes,
                                                   uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}
/// The same by all lanes of a warp together, which agree in everything, and with the barrier told how many
/// bytes come: one elected lane without a branch, where a test of the lane's number costs as much as the
/// rest.
__device__ __forceinline__ void warp_copy_streamed(void* to, const void* from, uint32_t bytes,
                                                   uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "{ .reg .pred one;\n"
      "elect.sync _|one, 0xffffffff;\n"
      "@one mbarrier.arrive.expect_tx.shared.b64 _, [%3], %2;\n"
      "@one cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4; }" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}
__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
#endif
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 900
__device__ __forceinline__ void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Arrives once this thread's copies up to here are done.
__device__ __forceinline__ void arrive_after_copies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}
/// Waits until at most `pending` of this lane's groups are under way.
__device__ __forceinline__ void wait_copies(int pending) {
  switch (pending) {
    case 0:
      asm volatile("cp.async.wait_group 0;" ::: "memory");
      break;
    case 1:
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      break;
    case 2:
      asm volatile("cp.async.wait_group 2;" ::: "memory");
      break;
    case 3:
      asm volatile("cp.async.wait_group 3;" ::: "memory");
      break;
    case 4:
      asm volatile("cp.async.wait_group 4;" ::: "memory");
      break;
    case 5:
      asm volatile("cp.async.wait_group 5;" ::: "memory");
      break;
    case 6:
      asm volatile("cp.async.wait_group 6;" ::: "memory");
      break;
    default:
      asm volatile("cp.async.wait_group 7;" ::: "memory");
      break;
  }
}
#endif

/// Used by one warp, all lanes together. Slots are taken in the order in which they were filled.
class TileRing {
 public:
  __device__ TileRing(uint8_t* slots, uint64_t* barriers, int n_slots, int slot_bytes, int lane)
      : slots_(slots), barriers_(barriers), n_slots_(n_slots), slot_bytes_(slot_bytes), lane_(lane) {
#if __CUDA_ARCH__ >= 900
    policy_ = evict_first_policy();
#endif
  }

  __device__ int free_slots() const {
    return n_slots_ - held_;
  }

  __device__ void fill(const uint8_t* from, int bytes) {
    uint8_t* to = slots_ + fill_ * slot_bytes_;
#if __CUDA_ARCH__ >= 900
    warp_copy_streamed(to, from, static_cast<uint32_t>(bytes), barriers_ + fill_, policy_);
#else
    for (int at = lane_ * 16; at < bytes; at += 32 * 16) {
      copy16(to + at, from + at);
    }
    commit_copies();
#endif
    ++held_;
    fill_ = fill_ + 1 == n_slots_ ? 0 : fill_ + 1;
  }

  /// The next `count` (1 .. MT) filled tiles; they stay until release(count). Absent ones repeat the first.
  template <int MT>
  __device__ void take(int count, const uint8_t* (&tiles)[MT]) {
#if __CUDA_ARCH__ < 900
    wait_copies(held_ - count);
    __syncwarp();
#endif
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      tiles[i] = i < count ? next_slot() : tiles[0];
    }
  }

  __device__ void release(int count) {
    __syncwarp();
    held_ -= count;
  }

 private:
  __device__ const uint8_t* next_slot() {
#if __CUDA_ARCH__ >= 900
    barrier_wait(barriers_ + take_, parity_);
#endif
    const uint8_t* tile = slots_ + take_ * slot_bytes_;
    if (++take_ == n_slots_) {
      take_ = 0;
      parity_ ^= 1U;
    }
    return tile;
  }

#if __CUDA_ARCH__ >= 900
  uint64_t policy_ = 0;
#endif
  uint8_t* slots_;
  uint64_t* barriers_;
  int n_slots_;
  int slot_bytes_;
  int lane_;
  int fill_ = 0;
  int take_ = 0;
  int held_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace fl::cuda
