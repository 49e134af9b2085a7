// y = x Wᵀ for weights of any supported type on the host. Weights are repacked once, at load, into the layout
// of this machine's instruction set (avx512-vnni, avx2, portable; chosen at run time). Quantised weights meet
// activations quantised to int8 per 32 elements; F32, F16 and BF16 weights meet float activations.
//
// The sum over the input dimension has one order, whatever the number of tokens and threads: one token alone
// and the same token in a batch give the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "kernels/cpu/ahead.h"
#include "kernels/cpu/thread_pool.h"

namespace fl::cpu {

enum class Isa : uint8_t { portable, avx2, avx512_vnni };
std::string_view isa_name(Isa isa);
/// The best that this machine runs; FREELUNCH_ISA=portable|avx2|avx512_vnni lowers it (for tests and
/// comparison).
Isa best_isa();

/// A repacked matrix [rows, cols]. Movable, owns its bytes (64-byte aligned).
class PackedMatrix {
 public:
  PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;
  ~PackedMatrix();

  static PackedMatrix pack(const TensorView& tensor, Isa isa, ThreadPool& pool);
  /// `gate` and `up` for gated_matmul, their tiles side by side; can_pair: quantised, of one type and shape,
  /// the rows a multiple of Activations::kPartColumns. rows() counts those of both.
  static bool can_pair(const TensorView& gate, const TensorView& up);
  static PackedMatrix pack_pair(const TensorView& gate, const TensorView& up, Isa isa, ThreadPool& pool);
  /// Bytes that pack() would own, without doing it.
  static uint64_t packed_bytes(DType type, int64_t rows, int64_t cols, Isa isa);

  int64_t rows() const;
  int64_t cols() const;
  DType type() const;
  uint64_t bytes() const;
  /// Decodes one row (token embeddings from a tied matrix).
  void dequantize_row(int64_t row, std::span<float> out) const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

/// One input for several matrices: x [n_tokens, cols] kept as float and, on demand, quantised once.
/// Buffers are reserved by `reserve`; `set` allocates nothing.
class Activations {
 public:
  Activations();
  ~Activations();
  Activations(Activations&&) noexcept;
  void reserve(int64_t max_tokens, int64_t max_cols);
  /// What bytes() will say after that, without doing it.
  static uint64_t reserved_bytes(int64_t max_tokens, int64_t max_cols);
  /// Takes a view of x; it must stay alive and unchanged while products use it. Row stride in floats. The
  /// first product that needs it quantised (or, for float weights, interleaved) makes that form, in parallel.
  void set(const float* x, int64_t n_tokens, int64_t cols, int64_t stride) {
    set_raw(x, n_tokens, cols, stride, nullptr, nullptr, false);
  }
  /// The same for an x that is made on the way, in the same parallel region and by the thread that goes on
  /// with it: make(token, end_token, column, end_column) writes that part of x; whole rows at a time if
  /// `rows`. `make` must live as long as x does.
  template <typename Make>
  void set_made(const float* x, int64_t n_tokens, int64_t cols, int64_t stride, bool rows, Make& make) {
    set_raw(
        x, n_tokens, cols, stride,
        [](void* context, int64_t token, int64_t end_token, int64_t column, int64_t end_column) {
          (*static_cast<Make*>(context))(token, end_token, column, end_column);
        },
        &make, rows);
  }
  /// The same for an x that other regions make part by part: whoever has written a part calls make_part for
  /// the form that `w` reads, once for every element, before the first product. Parts may be made in
  /// parallel.
  void set_in_parts(const float* x, int64_t n_tokens, int64_t cols, int64_t stride, const PackedMatrix& w);
  /// `column` is a multiple of kPartColumns, and so is `end_column` unless it is `cols`.
  void make_part(int64_t token, int64_t end_token, int64_t column, int64_t end_column) const;
  static constexpr int64_t kPartColumns = 32;
  uint64_t bytes() const;

  struct Impl;
  Impl& mutable_impl() const { return *impl_; }  ///< for matmul

 private:
  using MakeFn = void (*)(void*, int64_t, int64_t, int64_t, int64_t);
  void set_raw(const float* x, int64_t n_tokens, int64_t cols, int64_t stride, MakeFn make, void* context,
               bool rows);
  std::unique_ptr<Impl> impl_;
};

/// One product of a group: y[t * stride + r] (+)= sum_c x[t, c] w[r, c].
struct MatmulTask {
  const PackedMatrix* w = nullptr;
  float* y = nullptr;
  int64_t stride = 0;       ///< floats between the rows of y
  bool accumulate = false;  ///< add to y (residual) instead of storing
  /// Not null: y is large and read by few, so it is written past the caches (y and stride multiples of 64
  /// bytes; else as usual), and maxima[t * ceil(rows / kMaximaRows) + i] becomes the largest of the rows
  /// [i * kMaximaRows, (i + 1) * kMaximaRows) of y, or NaN where one of them is NaN or +inf.
  float* maxima = nullptr;
};
inline constexpr int64_t kMaximaRows = 16;

/// Several matrices on the same input in one parallel region. `ahead`, in both products: null, or what the
/// threads read later.
void matmul(ThreadPool& pool, const Activations& x, std::span<const MatmulTask> tasks,
            Ahead* ahead = nullptr);
/// h[t, r] = silu(sum_c x[t, c] gate[r, c]) * sum_c x[t, c] up[r, c], made as the form of it that `next`
/// holds then: `next` has been set_in_parts to h, and the threads that make h make the parts. h
/// [n_tokens][rows of one] and `up` of the same size are room; what they hold then is not said.
void gated_matmul(ThreadPool& pool, const Activations& x, const PackedMatrix& gate_up, float* h, float* up,
                  const Activations& next, Ahead* ahead = nullptr);

}  // namespace fl::cpu
