// One instance of the product kernel and its launch; each lies in a source file of its own, to compile side
// by side.
#pragma once

#include "kernels/cuda/matmul_wide.cuh"

namespace fl::cuda {

template <bool kResident, int kType, int kGroups>
auto* narrow_kernel(int n_tokens, bool by_count) {
  switch (by_count ? n_tokens : 0) {
    case 1:
      return matmul_kernel<1, kResident, kType, true, kGroups, 1>;
    case 2:
      return matmul_kernel<1, kResident, kType, true, kGroups, 2>;
    case 4:
      return matmul_kernel<1, kResident, kType, true, kGroups, 4>;
    case 8:
      return matmul_kernel<1, kResident, kType, false, kGroups, 8>;
    default:
      return n_tokens <= 4 ? matmul_kernel<1, kResident, kType, true, kGroups, 0>
                           : matmul_kernel<1, kResident, kType, false, kGroups, 0>;
  }
}

template <bool kResident, int kType, int kGroups = 1>
void launch_narrow(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  constexpr const char* kName =
      kResident ? "product, activations in shared memory" : "product of up to 8 tokens";
  const auto kernel = narrow_kernel<kResident, kType, kGroups>(p.n_tokens, p.by_count != 0);
  prepare_shared(kernel, shared_bytes, kName);
  launch(kernel, {dim3(static_cast<unsigned>(grid)), dim3(kGroups * kMatmulThreads), shared_bytes}, stream,
         overlap, kName, p);
}

template <int NT, int MT, int kBlocksPerSm>
void launch_wide(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p,
                 const char* name) {
  const auto kernel = wide_kernel<NT, MT, kBlocksPerSm>;
  prepare_shared(kernel, shared_bytes, name);
  launch(kernel, {dim3(static_cast<unsigned>(grid)), dim3(kMatmulThreads), shared_bytes}, stream, overlap,
         name, p);
}

}  // namespace fl::cuda
