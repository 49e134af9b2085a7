#include "kernels/cuda/matmul_prompt_kernel.cuh"

namespace fl::cuda {

void launch_prompt_256(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                       const PromptParams& p) {
  prompt::launch_instance<256>(stream, overlap, grid, shared_bytes, x, p);
}

}  // namespace fl::cuda
