// The product's inner kernels as compiled for one instruction set; private to kernels/cpu.
//
// Activations lie in units of U tokens: of four, or of one or two when there are no more (one token's input
// must stay in the first-level cache beside a stream of weights). Quantised: for every group of 32 columns a
// record of
//   int8 q[U][32], float scale[U], float sum[U] (scale times the sum of q), int32 minus_sum[2][U] (minus the
//   sums of the two halves of q, times the instruction set's 2^kOffsetShift: a code's offset is a shift of
//   it).
// As floats: [column][U]. Tokens missing from the last unit are zeros.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "kernels/cpu/ahead.h"

namespace fl::cpu {

inline constexpr int64_t kMaxUnit = 4;
/// Bytes of a record for each token of the unit.
inline constexpr int64_t kTokenRecordBytes = 48;
constexpr int64_t unit_tokens(int64_t n_tokens) {
  return n_tokens < 3 ? n_tokens : kMaxUnit;
}
inline constexpr int kMaxTileTokens = 12;

/// One strip of weights with one to kMaxTileTokens tokens.
struct TileCall {
  const uint8_t* strip;
  int64_t n_tiles;
  int64_t cols;
  const uint8_t* x;     ///< first unit
  int64_t unit_stride;  ///< bytes from unit to unit
  float* out;           ///< [n_tiles][tokens][16], 64-byte aligned
  int64_t tile_stride;  ///< floats from tile to tile of out
  Ahead::Part* ahead;   ///< may be null
};
using TileFn = void (*)(const TileCall&);

struct MatmulTable {
  /// The most tokens of one call; also the size of the blocks in which many tokens are taken.
  int max_tokens;
  /// The kernel for at least n tokens (1 <= n <= max_tokens) in units of `unit`; it may compute up to
  /// kMaxTileTokens.
  TileFn (*tile_fn)(DType type, int n, int64_t unit);
  /// Groups [first, last) of tokens [begin, end) of one unit; those from n on are zeros. Column c of token t,
  /// counted from the first group's first, is x[t * stride + c / 16 * line_stride + c % 16].
  void (*quantise)(const float* x, int64_t stride, int64_t line_stride, int64_t begin, int64_t end, int64_t n,
                   int64_t first, int64_t last, int64_t unit, uint8_t* out);
  /// y[t * stride + r] (+)= sums [n][16] of a whole tile.
  void (*put)(const float* sums, int64_t n, float* y, int64_t stride, bool accumulate);
  /// The same past the caches where y and stride are whole lines; others see it after a fence.
  void (*put_past_caches)(const float* sums, int64_t n, float* y, int64_t stride);
  /// out[t * stride] = the largest of sums [n][16] of token t, NaN where one is NaN or +inf.
  void (*largest)(const float* sums, int64_t n, int64_t stride, float* out);
  // Loops for kernels/cpu/machine.h: reading n bytes; `steps` rounds of arithmetic, returning the operations
  // of one.
  void (*read)(const uint8_t* p, int64_t n);
  int64_t (*spin_int8)(int64_t steps);
  int64_t (*spin_f32)(int64_t steps);
};

enum class Isa : uint8_t;
/// The kernels for one of the instruction sets that this machine runs.
const MatmulTable& matmul_table(Isa isa);

extern const MatmulTable kMatmulPortable;
extern const MatmulTable kMatmulAvx2;
extern const MatmulTable kMatmulAvx512;

}  // namespace fl::cpu
