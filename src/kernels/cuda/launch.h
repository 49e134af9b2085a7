// Launching a kernel: one place for the attribute that lets it start before its predecessor ends, and for errors.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "core/cuda/runtime.h"

namespace fl::cuda {

/// Where kernels go. `overlap` (programmatic dependent launch, sm_90 and up) asks that every kernel of the queue calls
/// wait_for_inputs() before it touches anything that another kernel writes or reads.
struct Queue {
  cudaStream_t stream = nullptr;
  bool overlap = false;
};

template <typename... Parameters, typename... Arguments>
void launch(const Queue& queue, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  config.attrs = &attribute;
  config.numAttrs = queue.overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launch of a kernel");
}

}  // namespace fl::cuda
