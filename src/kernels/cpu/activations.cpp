// An input of products: its quantised and its interleaved form, and who makes them.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/result.h"
#include "kernels/cpu/matmul_impl.h"

namespace fl::cpu {
namespace {

constexpr int64_t kGroupsPerItem = 32;  // of the quantisation
constexpr int64_t kSmallInput = 2048;   // elements quantised without waking the other threads

}  // namespace

void Activations::Impl::quantise_part(const MatmulTable& kernels, int64_t i, int64_t begin, int64_t end,
                                      int64_t column, int64_t end_column) {
  const int64_t token = i * unit();
  kernels.quantise(x + token * stride + column, stride, kTileRows, begin, end,
                   std::min(unit(), n_tokens - token), column / kGroupCols, groups_of(end_column), unit(),
                   quantised.data() + i * quantised_stride());
}

void Activations::Impl::quantise_sums(const MatmulTable& kernels, int64_t i, int64_t column,
                                      const float* from) {
  alignas(64) std::array<uint8_t, kMaxUnit * kTokenRecordBytes> record;
  kernels.quantise(from, kTileRows, kTileSums, 0, unit(), std::min(unit(), n_tokens - i * unit()), 0, 1,
                   unit(), record.data());
  const int64_t bytes = unit() * kTokenRecordBytes;
  uint8_t* to = quantised.data() + i * quantised_stride() + column / kGroupCols * bytes;
  static_assert(kLineBytes == kTileRows * sizeof(float));
  if (bytes % kLineBytes == 0) {
    kernels.put(reinterpret_cast<const float*>(record.data()), bytes / kLineBytes,
                reinterpret_cast<float*>(to), kTileRows, false);
  } else {
    std::memcpy(to, record.data(), static_cast<size_t>(bytes));
  }
}

void Activations::Impl::interleave_part(int64_t i, int64_t begin, int64_t end, int64_t column,
                                        int64_t end_column) {
  auto* out = reinterpret_cast<float*>(floats.data() + i * floats_stride());
  const int64_t token = i * unit();
  for (int64_t t = begin; t < end; ++t) {
    const float* row = token + t < n_tokens ? x + (token + t) * stride : nullptr;
    for (int64_t c = column; c < end_column; ++c) {
      out[c * unit() + t] = row != nullptr ? row[c] : 0.0F;
    }
  }
}

void Activations::Impl::quantise(ThreadPool& pool, const MatmulTable& kernels) {
  if (std::exchange(has_quantised, true)) {
    return;
  }
  const int64_t groups = groups_of(cols);
  const int64_t n_units = units_of(n_tokens);
  FL_CHECK(static_cast<uint64_t>(n_units * quantised_stride()) <= quantised.size(),
           "activations not reserved");
  const int64_t groups_each = make != nullptr && make_rows ? groups : kGroupsPerItem;
  const int64_t pieces = divide_up(groups, groups_each);
  auto run = [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t i = item / pieces;
      const int64_t first = item % pieces * groups_each;
      const int64_t last = std::min(first + groups_each, groups);
      if (make != nullptr) {
        make(make_context, i * unit(), std::min((i + 1) * unit(), n_tokens), first * kGroupCols,
             last * kGroupCols);
      }
      quantise_part(kernels, i, 0, unit(), first * kGroupCols, last * kGroupCols);
    }
  };
  if (n_tokens * cols <= kSmallInput) {
    run(0, n_units * pieces, 0);
  } else {
    pool.parallel_for(n_units * pieces, 1, run);
  }
  make = nullptr;
}

void Activations::Impl::interleave(ThreadPool& pool) {
  if (std::exchange(has_floats, true)) {
    return;
  }
  const int64_t n_units = units_of(n_tokens);
  FL_CHECK(static_cast<uint64_t>(n_units * floats_stride()) <= floats.size(), "activations not reserved");
  pool.parallel_for(n_units, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (make != nullptr) {
        make(make_context, i * unit(), std::min((i + 1) * unit(), n_tokens), 0, cols);
      }
      interleave_part(i, 0, unit(), 0, cols);
    }
  });
  make = nullptr;
}

Activations::Activations() : impl_(std::make_unique<Impl>()) {}
Activations::~Activations() = default;
Activations::Activations(Activations&&) noexcept = default;

namespace {
uint64_t quantised_bytes(int64_t max_tokens, int64_t max_cols) {
  return static_cast<uint64_t>(units_of(max_tokens) * groups_of(max_cols) * kTokenRecordBytes *
                               unit_tokens(max_tokens));
}
uint64_t float_bytes(int64_t max_tokens, int64_t max_cols) {
  return static_cast<uint64_t>(units_of(max_tokens) * unit_tokens(max_tokens) * max_cols) * sizeof(float);
}
}  // namespace

void Activations::reserve(int64_t max_tokens, int64_t max_cols) {
  impl_->quantised = AlignedBytes(quantised_bytes(max_tokens, max_cols));
  impl_->floats = AlignedBytes(float_bytes(max_tokens, max_cols));
}
uint64_t Activations::reserved_bytes(int64_t max_tokens, int64_t max_cols) {
  return quantised_bytes(max_tokens, max_cols) + float_bytes(max_tokens, max_cols);
}
uint64_t Activations::bytes() const {
  return impl_->quantised.size() + impl_->floats.size();
}

void Activations::set_raw(const float* x, int64_t n_tokens, int64_t cols, int64_t stride, MakeFn make,
                          void* context, bool rows) {
  impl_->x = x;
  impl_->n_tokens = n_tokens;
  impl_->cols = cols;
  impl_->stride = stride;
  impl_->has_quantised = false;
  impl_->has_floats = false;
  impl_->make = make;
  impl_->make_context = context;
  impl_->make_rows = rows;
  impl_->parts_of = nullptr;
}

void Activations::set_in_parts(const float* x, int64_t n_tokens, int64_t cols, int64_t stride,
                               const PackedMatrix& w) {
  set(x, n_tokens, cols, stride);
  Impl& in = *impl_;
  in.parts_of = &w.impl();
  const bool is_float = pack_format(w.type()).bits == 0;
  (is_float ? in.has_floats : in.has_quantised) = true;
  const int64_t needed = units_of(n_tokens) * (is_float ? in.floats_stride() : in.quantised_stride());
  FL_CHECK(static_cast<uint64_t>(needed) <= (is_float ? in.floats : in.quantised).size(),
           "activations not reserved");
}

void Activations::make_part(int64_t token, int64_t end_token, int64_t column, int64_t end_column) const {
  Impl& in = *impl_;
  const PackedMatrix::Impl& w = *in.parts_of;
  const int64_t unit = in.unit();
  for (int64_t i = token / unit; i * unit < end_token; ++i) {
    const int64_t begin = std::max<int64_t>(0, token - i * unit);
    const int64_t end = end_token == in.n_tokens ? unit : std::min(unit, end_token - i * unit);
    if (pack_format(w.type).bits == 0) {
      in.interleave_part(i, begin, end, column, end_column);
    } else {
      in.quantise_part(matmul_table(w.isa), i, begin, end, column, end_column);
    }
  }
}

}  // namespace fl::cpu
