// One instance of the product kernel and its launch; each lies in a source file of its own, to compile side
// by side.
#pragma once

#include "kernels/cuda/matmul_wide.cuh"

namespace fl::cuda {

template <int NT, bool kResident, int kBlocksPerSm>
void launch_instance(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p,
                     const char* name) {
  const auto kernel = matmul_kernel<NT, kResident, kBlocksPerSm>;
  prepare_shared(kernel, shared_bytes, name);
  launch(kernel, {dim3(static_cast<unsigned>(grid)), dim3(kMatmulThreads), shared_bytes}, stream, overlap,
         name, p);
}

template <int NT, int kBlocksPerSm>
void launch_wide(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p,
                 const char* name) {
  const auto kernel = wide_kernel<NT, kBlocksPerSm>;
  prepare_shared(kernel, shared_bytes, name);
  launch(kernel, {dim3(static_cast<unsigned>(grid)), dim3(kMatmulThreads), shared_bytes}, stream, overlap,
         name, p);
}

}  // namespace fl::cuda
