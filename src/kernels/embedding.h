// Rows of the token embedding table, decoded to float without scaling.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "kernels/cpu/matmul.h"

namespace fl::cpu {

/// out [tokens.size()][table.cols()]; every token is in [0, table.rows()).
void embed(ThreadPool& pool, const TensorView& table, std::span<const int32_t> tokens, float* out);
/// The same from the packed output matrix, when the model ties the two.
void embed(ThreadPool& pool, const PackedMatrix& table, std::span<const int32_t> tokens, float* out);

}  // namespace fl::cpu
