// Descriptions of activation rows for the tensor copies of sm_90 (wgmma.cuh).
#pragma once

#include <cuda.h>

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

inline constexpr int kBoxColumns = 64;  ///< of activations in a box: rows of 128 bytes, swizzled

/// Boxes of kBoxColumns columns x `box_tokens` tokens of rows.
CUtensorMap rows_map(const Activations& x, int box_tokens);

}  // namespace fl::cuda
