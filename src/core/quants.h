// Rows of every supported block type to and from float. These are the definitions: obvious, portable, one row
// at a time. Fast kernels repack and are tested against them. Formulas: ggml-org/llama.cpp,
// ggml/src/ggml-quants.c.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace fl {

/// Decodes `out.size()` elements (a multiple of block_elems) from packed blocks.
void dequantize_row(DType type, const std::byte* blocks, std::span<float> out);

/// Encodes `in.size()` elements (a multiple of block_elems) into packed blocks of `type`, choosing scales
/// that minimise the weighted squared error for the K types. `importance` is empty or one weight per element.
/// Non-finite input gives a finite block (NaN -> 0, infinities -> the largest finite magnitude in the block).
void quantize_row(DType type, std::span<const float> in, std::span<const float> importance,
                  std::byte* blocks);

}  // namespace fl
