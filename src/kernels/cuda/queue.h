// Where the operations go: a stream, and whether its kernels may overlap (launch.cuh).
#pragma once

#include <cuda_runtime_api.h>

namespace fl::cuda {

struct Queue {
  cudaStream_t stream = nullptr;
  bool overlap = false;
};

}  // namespace fl::cuda
