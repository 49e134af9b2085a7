// Launching kernels so that one may start while its predecessor ends (programmatic dependent launch, sm_90
// and up; plain stream order elsewhere).
//
// The rule for every kernel launched with `launch`: call let_next_start() first of all, and call
// wait_for_previous() before it reads or writes anything that an earlier kernel of the stream touches
// (activations, scratch, counters, outputs). Before it may be read what no kernel of this step writes:
// weights, the step's tables and the cache of earlier steps, since a kernel begins after all blocks of the
// one before have begun, and the first one after the tables' copy has ended. A kernel that breaks it reads
// stale values, now and then.
#pragma once

#include <cuda_runtime.h>

#include "core/cuda/runtime.h"

namespace fl::cuda {

#ifdef __CUDACC__
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Returns when all earlier kernels of the stream have ended and their writes are visible.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets a kernel use `shared_bytes`, and asks for the largest share of an SM's memory as shared memory:
/// kernels that want different shares cannot be on an SM together, which would undo the overlap. Call it for
/// every kernel of a step, also for those that use little.
template <typename Kernel>
void prepare_shared(Kernel kernel, int shared_bytes, const char* name) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), name);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        name);
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  int shared_bytes = 0;
};

/// `overlap`: the device has sm_90 and the kernel keeps the rule above.
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream, bool overlap,
            const char* name, Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Params(static_cast<Args&&>(args))...), name);
}
#endif

}  // namespace fl::cuda
