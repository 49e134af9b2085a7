// Where the bits of 16 superblocks (16 rows x 256 columns) lie in a tile. A tile has exactly the bytes of its
// superblocks, permuted so that what a lane reads in 16 bytes are its operands of m16n8k16 products; matrices
// are [tile of 16 rows][superblock][tile bytes], so that the tiles of a row stream forward.
//
// Lane 4g + t (g = 0..7, t = 0..3) holds rows g and g + 8. Of a sub-block of 32 columns it holds, for each
// row, four pairs P_r: columns 4t, 4t+1 (r = 0), 4t+2, 4t+3 (1), 16+4t, 16+4t+1 (2), 16+4t+2, 16+4t+3 (3);
// P_0 and P_1 belong to the first product of 16 columns, P_2 and P_3 to the second. Activations have the same
// order (activations.cuh).
//
// A 4-bit weight becomes an f16 by one logical operation: the bits of 1024.0 or'ed with q (bits 0..3) or 16 q
// (bits 4..7). So nibbles of sub-blocks 0..3 lie in bits 0..3 and 8..11 of each half word, those of
// sub-blocks 4..7 above them.
//
//   q4_k 2304  [j 0..3][lane][word r]  byte 2h + (row > 7): low nibble = sub-block j, high = sub-block j + 4,
//   column h of P_r
//              [row][16]               d, dmin, 12 bytes of scales and mins as in the file
//   q5_k 2816  as q4_k, then [lane][word j] high bits (high_bit_position), then the headers
//   q6_k 3360  low nibbles as q4_k; [j / 2][lane][word 2 (j & 1) + (row > 7)] high two bits
//   (high_pair_position);
//              [row][16] int8 scales; [row] d
//   q8_0 4352  [s 0..7][lane][word 2 (row > 7) + (r >> 1)], byte 2 (r & 1) + h, with the sign bit flipped;
//   [row][8] d f16  8192  [step of 16 columns][lane][word (row > 7) + 2 (r & 1)]
#pragma once

#include <cstdint>

namespace fl::cuda::tile {

inline constexpr int kQuants = 2048;  ///< bytes of the 4-bit planes
inline constexpr int kQ4Bytes = 2304;
inline constexpr int kQ5High = 2048;
inline constexpr int kQ5Header = 2560;
inline constexpr int kQ5Bytes = 2816;
inline constexpr int kQ6High = 2048;
inline constexpr int kQ6Scales = 3072;
inline constexpr int kQ6D = 3328;
inline constexpr int kQ6Bytes = 3360;
inline constexpr int kQ8D = 4096;
inline constexpr int kQ8Bytes = 4352;
inline constexpr int kF16Bytes = 8192;

/// Column within a sub-block of 32: h-th of pair P_r of lane t.
constexpr int pair_column(int t, int r, int h) {
  return (r >> 1) * 16 + 4 * t + (r & 1) * 2 + h;
}

/// Q5_K: bit of the high-bit word (within a half word) of sub-block j (+ 0) and j + 4 (+ 4), i = 4 (row > 7)
/// + r. The word shifted right by high_bit_shift(i) has them at bits 4 and 8, where 1024 + q and 1024 + 16 q
/// want them.
constexpr int high_bit_position(int i) {
  return i < 4 ? i : i + 4;
}
constexpr int high_bit_shift(int i) {
  return high_bit_position(i) - 4;
}
/// Q6_K: the same for the two high bits of pair r; shifted they lie at bits 4..5 and 8..9.
constexpr int high_pair_position(int r) {
  return r < 2 ? 2 * r : 2 * r + 4;
}
constexpr int high_pair_shift(int r) {
  return high_pair_position(r) - 4;
}

/// Word `off / 4` of the 4-bit planes; nibble(row, byte, high) reads a nibble of a row's superblock. `base`:
/// first byte of the nibbles there. Q4_K and Q5_K keep sub-block 2p in the low and 2p + 1 in the high nibbles
/// of 32 bytes, Q6_K sub-blocks g and g + 2 of each half in those of 64 bytes.
template <typename Byte>
constexpr uint32_t nibble_word(int off, bool q6, int base, const Byte& byte) {
  const int j = off / 512;
  const int lane = off % 512 / 16;
  const int r = off % 16 / 4;
  uint32_t word = 0;
  for (int b = 0; b < 4; ++b) {
    const int row = (lane >> 2) + 8 * (b & 1);
    const int l = pair_column(lane & 3, r, b >> 1);
    const int at = base + 32 * (q6 ? j & 1 : j >> 1) + l;
    const int shift = 4 * (q6 ? j >> 1 : j & 1);
    const uint32_t low = (static_cast<uint32_t>(byte(row, at)) >> shift) & 15U;
    const uint32_t high = (static_cast<uint32_t>(byte(row, at + 64)) >> shift) & 15U;
    word |= (low | high << 4) << (8 * b);
  }
  return word;
}

template <typename Byte>
constexpr uint32_t plain_word(int row, int at, const Byte& byte) {
  uint32_t word = 0;
  for (int b = 0; b < 4; ++b) {
    word |= static_cast<uint32_t>(byte(row, at + b)) << (8 * b);
  }
  return word;
}

// The word at byte `off` of a tile, from byte(row, offset in the file's superblock of that row).

template <typename Byte>
constexpr uint32_t q4_word(int off, const Byte& byte) {
  if (off < kQuants) {
    return nibble_word(off, false, 16, byte);
  }
  return plain_word((off - kQuants) / 16, off % 16, byte);
}

template <typename Byte>
constexpr uint32_t q5_word(int off, const Byte& byte) {
  if (off < kQuants) {
    return nibble_word(off, false, 48, byte);
  }
  if (off >= kQ5Header) {
    return plain_word((off - kQ5Header) / 16, off % 16, byte);
  }
  const int lane = (off - kQ5High) / 16;
  const int j = off % 16 / 4;
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) {
    for (int h = 0; h < 2; ++h) {
      const uint32_t bits =
          static_cast<uint32_t>(byte((lane >> 2) + 8 * (i >> 2), 16 + pair_column(lane & 3, i & 3, h)));
      const int at = 16 * h + high_bit_position(i);
      word |= ((bits >> j) & 1U) << at | ((bits >> (j + 4)) & 1U) << (at + 4);
    }
  }
  return word;
}

template <typename Byte>
constexpr uint32_t q6_word(int off, const Byte& byte) {
  if (off < kQuants) {
    return nibble_word(off, true, 0, byte);
  }
  if (off >= kQ6D) {
    const int row = (off - kQ6D) / 2;
    uint32_t word = 0;
    for (int b = 0; b < 4; ++b) {
      word |= static_cast<uint32_t>(byte(row + (b >> 1), 208 + (b & 1))) << (8 * b);
    }
    return word;
  }
  if (off >= kQ6Scales) {
    return plain_word((off - kQ6Scales) / 16, 192 + off % 16, byte);
  }
  const int lane = (off - kQ6High) % 512 / 16;
  const int j = (off - kQ6High) / 512 * 2 + (off % 16 / 8);
  const int row = (lane >> 2) + 8 * (off % 8 / 4);
  uint32_t word = 0;
  for (int r = 0; r < 4; ++r) {
    for (int h = 0; h < 2; ++h) {
      const int l = pair_column(lane & 3, r, h);
      const int at = 16 * h + high_pair_position(r);
      word |= ((static_cast<uint32_t>(byte(row, 128 + l)) >> (2 * j)) & 3U) << at;
      word |= ((static_cast<uint32_t>(byte(row, 160 + l)) >> (2 * j)) & 3U) << (at + 4);
    }
  }
  return word;
}

/// q8(row, column) gives the signed byte, d(row, block) the f16 bits of its scale.
template <typename Q8, typename D>
constexpr uint32_t q8_word(int off, const Q8& q8, const D& d) {
  uint32_t word = 0;
  if (off >= kQ8D) {
    const int row = (off - kQ8D) / 16;
    const int block = off % 16 / 2;
    return static_cast<uint32_t>(d(row, block)) | static_cast<uint32_t>(d(row, block + 1)) << 16;
  }
  const int lane = off % 512 / 16;
  const int w = off % 16 / 4;
  for (int b = 0; b < 4; ++b) {
    const int column = 32 * (off / 512) + pair_column(lane & 3, 2 * (w & 1) + (b >> 1), b & 1);
    const auto value = static_cast<uint32_t>(static_cast<uint8_t>(q8((lane >> 2) + 8 * (w >> 1), column)));
    word |= (value ^ 0x80U) << (8 * b);
  }
  return word;
}

/// f16(row, column) gives the bits of a weight.
template <typename F16>
constexpr uint32_t f16_word(int off, const F16& f16) {
  const int step = off / 512;
  const int lane = off % 512 / 16;
  const int w = off % 16 / 4;
  const int row = (lane >> 2) + 8 * (w & 1);
  const int column = 32 * (step >> 1) + pair_column(lane & 3, 2 * (step & 1) + (w >> 1), 0);
  return static_cast<uint32_t>(f16(row, column)) | static_cast<uint32_t>(f16(row, column + 1)) << 16;
}

// Back: byte `at` of row `row`'s superblock, from tile(offset).

struct NibblePlace {
  int byte;  ///< offset in the tile
  int shift;
};
/// Where the nibble of sub-block s, row, column l (0..31) lies.
constexpr NibblePlace nibble_place(int s, int row, int l) {
  const int r = (l >> 4) * 2 + ((l >> 1) & 1);
  const int lane = (row & 7) * 4 + ((l & 15) >> 2);
  return {(s & 3) * 512 + lane * 16 + r * 4 + (l & 1) * 2 + (row >> 3), 4 * (s >> 2)};
}

template <typename Tile>
constexpr uint32_t nibble(int s, int row, int l, const Tile& tile) {
  const NibblePlace p = nibble_place(s, row, l);
  return (static_cast<uint32_t>(tile(p.byte)) >> p.shift) & 15U;
}

template <typename Tile>
constexpr uint32_t half_word_bits(int word, int l, int at, uint32_t mask, const Tile& tile) {
  const int bit = 16 * (l & 1) + at;
  return (static_cast<uint32_t>(tile(word + bit / 8)) >> (bit % 8)) & mask;
}

template <typename Tile>
constexpr uint32_t q5_high_bit(int s, int row, int l, const Tile& tile) {
  const int r = (l >> 4) * 2 + ((l >> 1) & 1);
  const int lane = (row & 7) * 4 + ((l & 15) >> 2);
  const int at = high_bit_position(4 * (row >> 3) + r) + (s >> 2) * 4;
  return half_word_bits(kQ5High + lane * 16 + (s & 3) * 4, l, at, 1U, tile);
}

template <typename Tile>
constexpr uint32_t q6_high_pair(int s, int row, int l, const Tile& tile) {
  const int r = (l >> 4) * 2 + ((l >> 1) & 1);
  const int lane = (row & 7) * 4 + ((l & 15) >> 2);
  const int j = s & 3;
  const int word = kQ6High + (j >> 1) * 512 + lane * 16 + (2 * (j & 1) + (row >> 3)) * 4;
  return half_word_bits(word, l, high_pair_position(r) + (s >> 2) * 4, 3U, tile);
}

template <typename Tile>
constexpr uint8_t q4_byte(int row, int at, const Tile& tile) {
  if (at < 16) {
    return tile(kQuants + row * 16 + at);
  }
  const int p = (at - 16) / 32;
  const int l = at % 32 >= 16 ? at % 32 - 16 : at % 32 + 16;
  return static_cast<uint8_t>(nibble(2 * p, row, l, tile) | nibble(2 * p + 1, row, l, tile) << 4);
}

template <typename Tile>
constexpr uint8_t q5_byte(int row, int at, const Tile& tile) {
  if (at < 16) {
    return tile(kQ5Header + row * 16 + at);
  }
  uint32_t byte = 0;
  if (at < 48) {
    for (int s = 0; s < 8; ++s) {
      byte |= q5_high_bit(s, row, at - 16, tile) << s;
    }
  } else {
    const int p = (at - 48) / 32;
    const int l = (at - 48) % 32;
    byte = nibble(2 * p, row, l, tile) | nibble(2 * p + 1, row, l, tile) << 4;
  }
  return static_cast<uint8_t>(byte);
}

template <typename Tile>
constexpr uint8_t q6_byte(int row, int at, const Tile& tile) {
  if (at >= 208) {
    return tile(kQ6D + row * 2 + at - 208);
  }
  if (at >= 192) {
    return tile(kQ6Scales + row * 16 + at - 192);
  }
  uint32_t byte = 0;
  if (at < 128) {
    const int s = at / 64 * 4 + at % 64 / 32;
    byte = nibble(s, row, at % 32, tile) | nibble(s + 2, row, at % 32, tile) << 4;
  } else {
    for (int i = 0; i < 4; ++i) {
      byte |= q6_high_pair((at - 128) / 32 * 4 + i, row, at % 32, tile) << (2 * i);
    }
  }
  return static_cast<uint8_t>(byte);
}

/// `at` in 0..271: eight blocks of 34 bytes.
template <typename Tile>
constexpr uint8_t q8_byte(int row, int at, const Tile& tile) {
  const int s = at / 34;
  if (at % 34 < 2) {
    return tile(kQ8D + row * 16 + s * 2 + at % 34);
  }
  const int l = at % 34 - 2;
  const int lane = (row & 7) * 4 + ((l & 15) >> 2);
  const int word = s * 512 + lane * 16 + (2 * (row >> 3) + (l >> 4)) * 4;
  return static_cast<uint8_t>(tile(word + (l & 3)) ^ 0x80);
}

}  // namespace fl::cuda::tile
