// What matmul.h keeps to itself: a packed matrix, and an input in the forms that kernels read. Private to
// kernels/cpu.
#pragma once

#include <algorithm>

#include "base/result.h"
#include "kernels/cpu/aligned_bytes.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/weight_bytes.h"

namespace fl::cpu {

constexpr int64_t divide_up(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}
constexpr int64_t groups_of(int64_t cols) {
  return divide_up(cols, kGroupCols);
}
constexpr int64_t units_of(int64_t n_tokens) {
  return divide_up(n_tokens, unit_tokens(n_tokens));
}
/// Floats from the sums of a tile to those of the next in a strip.
inline constexpr int64_t kTileSums = kMaxTileTokens * kTileRows;

struct PackedMatrix::Impl {
  DType type = DType::f32;
  Isa isa = Isa::portable;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tile_stride = 0;
  WeightBytes bytes;

  int64_t n_tiles() const { return divide_up(rows, kTileRows); }
  int64_t strip_tiles = 1;  ///< of all strips but perhaps the last
  /// Of the strip that begins at tile i.
  const uint8_t* strip(int64_t i) const { return bytes.data() + i * tile_stride; }
  int64_t tiles_of_strip(int64_t i) const { return std::min(strip_tiles, n_tiles() - i); }
};

struct Activations::Impl {
  const float* x = nullptr;
  int64_t n_tokens = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  // The forms that the kernels read, made when the first product asks for them.
  AlignedBytes quantised;
  AlignedBytes floats;
  bool has_quantised = false;
  bool has_floats = false;
  // How x is made, until it is.
  MakeFn make = nullptr;
  void* make_context = nullptr;
  bool make_rows = false;

  int64_t unit() const { return unit_tokens(n_tokens); }
  int64_t quantised_stride() const { return groups_of(cols) * kTokenRecordBytes * unit(); }
  int64_t floats_stride() const { return cols * unit() * static_cast<int64_t>(sizeof(float)); }
  void quantise(ThreadPool& pool, const MatmulTable& kernels);
  void interleave(ThreadPool& pool);
  /// What products with w read, if it is not there yet.
  void make_form_for(ThreadPool& pool, const PackedMatrix::Impl& w) {
    FL_CHECK(w.cols == cols, "the width of the input is the width of the matrix");
    if (pack_format(w.type).bits == 0) {
      interleave(pool);
    } else {
      quantise(pool, matmul_table(w.isa));
    }
  }
  // Parts of one unit: tokens [begin, end) of it, where those that x has not are zeros.
  void quantise_part(const MatmulTable& kernels, int64_t i, int64_t begin, int64_t end, int64_t column,
                     int64_t end_column);
  /// The same of a group of 32 columns that lies elsewhere: from[t * kTileRows], and kTileSums behind it
  /// the second half. Its record goes out in whole lines: they come from the other threads, which read them,
  /// and many small stores to them would fill the store buffer.
  void quantise_sums(const MatmulTable& kernels, int64_t i, int64_t column, const float* from);
  void interleave_part(int64_t i, int64_t begin, int64_t end, int64_t column, int64_t end_column);
  // Set while others make the form that `parts_of` reads.
  const PackedMatrix::Impl* parts_of = nullptr;
};

}  // namespace fl::cpu
