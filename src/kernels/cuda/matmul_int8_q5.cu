#include "kernels/cuda/matmul_int8.cuh"

namespace fl::cuda {

void launch_int8_q5(cudaStream_t stream, bool overlap, int groups, int grid, const Int8Params& p) {
  launch_int8<PackedType::q5_k>(stream, overlap, groups, grid, p);
}

}  // namespace fl::cuda
