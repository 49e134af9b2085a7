// All tolerances of the tests, by name and with a reason. A failing comparison is a bug of the kernel, not of
// these.
#pragma once

namespace fl::test {

/// Float arithmetic in another order than the double-precision reference, sums of up to a few thousand terms:
/// relative L2 error of a vector.
inline constexpr double kFloatReorder = 2e-6;

/// Logits of a whole model with f32 weights against the official implementation in f32: relative to the
/// largest logit.
inline constexpr double kOfficialLogits = 1e-4;

/// The same on the device, where weights of these types and all activations of a product are f16 (11 bits).
/// Rounding only the weights to f16 moves the host's logits of the eight-layer model by 1.8e-3 in the median
/// row of 700, by 1.6e-2 in the most sensitive one (row 62, which is among the stored ones).
inline constexpr double kOfficialLogitsHalf = 2.5e-2;

/// The device against the host on the same quantised weights: the host quantises activations to int8 (8e-3 a
/// product), the device to f16. Errors of some 28 products in four layers add up like a random walk to 4e-2;
/// relative to the largest logit.
inline constexpr double kCudaAgainstCpu = 6e-2;

/// int8 quantisation of activations per 32 elements (step 1/127 of the block's largest): relative L2 error of
/// a product.
inline constexpr double kInt8Activations = 8e-3;

/// Activations stored in f16 on the device (11 bits of significand): relative L2 error of what a kernel hands
/// to a product.
inline constexpr double kHalfActivations = 5e-4;

/// The delta rule on the device: float sums over hundreds of tokens, operands of the chunked form's products
/// with 21 bits, fast exponentials (2 units in the last place): relative L2 error of a state.
inline constexpr double kFloatDelta = 2e-5;

/// KV cache in f16 (11 bits of significand): relative L2 error of an attention output.
inline constexpr double kHalfKv = 5e-4;

/// KV cache in bf16 (8 bits of significand): relative L2 error of an attention output.
inline constexpr double kBfloatKv = 4e-3;

/// KV cache in q8_0 (step 1/127 of the largest of 32): relative L2 error of an attention output.
inline constexpr double kQ8Kv = 8e-3;

}  // namespace fl::test
