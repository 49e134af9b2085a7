// Partial rotary embedding with interleaved sections of three axes. Of a head of head_dim values the first 2
// * pairs rotate: pair i is (i, i + pairs). Pair i follows axis y if i % 3 == 1 and i < 3 * sections[1], axis
// x if i % 3 == 2 and i < 3 * sections[2], else t:
//   phi = position[axis] * frequency[i],  u'[i] = u[i] cos(phi) - u[i + pairs] sin(phi),
//   u'[i + pairs] = u[i + pairs] cos(phi) + u[i] sin(phi)
// with cos and sin multiplied by `magnitude`. Angles are products rounded to float, as in the official
// implementation (that is what the weights were trained with), their cosines are exact. Source:
// huggingface/transformers, models/qwen3_5/modeling_qwen3_5.py (Qwen3_5TextRotaryEmbedding) and
// modeling_rope_utils.py (YaRN, arXiv 2309.00071).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/cpu/matmul.h"

namespace fl {

struct RopeTable {
  std::vector<float> frequency;  ///< [pairs]
  std::vector<uint8_t> axis;     ///< [pairs], 0 = t, 1 = y, 2 = x
  float magnitude = 1.0F;

  int64_t pairs() const { return static_cast<int64_t>(frequency.size()); }
};

/// frequency[i] = base^(-i / pairs). `factor` > 1 is YaRN's context extension from `original_ctx` tokens with
/// its usual ramp (beta_fast 32, beta_slow 1) and magnitude 0.1 ln(factor) + 1.
RopeTable make_rope_table(int64_t pairs, float base, std::array<int32_t, 3> sections, float factor,
                          int32_t original_ctx);

}  // namespace fl

namespace fl::ref {

/// Rotates one head in place. position = (t, y, x).
void rope(const RopeTable& table, std::array<int32_t, 3> position, double* head);

}  // namespace fl::ref

namespace fl::cpu {

/// cos_sin [2 * pairs]: the cosines of one token, then its sines; computed once per token and step, for all
/// layers.
void rope_angles(const RopeTable& table, std::array<int32_t, 3> position, float* cos_sin);
/// Rotates one head in place.
void rope(Isa isa, const float* cos_sin, int64_t pairs, float* head);

}  // namespace fl::cpu
