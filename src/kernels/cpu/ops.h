// The float operations as compiled for one instruction set; private to kernels/cpu. The public functions of
// rms_norm.h, swiglu.h, rope.h, causal_conv.h, gated_delta.h and attention.h choose a table and call through
// it.
#pragma once

#include "kernels/attention.h"
#include "kernels/gated_delta.h"

namespace fl::cpu {

struct OpTable {
  void (*rms_norm)(const float* x, const float* w, float eps, int64_t n, float* y);
  void (*gated_rms_norm)(const float* x, const float* z, const float* w, float eps, int64_t n, float* y);
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* y);
  void (*rope)(const float* cos_sin, int64_t pairs, float* head);
  void (*causal_conv_silu)(float* x, int64_t stride, int64_t n_tokens, const float* w, float* window,
                           int64_t kernel, int64_t channels, int64_t first, int64_t last);
  int64_t (*delta_scratch)(const DeltaShape& shape);
  void (*gated_delta)(const DeltaShape& shape, const DeltaInput<float>& in, int64_t value_head, float* state,
                      float* y, float* scratch);
  int64_t (*attention_scratch)(const AttentionShape& shape);
  void (*attention)(const AttentionShape& shape, const KvCache& cache, const AttentionInput& in,
                    int64_t kv_head, int64_t first, int64_t n, float* out, int64_t out_stride,
                    float* scratch);
  void (*kv_store)(const AttentionShape& shape, const KvCache& cache, int32_t block, int64_t at,
                   int64_t kv_head, const float* k, const float* v);
};

extern const OpTable kOpsPortable;
extern const OpTable kOpsAvx2;
extern const OpTable kOpsAvx512;

inline const OpTable& ops(Isa isa) {
  switch (isa) {
    case Isa::avx512_vnni:
      return kOpsAvx512;
    case Isa::avx2:
      return kOpsAvx2;
    default:
      return kOpsPortable;
  }
}

}  // namespace fl::cpu
