// All kernels of one instruction set. The including file defines FL_LANES, FL_GEMM_ROWS and FL_OPS (the
// table's name).

#include <cstddef>
#include <cstdint>

#include "kernels/causal_conv.h"
#include "kernels/cpu/ops.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace fl::cpu {
namespace {
namespace body {  // so that these names are not overloads of the public functions

// Each uses what is above it; the blank lines keep the order.
#include "kernels/cpu/vec.h"

#include "kernels/cpu/rows.inl"

#include "kernels/cpu/gemm_f32.inl"

#include "kernels/cpu/half.inl"

#include "kernels/cpu/gated_delta.inl"

#include "kernels/cpu/attention_q8.inl"

#include "kernels/cpu/attention.inl"

}  // namespace body
}  // namespace

const OpTable FL_OPS = {body::rms_norm,    body::gated_rms_norm,    body::swiglu,
                        body::rope,        body::causal_conv_silu,  body::delta_scratch,
                        body::gated_delta, body::attention_scratch, body::attention,
                        body::kv_store};

}  // namespace fl::cpu
