// y = x Wᵀ on the device, for weights of any supported type. A matrix is repacked once, at load, into tiles
// of 16 rows that serve one token and many; activations are 16-bit floats in the form that activations.cuh
// defines.
//
// Kernels by number of tokens:
//   1 .. most_records() (kMaxColumns; 8 on sm_90)
//                      each weight is decoded once for all tokens, f16 tensor-core products with f32 sums; a
//                      token's result has the same bits alone and beside others (the order of every sum is
//                      fixed by the matrix's shape, not by the number of tokens or the chip)
//   9 .. 64 on sm_90   matmul_batch.h: repeated runs give the same bits, and a token's do not depend on the
//                      others' values, but on how many there are
//   more, and prompts of any length (Activations::prompt)
//                      on sm_90 matmul_prompt.h; where the chip rations 16-bit products, or where asked for,
//                      int8 products (matmul_int8.h): the bits of both depend on nothing beside the token;
//                      elsewhere expand + library product from library_from_tokens on, when cuBLASLt is
//                      found and wanted, else the first kernel over slices of kMaxColumns tokens
//                      (weights read once a slice): that path equals the first bit for bit
// Accuracy: about 3e-4 relative to the exact product (16-bit activations; weights exact but for f16 storage
// of types without tiles of their own, below).
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "core/cuda/runtime.h"
#include "core/dtype.h"

namespace fl::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kSuperblock = 256;              ///< columns of a tile
inline constexpr int kMaxColumns = 64;               ///< tokens up to which activations are records
inline constexpr float kActivationScale = 1.0f / 4;  ///< of stored activations
inline constexpr float kSumScale = 4.0f;             ///< of stored sums of stored activations

/// How tiles are stored. Q4_K, Q5_K, Q6_K and Q8_0 are permutations of the file's bytes. Q4_0, Q5_0 and
/// IQ4_NL become q8_0 without loss; every other type becomes f16 (rounded; saturated at 65 504).
enum class PackedType : uint8_t { q4_k, q5_k, q6_k, q8_0, f16 };

PackedType packed_type(DType source);

constexpr int32_t padded_cols(int64_t cols) {
  return static_cast<int32_t>((cols + kSuperblock - 1) / kSuperblock * kSuperblock);
}
constexpr int32_t padded_rows(int64_t rows) {
  return static_cast<int32_t>((rows + kTileRows - 1) / kTileRows * kTileRows);
}

/// A repacked matrix on the device; does not own its bytes. Rows and columns beyond the real ones hold zeros.
struct PackedMatrix {
  PackedType type = PackedType::f16;
  DType source = DType::f16;
  int32_t rows = 0;  ///< outputs
  int32_t cols = 0;  ///< inputs
  const std::byte* data = nullptr;
  uint64_t bytes = 0;
};

/// Device bytes of a matrix; place it at a multiple of 256.
uint64_t packed_bytes(DType source, int64_t rows, int64_t cols);

/// The description of a matrix whose tiles lie, or will lie, at `packed`.
PackedMatrix packed_matrix(DType source, int64_t rows, int64_t cols, const std::byte* packed);

/// Enqueues the repacking of `rows` x `cols` weights whose file bytes lie at `blocks` (device, multiple of
/// 16) into `packed` (packed_bytes). `row0`: the first row that `blocks` holds, a multiple of 16, so that a
/// matrix may arrive in pieces; `n_rows` rows are there; the last piece also zeroes the rows that pad the
/// matrix.
PackedMatrix repack(cudaStream_t stream, DType source, int64_t rows, int64_t cols, const std::byte* blocks,
                    int64_t row0, int64_t n_rows, std::byte* packed);
/// The file's bytes again (types that are permutations only: Q4_K, Q5_K, Q6_K, Q8_0).
void unpack(cudaStream_t stream, const PackedMatrix& w, std::byte* blocks);
/// Rows [row0, row0 + n_rows) as f16 [n_rows][padded_cols(cols)], columns in the order of activation rows.
void expand_f16(cudaStream_t stream, const PackedMatrix& w, int32_t row0, int32_t n_rows, void* out);

enum class ActivationLayout : uint8_t { records, rows };

/// Activations [n_tokens, cols] on the device, in the form of activations.cuh.
struct Activations {
  std::byte* data = nullptr;  ///< multiple of 256
  int32_t n_tokens = 0;
  int32_t cols = 0;
  int32_t most_records = kMaxColumns;  ///< tokens up to which they are records; at most kMaxColumns
  /// Of a step that holds a prompt: rows, however few, for products in which a token's bits do not depend on
  /// how many there are.
  bool prompt = false;
  ActivationLayout layout() const {
    return !prompt && n_tokens <= most_records ? ActivationLayout::records : ActivationLayout::rows;
  }
};
uint64_t activation_bytes(int32_t n_tokens, int64_t cols);
/// x [n_tokens, cols] f32, row stride in floats (a multiple of 4): for inputs that no fused producer writes.
void store_activations(cudaStream_t stream, bool overlap, const float* x, int64_t stride,
                       const Activations& out);

/// Root-mean-square normalisation that a product finishes: its input was x * norm_weight, without the factor
/// 1 / sqrt(mean(x²) + eps) of each token, which is constant over the product and multiplies the result. The
/// sums of squares come in n_partials parts of each token, [n_tokens][n_partials], added in order.
struct RmsScale {
  const float* sum_of_squares = nullptr;  ///< nullptr: no factor
  int32_t n_partials = 0;
  int32_t n = 0;  ///< length of x
  float eps = 0;
};
/// Parts of each token that a product with `rows` outputs writes for the next RmsScale.
constexpr int32_t rms_partials(int64_t rows) {
  return padded_rows(rows) / kTileRows;
}

/// Where activations lie during a product of up to 8 tokens: all of them in shared memory, in L2 (read by
/// each warp), or in stages that eight row tiles share (the wide kernel, which more tokens always use). Same
/// bits everywhere.
enum class ActivationPlacement : uint8_t { automatic, l2, staged };

/// How prompts and steps of more than kMaxColumns tokens are multiplied. automatic: int8 where 16-bit
/// products with f32 sums are slow beside it (see docs/decisions/0075), f16 elsewhere.
enum class PromptProducts : uint8_t { automatic, f16, int8 };

struct MatmulOptions {
  bool prompt_kernel = true;      ///< where the device has it, for prompts and all steps of more tokens
                                  ///< than most_records
  int most_records = 0;           ///< with the prompt kernel; 0: as measured
  bool library = true;            ///< use cuBLASLt for long prompts when it can be loaded
  int library_from_tokens = 129;  ///< prompts from this length on (measured; see docs/decisions)
  ActivationPlacement placement = ActivationPlacement::automatic;
  /// Up to 8 tokens: shares of the rows that a block works on, with one copy of the activations: 1 or, where
  /// it fits, 2; 0: as measured (docs/decisions/0067, 0068). Same bits.
  int groups = 0;
  bool overlap = true;  ///< where the device can: kernels start while their predecessors end
  PromptProducts prompt = PromptProducts::automatic;
};

inline constexpr int kMaxOutputs = 6;  ///< matrices in a launch

/// The matrices of the product that comes next on the stream, with as many tokens. A launch of up to
/// kMaxColumns tokens that knows them asks L2 for their first bytes as it ends (docs/decisions/0066). What it
/// computes does not depend on it.
struct NextProduct {
  std::array<const PackedMatrix*, kMaxOutputs> w{};
  int n = 0;                         ///< 0: nothing is asked for
  const PackedMatrix* up = nullptr;  ///< w[0] is gate

  NextProduct() = default;
  NextProduct(std::initializer_list<const PackedMatrix*> matrices)
      : n(static_cast<int>(std::min(matrices.size(), w.size()))) {
    std::copy_n(matrices.begin(), n, w.begin());
  }
  static NextProduct gate_and_up(const PackedMatrix& gate, const PackedMatrix& up) {
    NextProduct next;
    if (gate.type == up.type) {
      next = {&gate};
      next.up = &up;
    }
    return next;
  }
};

/// Products on one device. Holds no weights. Not thread-safe; calls only enqueue (and can be captured in a
/// graph).
class Matmul {
 public:
  /// Bytes on the current device that products of up to max_tokens tokens need: `swiglu_rows` is the longest
  /// feed-forward dimension, `max_cols` the widest input of any matrix.
  static uint64_t workspace_bytes(int32_t max_tokens, int64_t swiglu_rows, int64_t max_cols,
                                  const MatmulOptions& options = {});

  Matmul(const DeviceInfo& device, std::byte* workspace, uint64_t bytes, MatmulOptions options = {});
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  static constexpr int kMaxOutputs = cuda::kMaxOutputs;
  struct Output {
    const PackedMatrix* w;
    float* y;        ///< y[t * stride + r]
    int64_t stride;  ///< floats
  };

  /// Several matrices on the same input (q, k, v; qkv, z, alpha, beta) in one launch: y = scale * x Wᵀ.
  void store(cudaStream_t stream, const Activations& x, std::span<const Output> outputs,
             const RmsScale& scale = {}, const NextProduct& next = {});
  /// residual += x Wᵀ.
  void add(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual, int64_t stride);
  /// residual += x Wᵀ; then `out` = residual * norm_weight and its sums of squares (see RmsScale), for the
  /// next product. Where finishes_norm(n_tokens); rows must be a multiple of 256.
  void add_and_norm(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
                    int64_t stride, const float* norm_weight, const Activations& out, float* sum_of_squares,
                    const NextProduct& next = {});
  /// out = silu(scale * x Gᵀ) * (scale * x Uᵀ), ready for the next product. gate and up have the same shape.
  void swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate, const PackedMatrix& up,
              const Activations& out, const RmsScale& scale = {}, const NextProduct& next = {});

  /// Whether products of so many tokens, no prompt, take and prepare norms (RmsScale, add_and_norm).
  bool finishes_norm(int32_t n_tokens) const;
  /// Activations of at most so many tokens should come as records, larger ones as rows: kMaxColumns, or less
  /// where a kernel for rows is faster.
  int32_t most_records() const;
  /// True on sm_90 and up: kernels of this stream may overlap (launch.cuh).
  bool overlap() const;
  /// "tiles", "tiles + wgmma" or "tiles + cuBLASLt 13.1".
  std::string describe() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::cuda
