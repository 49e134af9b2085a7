#include "kernels/cuda/matmul_prompt_kernel.cuh"

namespace fl::cuda {

void launch_prompt_64(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                      const PromptParams& p) {
  prompt::launch_instance<64>(stream, overlap, grid, shared_bytes, x, p);
}

}  // namespace fl::cuda
