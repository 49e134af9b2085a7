// What the products of matmul_prompt.h and matmul_batch.h have in common: how a block and its rings are cut
// up, and half a step of decoding and multiplying.
#pragma once

#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/matmul_prompt_decode.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fl::cuda {

inline constexpr int kWarpgroup = 128;
inline constexpr int kMaxStages = 16;       // of a ring
inline constexpr int kBarrierSpace = 1024;  // barriers of both rings, and the alignment of what follows
inline constexpr int kStepsPerSuperblock = kSuperblock / kSwizzledColumns;

// Half a step: 32 columns. `a` is free; `last`: operands of the half before, under way until the wait below.
// `step`: the descriptor of the step's 64 columns of activations.
template <int N, int kStep, int kUpper, typename Decoder, typename Source>
__device__ __forceinline__ void half_step(float (&d)[N / 2], Decoder& decoder, const Source& source,
                                          Fragment& a, Fragment& last, uint64_t step) {
  decoder.template decode<kStep, kUpper>(source, a);
  wgmma_fence();
  wgmma<N>(d, a, step + 2 * kUpper * kNext16Columns);
  wgmma<N>(d, a + 4, step + (2 * kUpper + 1) * kNext16Columns);
  wgmma_commit();
  wgmma_wait<1>(last);
}

}  // namespace fl::cuda
