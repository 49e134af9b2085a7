#include "kernels/cuda/matmul_instance.cuh"

namespace fl::cuda {

void launch_matmul_32(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  launch_instance<4, false, 2>(stream, overlap, grid, shared_bytes, p, "product of up to 32 tokens");
}

}  // namespace fl::cuda
