#include "kernels/cuda/matmul_instance.cuh"

namespace fl::cuda {

void launch_wide_32(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  launch_wide<4, 2>(stream, overlap, grid, shared_bytes, p, "wide product of up to 32 tokens");
}

}  // namespace fl::cuda
