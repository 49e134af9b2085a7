#include "kernels/cuda/matmul_instance.cuh"

namespace fl::cuda {

void launch_wide_16_1(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  launch_wide<2, 1, 2>(stream, overlap, grid, shared_bytes, p, "wide product of up to 16 tokens");
}

}  // namespace fl::cuda
