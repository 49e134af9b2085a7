#include "kernels/cuda/matmul_instance.cuh"

namespace fl::cuda {

void launch_matmul_resident(cudaStream_t stream, bool overlap, int grid, int shared_bytes,
                            const MatmulParams& p) {
  launch_instance<1, true, 2>(stream, overlap, grid, shared_bytes, p,
                              "product, activations in shared memory");
}

}  // namespace fl::cuda
