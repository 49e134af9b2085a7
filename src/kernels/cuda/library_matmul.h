// Long prompts through a library: weights are expanded to f16, piece by piece in a scratch that stays small,
// and multiplied by cuBLASLt, which is loaded at run time when the machine has it. The expansion of a piece
// runs beside the product of the piece before.
#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

class LibraryMatmul {
 public:
  /// `beside`: bytes at the start that other products of the same stream may use between calls.
  static uint64_t workspace_bytes(int32_t max_tokens, uint64_t beside);
  /// Nothing when the library is not there or the workspace is too small for it.
  static std::unique_ptr<LibraryMatmul> open(const DeviceInfo& device, std::byte* workspace, uint64_t bytes);
  ~LibraryMatmul();

  /// y (+)= x Wᵀ; x in rows, y aligned to 16 bytes. Rows of W are a multiple of 16.
  void multiply(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* y, int64_t stride,
                bool add);
  /// out (rows) = silu(x Gᵀ) * (x Uᵀ).
  void swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate, const PackedMatrix& up,
              const Activations& out);
  std::string describe() const;

  struct Impl;

 private:
  explicit LibraryMatmul(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::cuda
