// A model's sizes as the kernels ask for them.
#pragma once

#include "kernels/attention.h"
#include "kernels/gated_delta.h"
#include "model/config.h"

namespace fl::model {

inline DeltaShape delta_shape(const Config& c) {
  return {c.n_key_heads, c.n_value_heads, c.key_dim, c.value_dim};
}

inline AttentionShape attention_shape(const Config& c) {
  return {c.n_heads, c.n_kv_heads, c.head_dim, c.attention_scale};
}

}  // namespace fl::model
