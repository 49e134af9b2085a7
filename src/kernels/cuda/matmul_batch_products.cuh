// The products of the kernel of matmul_batch.h: superblocks of a warp's rows by the tokens of a stage.
#pragma once

#include "kernels/cuda/matmul_batch_decode.cuh"
#include "kernels/cuda/matmul_batch_shape.cuh"
#include "kernels/cuda/stage_ring.cuh"
#include "kernels/cuda/wgmma_products.cuh"

namespace fl::cuda::batch {

template <int N, int kStep, typename Decoder, typename Source>
__device__ __forceinline__ void step(float (&d)[N / 2], Decoder& decoder, const Source& source,
                                     Fragment& lower, Fragment& upper, uint64_t operand) {
  const uint64_t mine = operand + (kStep * Shape<N>::kStepBytes >> 4);
  half_step<N, kStep, 0>(d, decoder, source, lower, upper, mine);
  half_step<N, kStep, 1>(d, decoder, source, upper, lower, mine);
}

// total += n superblocks, every Shape::kPairs-th of the rings. `tiles`: offsets of the warp's one or two
// tiles in a stage of weights.
template <int N, PackedType kType, bool kPair>
__device__ __forceinline__ void chain(float (&total)[N / 2], int n, const int (&tiles)[2], int half, int lane,
                                      StageRing& weights, StageRing& tokens) {
  if (n == 0) {
    return;
  }
  Fragment lower = {};
  Fragment upper = {};
  UnitDecoder<kType, kPair> decoder;
  FragmentSource<kPair> source{{}, half, lane};
  const auto begin = [&] {
    barrier_wait(weights.full + weights.stage, weights.parity);
    const uint8_t* const stage = weights.data();
    source.tile[0] = stage + tiles[0];
    source.tile[1] = stage + tiles[1];
    decoder.begin(source);
  };
  begin();
  for (int k = 0; k < n; ++k) {
    float d[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      d[i] = 0;
    }
    barrier_wait(tokens.full + tokens.stage, tokens.parity);
    // From one lane: the products' descriptors are then in uniform registers, two instructions less for each.
    const uint64_t operand = swizzled_operand(__shfl_sync(~0U, shared_address(tokens.data()), 0));
    step<N, 0>(d, decoder, source, lower, upper, operand);
    step<N, 1>(d, decoder, source, lower, upper, operand);
    step<N, 2>(d, decoder, source, lower, upper, operand);
    step<N, 3>(d, decoder, source, lower, upper, operand);
    const float factors[2] = {decoder.factor(0), decoder.factor(1)};
    barrier_arrive(weights.empty + weights.stage);  // all lanes: see Exchange
    weights.advance(Shape<N>::kPairs);
    if (k + 1 < n) {  // beside the last products; weights come whether these tokens are given back or not
      begin();
    }
    wgmma_wait<0>(upper);
    hold_sums(d);
    if (lane == 0) {
      barrier_arrive(tokens.empty + tokens.stage);
    }
    tokens.advance(Shape<N>::kPairs);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      total[i] += d[i] * factors[(i >> 1) & 1];
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
