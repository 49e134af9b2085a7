#include "kernels/cuda/matmul_batch_kernel.cuh"

namespace fl::cuda {

void launch_batch_8(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                    const BatchParams& p) {
  batch::launch_instance<8>(stream, overlap, grid, shared_bytes, x, p);
}

}  // namespace fl::cuda
