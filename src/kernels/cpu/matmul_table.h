// The product's inner kernels as compiled for one instruction set; private to kernels/cpu.
//
// Activations lie in units of four tokens. Quantised: for every group of 32 columns a record of three cache
// lines:
//   int8 q[4][32], float scale[4], float sum[4] (scale times the sum of q), int32 minus_sum[2][4] (minus the
//   sums of the two halves of q, so that a code's offset is a shift of it).
// As floats: [column][4]. Tokens missing from the last unit are zeros.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fl::cpu {

inline constexpr int64_t kUnitTokens = 4;
inline constexpr int64_t kRecordBytes = 192;
inline constexpr int kMaxTileTokens = 12;

/// One tile of weights with one to kMaxTileTokens tokens.
struct TileCall {
  const uint8_t* tile;
  int64_t cols;
  const uint8_t* x;     ///< first unit
  int64_t unit_stride;  ///< bytes from unit to unit
  float* out;           ///< [tokens][16], 64-byte aligned
};
using TileFn = void (*)(const TileCall&);

struct MatmulTable {
  /// The most tokens of one call; also the size of the blocks in which many tokens are taken.
  int max_tokens;
  /// The kernel for at least n tokens (1 <= n <= max_tokens); it may compute up to kMaxTileTokens.
  TileFn (*tile_fn)(DType type, int n);
  /// Groups [first, last) of one unit from `n` (1..4) rows of x.
  void (*quantise)(const float* x, int64_t stride, int n, int64_t first, int64_t last, uint8_t* unit);
};

extern const MatmulTable kMatmulPortable;
extern const MatmulTable kMatmulAvx2;
extern const MatmulTable kMatmulAvx512;

}  // namespace fl::cpu
