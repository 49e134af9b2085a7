// y[i] = silu(gate[i]) * up[i], the middle of the feed-forward block; silu(x) = x / (1 + exp(-x)).
#pragma once

#include <cstdint>

#include "kernels/cpu/matmul.h"

namespace fl::ref {

void swiglu(const double* gate, const double* up, int64_t n, double* y);

}  // namespace fl::ref

namespace fl::cpu {

/// One row of n elements; y may be gate or up.
void swiglu(Isa isa, const float* gate, const float* up, int64_t n, float* y);

}  // namespace fl::cpu
