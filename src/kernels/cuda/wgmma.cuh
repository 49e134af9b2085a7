// Warpgroup products of sm_90a and the tensor copies that feed them (PTX ISA, "Asynchronous warpgroup level
// matrix instructions", "cp.async.bulk.tensor"): D (64 rows x N, f32, registers) += A (64 x 16 f16,
// registers) B (16 x N f16, shared memory). Warp i of the four holds rows 16 i .. 16 i + 15 of A and D, with
// the fragments of m16n8k16 (mma.cuh); D's element [4 i + j] is element j of the i-th 8 columns.
//
// Registers of a product belong to the tensor core from its issue to the wait that covers it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"

namespace fl::cuda {

/// B: [N][64 halves], rows of 128 bytes with the 128-byte swizzle, from a multiple of 1024 in shared memory;
/// the second 16 of the 64 columns are 32 bytes on, and so forth.
inline constexpr int kSwizzledColumns = 64;
inline constexpr uint64_t kNext16Columns = 32 >> 4;
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t stage_address) {
  constexpr uint64_t kEightRows = 1024 >> 4;
  constexpr uint64_t kSwizzle128 = 1;
  return static_cast<uint64_t>((stage_address & 0x3FFFFU) >> 4) | uint64_t{1} << 16 | kEightRows << 32 |
         kSwizzle128 << 62;
}
__device__ __forceinline__ uint64_t swizzled_operand(const void* stage) {
  return swizzled_operand(shared_address(stage));
}
/// Before the first product, and after ordinary code wrote registers of the next ones.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most kLeft groups are under way. `a`: operands that stay untouched until then.
template <int kLeft>
__device__ __forceinline__ void wgmma_wait(uint32_t (&a)[8]) {
  asm volatile("wgmma.wait_group.sync.aligned %8;"
               : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3]), "+r"(a[4]), "+r"(a[5]), "+r"(a[6]),
                 "+r"(a[7])
               : "n"(kLeft)
               : "memory");
}
template <int kLeft>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
/// What ordinary code wrote to shared memory, for products that other threads start.
__device__ __forceinline__ void shared_for_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/// Ordinary code that touches the sums stays on its side of this.
template <int kSize>
__device__ __forceinline__ void hold_sums(float (&d)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    asm volatile("" : "+f"(d[i])::"memory");
  }
}

// The operands of the instruction, eight sums at a time.
#define FL_D8(i)                                                                              \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FL_D32(i) FL_D8(i), FL_D8(i + 8), FL_D8(i + 16), FL_D8(i + 24)
#define FL_N8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define FL_N16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define FL_N32                                                                                             \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27," \
  "%28,%29,%30,%31"
#define FL_N48 FL_N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define FL_N64 FL_N48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define FL_N80 FL_N64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define FL_N96 FL_N80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define FL_N112 FL_N96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define FL_N128 FL_N112 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define FL_WGMMA(n, sums, a0, a1, a2, a3, b, ...)                                                      \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" sums "}, {" a0 "," a1 "," a2 \
               "," a3 "}, " b ", 1, 1, 1, 0;"                                                          \
               : __VA_ARGS__                                                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_operand))

/// d += A B for N columns of B; `a`: four registers.
template <int N>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const uint32_t* a, uint64_t b_operand) {
  if constexpr (N == 16) {
    FL_WGMMA(16, FL_N8, "%8", "%9", "%10", "%11", "%12", FL_D8(0));
  } else if constexpr (N == 32) {
    FL_WGMMA(32, FL_N16, "%16", "%17", "%18", "%19", "%20", FL_D8(0), FL_D8(8));
  } else if constexpr (N == 64) {
    FL_WGMMA(64, FL_N32, "%32", "%33", "%34", "%35", "%36", FL_D32(0));
  } else if constexpr (N == 96) {
    FL_WGMMA(96, FL_N48, "%48", "%49", "%50", "%51", "%52", FL_D32(0), FL_D8(32), FL_D8(40));
  } else if constexpr (N == 128) {
    FL_WGMMA(128, FL_N64, "%64", "%65", "%66", "%67", "%68", FL_D32(0), FL_D32(32));
  } else if constexpr (N == 160) {
    FL_WGMMA(160, FL_N80, "%80", "%81", "%82", "%83", "%84", FL_D32(0), FL_D32(32), FL_D8(64), FL_D8(72));
  } else if constexpr (N == 192) {
    FL_WGMMA(192, FL_N96, "%96", "%97", "%98", "%99", "%100", FL_D32(0), FL_D32(32), FL_D32(64));
  } else if constexpr (N == 224) {
    FL_WGMMA(224, FL_N112, "%112", "%113", "%114", "%115", "%116", FL_D32(0), FL_D32(32), FL_D32(64),
             FL_D8(96), FL_D8(104));
  } else {
    static_assert(N == 256);
    FL_WGMMA(256, FL_N128, "%128", "%129", "%130", "%131", "%132", FL_D32(0), FL_D32(32), FL_D32(64),
             FL_D32(96));
  }
}

/// d += A B for 64 columns of B that lie along its rows of 128 bytes: [16][64 halves] of a panel like the
/// above.
__device__ __forceinline__ void wgmma_transposed_64(float (&d)[32], const uint32_t* a, uint64_t b_operand) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" FL_N32
               "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : FL_D32(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_operand));
}

/// d (+)= A B for 64 columns of B, A in shared memory like B; the first product of a sum starts it.
__device__ __forceinline__ void wgmma_shared_64(float (&d)[32], uint64_t a_operand, uint64_t b_operand,
                                                bool first) {
  asm volatile(
      "{ .reg .pred more; setp.ne.b32 more, %34, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" FL_N32 "}, %32, %33, more, 1, 1, 0, 0; }"
      : FL_D32(0)
      : "l"(a_operand), "l"(b_operand), "r"(first ? 0 : 1));
}

#undef FL_WGMMA
#undef FL_N128
#undef FL_N112
#undef FL_N96
#undef FL_N80
#undef FL_N64
#undef FL_N48
#undef FL_N32
#undef FL_N16
#undef FL_N8
#undef FL_D32
#undef FL_D8

/// All threads of a warpgroup: its share of the SM's registers, from what the launch gave to kRegisters.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// One thread: the box of a two-dimensional tensor map at (column, row); what lies outside arrives as zeros
/// and is counted.
__device__ __forceinline__ void tensor_copy(void* to, const CUtensorMap& map, int column, int row,
                                            uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

/// Between warps of one named group (ids 1 .. 15): wait for `threads` that arrive or wait, or only arrive.
__device__ __forceinline__ void group_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void group_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace fl::cuda
