// Encoders of the types whose blocks hold quantised scales, and of the non-linear 4-bit types.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace fl {

/// One 256-element block of q2_k, q3_k, q4_k, q5_k, q6_k or iq4_xs. `x` is finite; `importance` is empty or
/// one weight an element.
void encode_k(DType type, std::span<const float> x, std::span<const float> importance, uint8_t* out);

/// One 32-element block.
void encode_iq4_nl(std::span<const float> x, std::span<const float> importance, uint8_t* out);

}  // namespace fl
