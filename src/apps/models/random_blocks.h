// Random weights of a wanted spread, as valid blocks, at the speed of memory.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace fl::apps {

/// Fills whole blocks with values of mean 0 and standard deviation `spread`. The result depends on `seed`
/// alone. f32, f16, bf16, q8_0, q4_k, q5_k and q6_k are made directly; the others by encoding Gaussian rows.
void random_blocks(DType type, float spread, uint64_t seed, std::span<std::byte> out);

}  // namespace fl::apps
