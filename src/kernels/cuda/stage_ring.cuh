// A ring of stages in shared memory between warps that fill them and warps that use them, as one side sees
// it: a barrier says that a stage is full, another that it is empty.
#pragma once

#include <cstdint>

namespace fl::cuda {

struct StageRing {
  uint64_t* full;
  uint64_t* empty;
  uint8_t* stages;
  int n;
  int stage_bytes;
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ uint8_t* data() const { return stages + stage * stage_bytes; }
  __device__ __forceinline__ int before() const { return (stage == 0 ? n : stage) - 1; }
  /// `by`: at most n.
  __device__ __forceinline__ void advance(int by = 1) {
    stage += by;
    if (stage >= n) {
      stage -= n;
      parity ^= 1U;
    }
  }
};

}  // namespace fl::cuda
