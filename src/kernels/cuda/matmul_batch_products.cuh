// The products of the kernel of matmul_batch.h: superblocks of a warp's rows by the tokens of a stage.
#pragma once

#include "kernels/cuda/matmul_batch_decode.cuh"
#include "kernels/cuda/matmul_batch_shape.cuh"
#include "kernels/cuda/stage_ring.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fl::cuda::batch {

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
    barrier_arrive(weights.empty + weights.stage);  // all lanes: see Exchange
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

}  // namespace fl::cuda::batch
