#include "kernels/cuda/matmul_instance.cuh"

namespace fl::cuda {

void launch_wide_32_1(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  launch_wide<4, 1, 1>(stream, overlap, grid, shared_bytes, p, "wide product of up to 32 tokens");
}
void launch_wide_32_2(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  launch_wide<4, 2, 1>(stream, overlap, grid, shared_bytes, p, "wide product of up to 32 tokens");
}

}  // namespace fl::cuda
