// The public functions: a table look-up each.
#include "kernels/cpu/ops.h"

#include <cmath>

#include "kernels/causal_conv.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace fl {

bool kv_type_supported(DType type, int64_t head_dim) {
  switch (type) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
      return true;
    case DType::q8_0:
      return head_dim % kKvQuantGroup == 0;
    default:
      return false;
  }
}

int64_t kv_head_bytes(DType type, int64_t head_dim) {
  return static_cast<int64_t>(row_bytes(type, static_cast<uint64_t>(head_dim))) * kKvBlock;
}

}  // namespace fl

namespace fl::cpu {

void rms_norm(Isa isa, const float* x, const float* w, float eps, int64_t n, float* y) {
  ops(isa).rms_norm(x, w, eps, n, y);
}

void gated_rms_norm(Isa isa, const float* x, const float* z, const float* w, float eps, int64_t n, float* y) {
  ops(isa).gated_rms_norm(x, z, w, eps, n, y);
}

void swiglu(Isa isa, const float* gate, const float* up, int64_t n, float* y) {
  ops(isa).swiglu(gate, up, n, y);
}

void rope(Isa isa, const float* cos_sin, int64_t pairs, float* head) {
  ops(isa).rope(cos_sin, pairs, head);
}

void causal_conv_silu(Isa isa, float* x, int64_t stride, int64_t n_tokens, const float* w, float* window,
                      int64_t kernel, int64_t channels, int64_t first, int64_t last) {
  ops(isa).causal_conv_silu(x, stride, n_tokens, w, window, kernel, channels, first, last);
}

int64_t gated_delta_scratch(const DeltaShape& shape) {
  return kOpsPortable.delta_scratch(shape);
}

void gated_delta(Isa isa, const DeltaShape& shape, const DeltaInput<float>& in, int64_t value_head,
                 float* state, float* y, float* scratch) {
  ops(isa).gated_delta(shape, in, value_head, state, y, scratch);
}

int64_t attention_scratch(const AttentionShape& shape) {
  return kOpsPortable.attention_scratch(shape);
}

void attention(Isa isa, const AttentionShape& shape, const KvCache& cache, const AttentionInput& in,
               int64_t kv_head, int64_t first, int64_t n, float* out, int64_t out_stride, float* scratch) {
  ops(isa).attention(shape, cache, in, kv_head, first, n, out, out_stride, scratch);
}

void kv_store(Isa isa, const AttentionShape& shape, const KvCache& cache, std::span<const int32_t> blocks,
              int64_t index, int64_t kv_head, const float* k, const float* v) {
  ops(isa).kv_store(shape, cache, blocks[static_cast<size_t>(index / kKvBlock)], index % kKvBlock, kv_head, k,
                    v);
}

}  // namespace fl::cpu
