// Prompts in int8 tensor-core products, from the same tiles (tile_layout.h) that decoding reads: for chips
// whose 16-bit products with f32 sums are slow beside their int8 products (compute
// capability 8.6, 8.9, 12.0).
//
// Activations are quantised to int8 with a scale for each 32 columns of a token: about 4e-3 of error,
// relative to the exact product, for inputs that are normally distributed. Weights are exact. A sum over a
// sub-block of 32 (Q6_K: 16) is an exact integer; sub-blocks are added in f32 in the order of the columns'
// superblocks, the same for every row, token and shape of the launch: a token's bits do not depend on the
// tokens beside it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

/// Quantised activations of 64 tokens and 256 columns, where p counts pairs of sub-blocks (p, p + 4) and t =
/// 0..3:
///   [p 0..3][token][t][16]   columns 4t..4t+3 and 16+4t..16+4t+3 of sub-block p, then of sub-block p + 4
///   [p 0..3][token][2] f32   their scales, for activations as they are stored (times kActivationScale)
///   [token][8] f16           the sum of each sub-block's quantised values, times the scale
/// Matrices of activations are [superblock][group of 64 tokens]; the last group is filled up with zeros.
inline constexpr int kInt8Tokens = 64;
inline constexpr int kInt8Scales = 4 * kInt8Tokens * 64;
inline constexpr int kInt8Sums = kInt8Scales + 4 * kInt8Tokens * 8;
inline constexpr int kInt8GroupBytes = kInt8Sums + kInt8Tokens * 16;

constexpr uint64_t int8_activation_bytes(int32_t n_tokens, int64_t cols) {
  return static_cast<uint64_t>((n_tokens + kInt8Tokens - 1) / kInt8Tokens) *
         static_cast<uint64_t>(padded_cols(cols) / kSuperblock) * kInt8GroupBytes;
}

/// Types that have a kernel: all but f16.
constexpr bool has_int8_product(PackedType type) {
  return type != PackedType::f16;
}

/// `rows` (ActivationLayout::rows) to `out` (int8_activation_bytes; multiple of 256).
void quantize_activations(cudaStream_t stream, bool overlap, const Activations& rows, std::byte* out);

struct Int8Product {
  const std::byte* activations = nullptr;  ///< quantised
  int32_t n_tokens = 0;
  int32_t cols = 0;
  int32_t n_sms = 0;  ///< decides the shape of the launch, not the result
  bool overlap = false;
};

/// y = x Wᵀ, or y += x Wᵀ, for up to Matmul::kMaxOutputs matrices of one type.
void int8_store(cudaStream_t stream, const Int8Product& x, std::span<const Matmul::Output> outputs, bool add);
/// out (rows) = silu(x Gᵀ) * (x Uᵀ); both of one type.
void int8_swiglu(cudaStream_t stream, const Int8Product& x, const PackedMatrix& gate, const PackedMatrix& up,
                 const Activations& out);

}  // namespace fl::cuda
