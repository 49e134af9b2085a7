#include "kernels/cuda/matmul_instance.cuh"

namespace fl::cuda {

void launch_pair_any(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  launch_narrow<true, kAnyType, 2>(stream, overlap, grid, shared_bytes, p);
}

}  // namespace fl::cuda
