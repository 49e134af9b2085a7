// The packed form of a matrix: one layout for all instruction sets and all numbers of tokens. Private to
// kernels/cpu.
//
// Sixteen rows make a tile. A tile of a quantised type is a row of blocks, each behind a line with its
// half-precision scales: [16], or scales and minima [2][16] where the type has minima. Without minima a line
// serves two blocks. A block is the small integer scales, then for every group of 32 columns the codes in bit
// planes; all of it in the order in which a kernel first needs it, so that a stream of tiles is read
// forwards. Of one group, four consecutive columns of the sixteen rows (a "quad") share a 64-byte line: lane
// r of 32 bits is row r, byte b of it column 4 * quad + b.
//   4-bit plane: 4 lines; line i has quad i in the low and quad i + 4 in the high halves of its bytes
//   2-bit plane: 2 lines; line i has quads 4i .. 4i + 3 from the low bits up
//   1-bit plane: 1 line; bit j of a byte belongs to quad j
//   8-bit codes: 8 lines, one a quad
// Five-bit codes are a 4-bit and a 1-bit plane and so on, so a tile has as many bits as sixteen rows of the
// file (the scales of Q3_K and IQ4_XS widen from 6 to 8 bits). Codes are unsigned: code - offset is the
// file's number.
//
// A tile of a float type is [column][16].
//
// Tiles of long rows lie in strips: kChunkCols columns of each of the strip's tiles in turn, then the next
// kChunkCols of each. A stream of tiles pushes the input of a product out of the first-level cache; of a
// strip it pushes out the chunk that all of its tiles have used.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace fl::cpu {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kGroupCols = 32;
inline constexpr int64_t kLineBytes = 64;
inline constexpr int64_t kChunkCols = 512;  // every format has whole lines here
inline constexpr int64_t kStripTiles = 4;
inline constexpr int64_t kLongRow = 1024;  // longer rows make strips

enum class Scales : uint8_t {
  none,      ///< float types
  half,      ///< f16 a block
  half_min,  ///< f16 scale and f16 minimum (added) a block
  six_bit,   ///< eight 6-bit scales and minima times f16 scale and minimum (subtracted); see unpack in the
             ///< kernels
  int8,      ///< a signed byte for each sub-block times f16
  nibbles,   ///< scale in the low, minimum in the high half of a byte, times f16 scale and minimum
             ///< (subtracted)
};

struct PackFormat {
  int bits = 0;        ///< of a code; 0: a float type
  bool table = false;  ///< codes are indices into kIq4Codes
  Scales scales = Scales::none;
  int block_cols = 1;
  int sub_cols = 32;      ///< columns that share an integer scale
  int offset_shift = -1;  ///< log2 of the offset of the codes (after the table); -1: none
  int elem_bytes = 0;     ///< of a float type
};

constexpr PackFormat pack_format(DType type) {
  switch (type) {
    case DType::f32:
      return {.elem_bytes = 4};
    case DType::f16:
    case DType::bf16:
      return {.elem_bytes = 2};
    case DType::q4_0:
      return {4, false, Scales::half, 32, 32, 3};
    case DType::q4_1:
      return {4, false, Scales::half_min, 32, 32};
    case DType::q5_0:
      return {5, false, Scales::half, 32, 32, 4};
    case DType::q5_1:
      return {5, false, Scales::half_min, 32, 32};
    case DType::q8_0:
      return {8, false, Scales::half, 32, 32, 7};
    case DType::q2_k:
      return {2, false, Scales::nibbles, 256, 16};
    case DType::q3_k:
      return {3, false, Scales::int8, 256, 16, 2};
    case DType::q4_k:
      return {4, false, Scales::six_bit, 256, 32};
    case DType::q5_k:
      return {5, false, Scales::six_bit, 256, 32};
    case DType::q6_k:
      return {6, false, Scales::int8, 256, 16, 5};
    case DType::iq4_nl:
      return {4, true, Scales::half, 32, 32, 7};
    case DType::iq4_xs:
      return {4, true, Scales::int8, 256, 32, 7};
  }
  return {};
}

/// The non-linear 4-bit values of IQ4_NL and IQ4_XS plus 128 (ggml-org/llama.cpp, ggml/src/ggml-common.h).
inline constexpr uint8_t kIq4Codes[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                          129, 141, 153, 166, 181, 197, 217, 241};

constexpr int64_t round_to_line(int64_t bytes) {
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}
constexpr bool has_min(Scales scales) {
  return scales == Scales::half_min || scales == Scales::six_bit || scales == Scales::nibbles;
}
/// Bytes of one block's half-precision scales.
constexpr int64_t half_entry_bytes(const PackFormat& f) {
  return kTileRows * 2 * (has_min(f.scales) ? 2 : 1);
}
/// Bytes of the integer scales of a block.
constexpr int64_t scale_bytes(const PackFormat& f) {
  switch (f.scales) {
    case Scales::six_bit:
      return 3 * kLineBytes;
    case Scales::int8:
    case Scales::nibbles:
      return kTileRows * (f.block_cols / f.sub_cols);
    default:
      return 0;
  }
}
constexpr int64_t group_bytes(const PackFormat& f) {
  return kTileRows * kGroupCols * f.bits / 8;
}
/// Where the planes of a group begin, in the order in which the kernels first need their lines.
constexpr int64_t one_bit_plane(const PackFormat& /*f*/) {
  return 0;
}
constexpr int64_t two_bit_plane(const PackFormat& f) {
  return (f.bits & 1) != 0 ? kLineBytes : 0;
}
constexpr int64_t four_bit_plane(const PackFormat& f) {
  return two_bit_plane(f) + ((f.bits & 2) != 0 ? 2 * kLineBytes : 0);
}
constexpr int64_t block_bytes(const PackFormat& f) {
  return scale_bytes(f) + group_bytes(f) * (f.block_cols / kGroupCols);
}
/// Blocks whose half-precision scales share a line.
constexpr int64_t blocks_per_line(const PackFormat& f) {
  return kLineBytes / half_entry_bytes(f);
}
/// Where the half-precision scales of block i begin in a tile.
constexpr int64_t halves_at(const PackFormat& f, int64_t i) {
  const int64_t n = blocks_per_line(f);
  return i / n * (kLineBytes + n * block_bytes(f)) + i % n * half_entry_bytes(f);
}
/// Where block i begins in a tile.
constexpr int64_t block_at(const PackFormat& f, int64_t i) {
  return (i / blocks_per_line(f) + 1) * kLineBytes + i * block_bytes(f);
}
constexpr int64_t tile_bytes(const PackFormat& f, int64_t cols) {
  return f.bits == 0 ? round_to_line(kTileRows * cols * f.elem_bytes)
                     : round_to_line(cols / f.block_cols * half_entry_bytes(f)) +
                           cols / f.block_cols * block_bytes(f);
}

/// The most tiles of a strip.
constexpr int64_t strip_tiles(const PackFormat& f, int64_t cols) {
  return f.bits > 0 && cols > kLongRow ? kStripTiles : 1;
}
/// Copies a tile to or from its place, the i-th of n_tiles, in a strip.
void tile_to_strip(const PackFormat& f, int64_t cols, const uint8_t* tile, int64_t i, int64_t n_tiles,
                   uint8_t* strip);
void tile_from_strip(const PackFormat& f, int64_t cols, const uint8_t* strip, int64_t i, int64_t n_tiles,
                     uint8_t* tile);

/// Packs rows [0, n_rows) of at most 16 consecutive ones into a tile; the missing rows become zeros.
void pack_tile(DType type, const std::byte* rows, int64_t n_rows, int64_t cols, uint8_t* tile);

/// Row `row` (0..15) of a tile, bit for bit what fl::dequantize_row gives for the row in the file.
void unpack_row(DType type, const uint8_t* tile, int64_t row, std::span<float> out);

}  // namespace fl::cpu
