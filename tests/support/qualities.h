// What each type of block may lose.
#pragma once

#include "core/dtype.h"

namespace fl::test {

// Largest relative RMS error of rounding Gaussian weights, about 10 % above what these encoders reach; the
// published encoders lie within a few per cent of the same values.
struct Quality {
  DType type;
  double rms;
};

inline constexpr Quality kQualities[] = {{DType::q8_0, 0.006},   {DType::q6_k, 0.020}, {DType::q5_k, 0.040},
                                         {DType::q5_1, 0.046},   {DType::q5_0, 0.046}, {DType::q4_k, 0.080},
                                         {DType::q4_1, 0.092},   {DType::q4_0, 0.092}, {DType::iq4_nl, 0.085},
                                         {DType::iq4_xs, 0.085}, {DType::q3_k, 0.170}, {DType::q2_k, 0.320},
                                         {DType::f16, 0.0004},   {DType::bf16, 0.003}, {DType::f32, 0}};

}  // namespace fl::test
