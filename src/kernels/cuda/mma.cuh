// Matrix instructions and their loads, from sm_80 on. Fragment layouts: PTX ISA, "Matrix multiply-accumulate
// operation using mma instruction"; with lane = 4 g + t, an accumulator holds (g, 2t), (g, 2t + 1), (g + 8,
// 2t), (g + 8, 2t + 1).
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fl::cuda {

/// c += a b, 16x8x16. a: (g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..); b: (2t.., g), (2t+8.., g).
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c += a b, 16x8x8 in tf32. a: (g, t), (g+8, t), (g, t+4), (g+8, t+4); b: (t, g), (t+4, g).
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// A float as the sum of two that tf32 holds: 21 bits of significand together.
struct SplitFloat {
  uint32_t high;
  uint32_t low;
};
__device__ __forceinline__ SplitFloat split_tf32(float v) {
  const uint32_t high = __float_as_uint(v) & 0xFFFFE000U;
  const uint32_t low = __float_as_uint(v - __uint_as_float(high));
  return {high, low};
}

/// c += a b with both operands split: the product of the low parts is left out (2^-22 of the whole).
struct SplitA {
  uint32_t high[4];
  uint32_t low[4];
  __device__ __forceinline__ void set(int i, float v) {
    const SplitFloat s = split_tf32(v);
    high[i] = s.high;
    low[i] = s.low;
  }
};
struct SplitB {
  uint32_t high[2];
  uint32_t low[2];
  __device__ __forceinline__ void set(int i, float v) {
    const SplitFloat s = split_tf32(v);
    high[i] = s.high;
    low[i] = s.low;
  }
};
__device__ __forceinline__ void mma_split(float (&c)[4], const SplitA& a, const SplitB& b) {
  mma_tf32(c, a.low, b.high[0], b.high[1]);
  mma_tf32(c, a.high, b.low[0], b.low[1]);
  mma_tf32(c, a.high, b.high[0], b.high[1]);
}

/// c += a b, 16x8x8. a: (g, 2t..), (g+8, 2t..); b: (2t.., g).
__device__ __forceinline__ void mma_f16_k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}

/// Integer accumulators, by the same places.
struct IntSums {
  uint32_t c[4];
};
/// start + a b, 16x8x32 in int8. a: (g, 4t..), (g+8, 4t..), (g, 16+4t..), (g+8, 16+4t..); b: (4t.., g),
/// (16+4t.., g).
__device__ __forceinline__ IntSums mma_int8(const IntSums& start, const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  IntSums d;
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=r"(d.c[0]), "=r"(d.c[1]), "=r"(d.c[2]), "=r"(d.c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(start.c[0]), "r"(start.c[1]),
        "r"(start.c[2]), "r"(start.c[3]));
  return d;
}
/// 16x8x16.
__device__ __forceinline__ IntSums mma_int8_half(const IntSums& start, uint32_t a0, uint32_t a1, uint32_t b) {
  IntSums d;
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=r"(d.c[0]), "=r"(d.c[1]), "=r"(d.c[2]), "=r"(d.c[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(start.c[0]), "r"(start.c[1]), "r"(start.c[2]), "r"(start.c[3]));
  return d;
}
/// Four 8x8 matrices of halves; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ __forceinline__ void copy_async_16(void* to_shared, const void* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from));
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;");
}
template <int kLeft>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft));
}

__device__ __forceinline__ uint32_t pack_half2(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&h);
}

/// Bytes 0,1 and 2,3 of four signed bytes as halves, exactly.
__device__ __forceinline__ void int8x4_to_half(uint32_t bytes, uint32_t& low, uint32_t& high) {
  // 0x6400 | u is 1024 + u; u = s + 128.
  const uint32_t biased = bytes ^ 0x80808080U;
  const __half2 offset = __half2half2(__ushort_as_half(0x6480));  // 1152
  uint32_t l = __byte_perm(biased, 0x64646464U, 0x4140);
  uint32_t h = __byte_perm(biased, 0x64646464U, 0x4342);
  const __half2 a = __hsub2(*reinterpret_cast<__half2*>(&l), offset);
  const __half2 b = __hsub2(*reinterpret_cast<__half2*>(&h), offset);
  low = *reinterpret_cast<const uint32_t*>(&a);
  high = *reinterpret_cast<const uint32_t*>(&b);
}

}  // namespace fl::cuda
