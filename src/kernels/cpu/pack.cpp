#include "kernels/cpu/pack.h"

#include <array>
#include <cstring>

#include "core/half.h"

namespace fl::cpu {
namespace {

constexpr int kBlockMax = 256;
constexpr int kSubMax = 16;

uint16_t u16(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
uint32_t u32(const uint8_t* p) {
  return uint32_t{u16(p)} | uint32_t{u16(p + 2)} << 16;
}

/// One block of one row with its fields apart.
struct Block {
  std::array<uint8_t, kBlockMax> code;
  std::array<uint8_t, kSubMax> scale;  ///< of each sub-block
  std::array<uint8_t, kSubMax> min;
  uint16_t d = 0;
  uint16_t m = 0;
};

void nibbles32(const uint8_t* qs, uint8_t* code) {
  for (int e = 0; e < 16; ++e) {
    code[e] = qs[e] & 15;
    code[e + 16] = qs[e] >> 4;
  }
}
void fifth_bits(uint32_t high, uint8_t* code) {
  for (int e = 0; e < 32; ++e) {
    code[e] = static_cast<uint8_t>(code[e] | (high >> e & 1) << 4);
  }
}
/// Six-bit scales and minima of Q4_K and Q5_K.
void six_bit_scales(const uint8_t* s, Block& b) {
  for (size_t k = 0; k < 4; ++k) {
    b.scale[k] = s[k] & 63;
    b.min[k] = s[k + 4] & 63;
    b.scale[k + 4] = static_cast<uint8_t>((s[k + 8] & 15) | (s[k] >> 6) << 4);
    b.min[k + 4] = static_cast<uint8_t>((s[k + 8] >> 4) | (s[k + 4] >> 6) << 4);
  }
}
/// Elements of the 256-blocks: quarter j of a half takes bits from byte l of that half.
template <typename Fn>
void each_of_256(Fn&& fn) {
  for (int e = 0; e < kBlockMax; ++e) {
    fn(e, e / 128, e % 128 / 32, e % 32);
  }
}

void split_k(DType type, const uint8_t* p, Block& b) {
  switch (type) {
    case DType::q2_k:
      each_of_256([&](int e, int half, int j, int l) {
        b.code[static_cast<size_t>(e)] = p[16 + 32 * half + l] >> (2 * j) & 3;
      });
      for (size_t s = 0; s < kSubMax; ++s) {
        b.scale[s] = p[s] & 15;
        b.min[s] = p[s] >> 4;
      }
      b.d = u16(p + 80);
      b.m = u16(p + 82);
      break;
    case DType::q3_k:
      each_of_256([&](int e, int half, int j, int l) {
        b.code[static_cast<size_t>(e)] =
            static_cast<uint8_t>((p[32 + 32 * half + l] >> (2 * j) & 3) | (p[l] >> (4 * half + j) & 1) << 2);
      });
      for (size_t k = 0; k < kSubMax; ++k) {
        const int low = k < 8 ? p[96 + k] & 15 : p[88 + k] >> 4;
        const int high = p[104 + k % 4] >> (2 * (k / 4)) & 3;
        b.scale[k] = static_cast<uint8_t>((low | high << 4) - 32);
      }
      b.d = u16(p + 108);
      break;
    case DType::q4_k:
    case DType::q5_k: {
      const uint8_t* qs = p + (type == DType::q4_k ? 16 : 48);
      for (size_t e = 0; e < kBlockMax; ++e) {
        const size_t k = e / 32;
        const uint8_t byte = qs[32 * (k / 2) + e % 32];
        b.code[e] = k % 2 == 0 ? byte & 15 : byte >> 4;
        if (type == DType::q5_k) {
          b.code[e] = static_cast<uint8_t>(b.code[e] | (p[16 + e % 32] >> k & 1) << 4);
        }
      }
      six_bit_scales(p + 4, b);
      b.d = u16(p);
      b.m = u16(p + 2);
      break;
    }
    case DType::q6_k:
      each_of_256([&](int e, int half, int g, int l) {
        const uint8_t byte = p[64 * half + 32 * (g & 1) + l];
        const int low = g < 2 ? byte & 15 : byte >> 4;
        b.code[static_cast<size_t>(e)] =
            static_cast<uint8_t>(low | (p[128 + 32 * half + l] >> (2 * g) & 3) << 4);
      });
      std::memcpy(b.scale.data(), p + 192, kSubMax);
      b.d = u16(p + 208);
      break;
    default:  // iq4_xs
      for (size_t k = 0; k < 8; ++k) {
        nibbles32(p + 8 + 16 * k, b.code.data() + 32 * k);
        const int scale = (p[4 + k / 2] >> (4 * (k & 1)) & 15) | (u16(p + 2) >> (2 * k) & 3) << 4;
        b.scale[k] = static_cast<uint8_t>(scale - 32);
      }
      b.d = u16(p);
      break;
  }
}

void split(DType type, const uint8_t* p, Block& b) {
  switch (type) {
    case DType::q4_0:
    case DType::iq4_nl:
      nibbles32(p + 2, b.code.data());
      break;
    case DType::q4_1:
      nibbles32(p + 4, b.code.data());
      b.m = u16(p + 2);
      break;
    case DType::q5_0:
      nibbles32(p + 6, b.code.data());
      fifth_bits(u32(p + 2), b.code.data());
      break;
    case DType::q5_1:
      nibbles32(p + 8, b.code.data());
      fifth_bits(u32(p + 4), b.code.data());
      b.m = u16(p + 2);
      break;
    case DType::q8_0:
      for (size_t e = 0; e < 32; ++e) {
        b.code[e] = p[2 + e] ^ 0x80U;
      }
      break;
    default:
      split_k(type, p, b);
      return;
  }
  b.d = u16(p);
}

void put_codes(const PackFormat& f, const uint8_t* code, int64_t row, uint8_t* group) {
  uint8_t* two = group + two_bit_plane(f);
  uint8_t* one = group + one_bit_plane(f);
  for (int64_t c = 0; c < kGroupCols; ++c) {
    const int64_t quad = c / 4;
    const int64_t byte = row * 4 + c % 4;
    unsigned v = code[c];
    const auto put = [byte](uint8_t* line, unsigned bits) {
      line[byte] = static_cast<uint8_t>(line[byte] | bits);
    };
    if (f.bits == 8) {
      put(group + quad * kLineBytes, v);
      continue;
    }
    if ((f.bits & 4) != 0) {
      put(group + four_bit_plane(f) + (quad & 3) * kLineBytes, (v & 15) << (quad / 4 * 4));
      v >>= 4;
    }
    if ((f.bits & 2) != 0) {
      put(two + quad / 4 * kLineBytes, (v & 3) << (quad % 4 * 2));
      v >>= 2;
    }
    if ((f.bits & 1) != 0) {
      put(one, (v & 1) << quad);
    }
  }
}

void put_scales(const PackFormat& f, const Block& b, int64_t row, uint8_t* scales) {
  const int n_subs = f.block_cols / f.sub_cols;
  for (int s = 0; s < n_subs; ++s) {
    const auto i = static_cast<size_t>(s);
    if (f.scales == Scales::int8) {
      scales[s * kTileRows + row] = b.scale[i];
    } else if (f.scales == Scales::nibbles) {
      scales[s * kTileRows + row] = static_cast<uint8_t>(b.scale[i] | b.min[i] << 4);
    }
  }
  if (f.scales == Scales::six_bit) {
    // Sixteen 6-bit numbers in twelve bytes: the first twelve in the low bits, the last four in the three
    // pairs of high bits above them.
    for (size_t v = 0; v < 12; ++v) {
      const uint8_t low = v < 8 ? b.scale[v] : b.min[v - 8];
      const uint8_t spread = b.min[4 + v % 4];
      scales[static_cast<int64_t>(v) * kTileRows + row] =
          static_cast<uint8_t>(low | (spread >> (v / 4 * 2) & 3) << 6);
    }
  }
}

void get_scale(const PackFormat& f, const uint8_t* scales, int64_t row, int64_t sub, int& scale, int& min) {
  const auto at = [&](int64_t v) -> int { return scales[v * kTileRows + row]; };
  scale = 1;
  min = 0;
  if (f.scales == Scales::int8) {
    scale = static_cast<int8_t>(at(sub));
  } else if (f.scales == Scales::nibbles) {
    scale = at(sub) & 15;
    min = at(sub) >> 4;
  } else if (f.scales == Scales::six_bit) {
    scale = at(sub) & 63;
    min = sub < 4 ? at(8 + sub) & 63 : at(sub - 4) >> 6 | (at(sub) >> 6) << 2 | (at(sub + 4) >> 6) << 4;
  }
}

int get_code(const PackFormat& f, const uint8_t* group, int64_t row, int64_t col) {
  const int64_t quad = col / 4;
  const int64_t byte = row * 4 + col % 4;
  if (f.bits == 8) {
    return group[quad * kLineBytes + byte];
  }
  int v = 0;
  int shift = 0;
  if ((f.bits & 4) != 0) {
    v = group[four_bit_plane(f) + (quad & 3) * kLineBytes + byte] >> (quad / 4 * 4) & 15;
    shift = 4;
  }
  if ((f.bits & 2) != 0) {
    v |= (group[two_bit_plane(f) + quad / 4 * kLineBytes + byte] >> (quad % 4 * 2) & 3) << shift;
    shift += 2;
  }
  if ((f.bits & 1) != 0) {
    v |= (group[one_bit_plane(f) + byte] >> quad & 1) << shift;
  }
  return f.table ? kIq4Codes[v] : v;
}

/// f(bytes before a chunk, its bytes), chunk after chunk of one tile of a strip.
template <typename F>
void each_chunk(const PackFormat& f, int64_t cols, int64_t n_tiles, const F& visit) {
  const int64_t step = n_tiles == 1 ? cols : kChunkCols;
  for (int64_t c = 0; c < cols; c += step) {
    const int64_t before = tile_bytes(f, c);
    visit(before, tile_bytes(f, std::min(c + step, cols)) - before);
  }
}

}  // namespace

void tile_to_strip(const PackFormat& f, int64_t cols, const uint8_t* tile, int64_t i, int64_t n_tiles,
                   uint8_t* strip) {
  each_chunk(f, cols, n_tiles, [&](int64_t before, int64_t bytes) {
    std::memcpy(strip + n_tiles * before + i * bytes, tile + before, static_cast<size_t>(bytes));
  });
}
void tile_from_strip(const PackFormat& f, int64_t cols, const uint8_t* strip, int64_t i, int64_t n_tiles,
                     uint8_t* tile) {
  each_chunk(f, cols, n_tiles, [&](int64_t before, int64_t bytes) {
    std::memcpy(tile + before, strip + n_tiles * before + i * bytes, static_cast<size_t>(bytes));
  });
}

void pack_tile(DType type, const std::byte* rows, int64_t n_rows, int64_t cols, uint8_t* tile) {
  const PackFormat f = pack_format(type);
  const auto bytes_per_row = static_cast<int64_t>(row_bytes(type, static_cast<uint64_t>(cols)));
  const auto* source = reinterpret_cast<const uint8_t*>(rows);
  std::memset(tile, 0, static_cast<size_t>(tile_bytes(f, cols)));
  if (f.bits == 0) {
    for (int64_t r = 0; r < n_rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        std::memcpy(tile + (c * kTileRows + r) * f.elem_bytes, source + r * bytes_per_row + c * f.elem_bytes,
                    static_cast<size_t>(f.elem_bytes));
      }
    }
    return;
  }
  const int64_t n_blocks = cols / f.block_cols;
  const int64_t file_block = dtype_info(type).block_bytes;
  Block b;
  for (int64_t i = 0; i < n_blocks; ++i) {
    uint8_t* block = tile + block_at(f, i);
    uint8_t* halves = tile + halves_at(f, i);
    for (int64_t r = 0; r < n_rows; ++r) {
      split(type, source + r * bytes_per_row + i * file_block, b);
      std::memcpy(halves + r * 2, &b.d, 2);
      if (has_min(f.scales)) {
        std::memcpy(halves + (kTileRows + r) * 2, &b.m, 2);
      }
      put_scales(f, b, r, block);
      for (int64_t g = 0; g < f.block_cols / kGroupCols; ++g) {
        put_codes(f, b.code.data() + g * kGroupCols, r, block + scale_bytes(f) + g * group_bytes(f));
      }
    }
  }
}

void unpack_row(DType type, const uint8_t* tile, int64_t row, std::span<float> out) {
  const PackFormat f = pack_format(type);
  const auto cols = static_cast<int64_t>(out.size());
  if (f.bits == 0) {
    for (int64_t c = 0; c < cols; ++c) {
      const uint8_t* p = tile + (c * kTileRows + row) * f.elem_bytes;
      float& v = out[static_cast<size_t>(c)];
      if (type == DType::f32) {
        std::memcpy(&v, p, sizeof(float));
      } else {
        v = type == DType::f16 ? f16_to_float(u16(p)) : bf16_to_float(u16(p));
      }
    }
    return;
  }
  const int offset = f.offset_shift < 0 ? 0 : 1 << f.offset_shift;
  for (int64_t first = 0; first < cols; first += f.sub_cols) {
    const int64_t i = first / f.block_cols;
    const int64_t in_block = first % f.block_cols;
    const uint8_t* block = tile + block_at(f, i);
    const uint8_t* halves = tile + halves_at(f, i);
    const uint8_t* group = block + scale_bytes(f) + in_block / kGroupCols * group_bytes(f);
    const float d = f16_to_float(u16(halves + row * 2));
    const float m = has_min(f.scales) ? f16_to_float(u16(halves + (kTileRows + row) * 2)) : 0;
    int scale = 0;
    int min = 0;
    get_scale(f, block, row, in_block / f.sub_cols, scale, min);
    for (int64_t c = 0; c < f.sub_cols; ++c) {
      const int code = get_code(f, group, row, in_block % kGroupCols + c) - offset;
      float v = d * static_cast<float>(scale * code);
      if (f.scales == Scales::half_min) {
        v = v + m;
      } else if (has_min(f.scales)) {
        v = v - m * static_cast<float>(min);
      }
      out[static_cast<size_t>(first + c)] = v;
    }
  }
}

}  // namespace fl::cpu
