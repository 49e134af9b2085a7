#include "kernels/cuda/matmul_instance.cuh"

namespace fl::cuda {

void launch_pair_l1_q6(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p) {
  launch_narrow<false, static_cast<int>(PackedType::q6_k), 2>(stream, overlap, grid, shared_bytes, p);
}

}  // namespace fl::cuda
