// The inner kernels of the product for one instruction set. The including file defines FL_LANES, FL_TOKENS
// (the most tokens of one call) and FL_TABLE (the table's name). Everything stays inside an unnamed namespace
// (see vec.h).
//
// One output is a sum over groups of 32 columns (16 where scales are that fine) in their order:
//   y += (float(sum of codes * q) * x_scale) * w_scale, then y -= w_min * x_sum,
// the inner sum exact in integers. Signed bytes as scales without minima stay in integers longer: over a
// block,
//   y += w_d * sum over groups of float(sum over sub-blocks of (sum of codes * q) * w_scale) * x_scale.
// Neither the number of tokens nor the partition over threads enters.

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/pack.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fl::cpu {
namespace {
namespace body {

#include "kernels/cpu/vec.h"

#include "kernels/cpu/dot.inl"

#include "kernels/cpu/limits.inl"

// Offsets in a record, for each token of the unit.
constexpr int64_t kScalesAt = 32;
constexpr int64_t kSumsAt = 36;
constexpr int64_t kMinusSumsAt = 40;
// With few tokens the loads themselves run far enough ahead and prefetching costs a third of the bandwidth;
// with more, the arithmetic between two lines keeps them too near (docs/decisions/0030). Then each line is
// asked for twice, first into the second-level cache: the first level's few outstanding misses, waiting for
// memory, were what held the products up (docs/decisions/0035).
constexpr int kPrefetchTokens = 6;
constexpr int64_t kPrefetchBytes = 4096;
constexpr int64_t kFarPrefetchBytes = 8192;
/// Of __builtin_prefetch: prefetcht1.
constexpr int kSecondLevel = 2;
constexpr int64_t kFloatChunk = 32;  // columns of one partial sum of the float types

/// Bits by which codes are moved up, so that every offset becomes 2^kOffsetShift and the sums that it needs
/// lie ready in a token's record. Only where the unit takes all eight bits of a code (see dot.inl).
constexpr int raised_bits(const PackFormat& f) {
  return kOffsetShift > 0 && f.offset_shift >= 0 ? kOffsetShift - f.offset_shift : 0;
}

/// Bits [at, at + width) of every byte, moved to `to`.
template <int kWidth>
FL_INLINE vu bit_field(vu line, int at, int to) {
  constexpr uint32_t kEach = 0x01010101U * ((1U << kWidth) - 1);
  const int shift = to - at;
  return (shift >= 0 ? line << shift : line >> -shift) & (kEach << to);
}

/// The codes of quad j of one group, FL_LANES rows of it, times 2^raised_bits.
template <DType D>
FL_INLINE vu codes(const uint8_t* group, int j) {
  constexpr PackFormat f = pack_format(D);
  constexpr int kUp = f.table ? 0 : raised_bits(f);
  if constexpr (f.bits == 8) {
    return load_codes(group + j * kLineBytes);
  }
  vu v{};
  if constexpr ((f.bits & 4) != 0) {
    v = bit_field<4>(load_codes(group + four_bit_plane(f) + (j & 3) * kLineBytes), j / 4 * 4, kUp);
  }
  if constexpr ((f.bits & 2) != 0) {
    v |= bit_field<2>(load_codes(group + two_bit_plane(f) + j / 4 * kLineBytes), j % 4 * 2,
                      kUp + (f.bits & 4));
  }
  if constexpr ((f.bits & 1) != 0) {
    v |= bit_field<1>(load_codes(group + one_bit_plane(f)), j, kUp + (f.bits & 6));
  }
  if constexpr (f.table) {
    v = look_up(v);
  }
  return v;
}

/// Sixteen 6-bit numbers of sixteen rows from three lines: see put_scales in pack.cpp.
FL_INLINE void unpack_six_bit(const uint8_t* lines, uint8_t* out) {
  for (int64_t i = 0; i < kLineBytes; i += 4 * FL_LANES) {
    const vu a = load_codes(lines + i);
    const vu b = load_codes(lines + kLineBytes + i);
    const vu c = load_codes(lines + 2 * kLineBytes + i);
    constexpr uint32_t kLow = 0x3F3F3F3FU;
    const vu spread = (a >> 6 & 0x03030303U) | (b >> 4 & 0x0C0C0C0CU) | (c >> 2 & 0x30303030U);
    const vu parts[4] = {a & kLow, b & kLow, c & kLow, spread};
    for (int k = 0; k < 4; ++k) {
      __builtin_memcpy(out + k * kLineBytes + i, &parts[k], sizeof(vu));
    }
  }
}

/// The sum that starts from the offset of the codes: minus 2^shift times the activations' sum.
template <int kShift, bool kBothHalves>
FL_INLINE vi offset_start(const uint8_t* minus, int64_t half_stride) {
  constexpr int kLeft = kShift - kOffsetShift;  // what the record has not done
  const vi first = splat_i(word(minus)) << kLeft;
  return kBothHalves ? first + (splat_i(word(minus + half_stride)) << kLeft) : first;
}

/// Blocks [first, last) of FL_LANES rows of a tile from `part` on. The sums of the blocks before are in
/// `out`.
template <DType D, int T>
FL_INLINE void quantised_chunk(const TileCall& call, const uint8_t* tile, int64_t first, int64_t last,
                               int64_t part, float* out) {
  constexpr PackFormat f = pack_format(D);
  constexpr int64_t kGroups = f.block_cols / kGroupCols;
  constexpr int kSubs = static_cast<int>(kGroupCols) / f.sub_cols;  // of a group
  constexpr int kRaised = raised_bits(f);
  constexpr int kDotBits = f.table ? 8 : f.bits;
  constexpr bool kOffset = f.offset_shift >= 0 && !(kSignedDot && kDotBits == 8);
  constexpr bool kIntegerScales = f.scales == Scales::int8;
  constexpr float kLower = 1.0F / static_cast<float>(1 << kRaised);
  constexpr int64_t kScaleBytes = scale_bytes(f);
  constexpr int64_t kGroupBytes = group_bytes(f);
  // NOLINTNEXTLINE(bugprone-branch-clone): the branches are equal in the instance of four only
  constexpr int kU = T < 4 ? T : 4;
  constexpr int kUnits = (T + kU - 1) / kU;
  const uint8_t* x[kUnits];
#pragma GCC unroll 4
  for (int u = 0; u < kUnits; ++u) {
    x[u] = call.x + u * call.unit_stride + first * kGroups * kTokenRecordBytes * kU;
  }
  // Of a block where scales are integers, else of the row. Sums of the row then wait in memory: there are
  // not registers for both.
  vf acc[T];
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t) {
    acc[t] = first == 0 || kIntegerScales ? vf{} : load(out + t * kTileRows);
    if constexpr (kIntegerScales) {
      if (first == 0) {
        store(out + t * kTileRows, acc[t]);
      }
    }
  }
  const Ahead::Part nothing{nullptr, nullptr};
  const Ahead::Part* part_ahead = T >= kAheadTokens && call.ahead != nullptr ? call.ahead : &nothing;
  const uint8_t* ahead = part_ahead->at;
  const uint8_t* const ahead_end = part_ahead->end;
  for (int64_t i = first; i < last; ++i) {
    const uint8_t* half = tile + halves_at(f, i) + part * 2;
    const uint8_t* block = tile + block_at(f, i) + part * 4;
    const vf d = halves(half) * kLower;
    vf m{};
    if constexpr (has_min(f.scales)) {
      m = halves(half + 2 * kTileRows);
    }
    const uint8_t* scales = block - part * 4;  // not in lanes of four bytes
    alignas(64) uint8_t unpacked[f.scales == Scales::six_bit ? 4 * kLineBytes : 1];
    if constexpr (f.scales == Scales::six_bit) {
      unpack_six_bit(scales, unpacked);
      scales = unpacked;
    }
    scales += part;
    const uint8_t* group = block + kScaleBytes;
    for (int64_t g = 0; g < kGroups; ++g, group += kGroupBytes) {
      if constexpr (T >= kPrefetchTokens) {
        for (int64_t line = 0; line < kGroupBytes; line += kLineBytes) {
          __builtin_prefetch(group + line + kFarPrefetchBytes, 0, kSecondLevel);
          __builtin_prefetch(group + line + kPrefetchBytes);
        }
      }
      if constexpr (T >= kAheadTokens) {
        if (ahead != ahead_end) {
          for (int64_t line = 0; line < kAheadBytes; line += kLineBytes) {
            __builtin_prefetch(ahead + line, 0, kSecondLevel);
          }
          ahead += kAheadBytes;
        }
      }
      Scaled scaled[T];
#pragma GCC unroll 2
      for (int sub = 0; sub < kSubs; ++sub) {
        vi sum[T];
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          sum[t] = vi{};
          if constexpr (kOffset) {
            sum[t] = offset_start<f.offset_shift + kRaised, kSubs == 1>(
                x[t / kU] + (kMinusSumsAt + 4 * sub) * kU + t % kU * 4, 4 * kU);
          }
        }
#pragma GCC unroll 4
        for (int pair = 0; pair < 4 / kSubs; ++pair) {
          // Both halves of a line of nibbles, or two quads of half a group.
          const int j0 = kSubs == 1 ? pair : 4 * sub + 2 * pair;
          const int j1 = kSubs == 1 ? pair + 4 : j0 + 1;
          const vu w0 = codes<D>(group, j0);
          const vu w1 = codes<D>(group, j1);
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) {
            const uint8_t* q = x[t / kU] + t % kU * 32;
            sum[t] = dot_pair<kDotBits>(sum[t], w0, w1, q + 4 * j0, q + 4 * j1);
          }
        }
        const int64_t s = kSubs == 2 ? 2 * g + sub : g;
        vf w_scale = d;
        vf w_min = m;
        if constexpr (f.scales == Scales::six_bit) {
          w_scale = d * to_float(unsigned_bytes(scales + s * kTileRows));
          w_min = m * to_float(unsigned_bytes(scales + (8 + s) * kTileRows));
        } else if constexpr (f.scales == Scales::nibbles) {
          const vi both = unsigned_bytes(scales + s * kTileRows);
          w_scale = d * to_float(both & 15);
          w_min = m * to_float(both >> 4);
        }
        if constexpr (kIntegerScales) {
          const Scaled scale = as_scale(signed_bytes(scales + s * kTileRows));
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) {
            const Scaled product = as_scale(sum[t]) * scale;
            scaled[t] = sub == 0 ? product : scaled[t] + product;
          }
        } else {
#pragma GCC unroll 12
          for (int t = 0; t < T; ++t) {
            const float x_scale = real(x[t / kU] + kScalesAt * kU + t % kU * 4);
            acc[t] += to_float(sum[t]) * x_scale * w_scale;
            if constexpr (f.scales == Scales::half_min) {
              acc[t] += w_min * real(x[t / kU] + kSumsAt * kU + t % kU * 4);
            } else if constexpr (f.scales == Scales::six_bit) {
              acc[t] -= w_min * real(x[t / kU] + kSumsAt * kU + t % kU * 4);
            } else if constexpr (f.scales == Scales::nibbles) {
              const int32_t minus = word(x[t / kU] + (kMinusSumsAt + 4 * sub) * kU + t % kU * 4);
              acc[t] += w_min * (static_cast<float>(minus) * (x_scale * kRecordSumUnit));
            }
          }
        }
      }
      if constexpr (kIntegerScales) {
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          acc[t] += from_scaled(scaled[t]) * real(x[t / kU] + kScalesAt * kU + t % kU * 4);
        }
      }
#pragma GCC unroll 4
      for (int u = 0; u < kUnits; ++u) {
        x[u] += kTokenRecordBytes * kU;
      }
    }
    if constexpr (kIntegerScales) {
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        float* y = out + t * kTileRows;
        store(y, load(y) + d * acc[t]);
        acc[t] = vf{};
      }
    }
  }
  if (T >= kAheadTokens && call.ahead != nullptr) {
    call.ahead->at = ahead;
  }
  if constexpr (!kIntegerScales) {
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      store(out + t * kTileRows, acc[t]);
    }
  }
}

template <DType D, int T>
void quantised_strip(const TileCall& call) {
  constexpr PackFormat f = pack_format(D);
  const int64_t n_blocks = call.cols / f.block_cols;
  const int64_t step = call.n_tiles == 1 ? n_blocks : kChunkCols / f.block_cols;
  for (int64_t first = 0; first < n_blocks; first += step) {
    const int64_t last = first + step < n_blocks ? first + step : n_blocks;
    const int64_t before = tile_bytes(f, first * f.block_cols);
    const int64_t bytes = tile_bytes(f, last * f.block_cols) - before;
    for (int64_t i = 0; i < call.n_tiles; ++i) {
      // Where the tile would begin if it were alone, which is what halves_at and block_at count from.
      const uint8_t* tile = call.strip + (call.n_tiles - 1) * before + i * bytes;
      for (int64_t part = 0; part < kTileRows; part += FL_LANES) {
        quantised_chunk<D, T>(call, tile, first, last, part, call.out + i * call.tile_stride + part);
      }
    }
  }
}

/// Twelve tokens of a type that needs more registers a token than there are for twelve.
template <DType D>
void eight_and_four(const TileCall& call) {
  quantised_strip<D, 8>(call);
  TileCall rest = call;
  rest.x += 2 * call.unit_stride;
  rest.out += 8 * kTileRows;
  quantised_strip<D, 4>(rest);
}

template <DType D>
FL_INLINE vf float_codes(const uint8_t* p) {
  if constexpr (D == DType::f32) {
    return load(reinterpret_cast<const float*>(p));
  } else if constexpr (D == DType::f16) {
    return halves(p);
  } else {
    return reinterpret_cast<vf>(unsigned_words(p) << 16);
  }
}

template <DType D, int T>
void float_tile(const TileCall& call) {
  constexpr int64_t kElem = pack_format(D).elem_bytes;
  // NOLINTNEXTLINE(bugprone-branch-clone): the branches are equal in the instance of four only
  constexpr int kU = T < 4 ? T : 4;
  constexpr int kUnits = (T + kU - 1) / kU;
  for (int64_t part = 0; part < kTileRows; part += FL_LANES) {
    const uint8_t* w = call.strip + part * kElem;
    const uint8_t* x[kUnits];
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u) {
      x[u] = call.x + u * call.unit_stride;
    }
    vf acc[T];
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      acc[t] = vf{};
    }
    for (int64_t first = 0; first < call.cols; first += kFloatChunk) {
      const int64_t last = first + kFloatChunk < call.cols ? first + kFloatChunk : call.cols;
      vf sum[T];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        sum[t] = vf{};
      }
      for (int64_t c = first; c < last; ++c, w += kTileRows * kElem) {
        const vf v = float_codes<D>(w);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          sum[t] += v * real(x[t / kU] + t % kU * 4);
        }
#pragma GCC unroll 4
        for (int u = 0; u < kUnits; ++u) {
          x[u] += kU * 4;
        }
      }
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        acc[t] += sum[t];
      }
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      store(call.out + t * kTileRows + part, acc[t]);
    }
  }
}

template <DType D, int T>
constexpr TileFn tile_of() {
  if constexpr (pack_format(D).bits == 0) {
    return float_tile<D, T>;
  } else if constexpr (pack_format(D).scales == Scales::int8 && T == 12) {
    return eight_and_four<D>;
  } else {
    return quantised_strip<D, T>;
  }
}

template <DType D>
TileFn pick(int n) {
#if FL_TOKENS == 12
  constexpr TileFn kFns[] = {tile_of<D, 1>(),  tile_of<D, 2>(),  tile_of<D, 4>(),  tile_of<D, 4>(),
                             tile_of<D, 6>(),  tile_of<D, 6>(),  tile_of<D, 8>(),  tile_of<D, 8>(),
                             tile_of<D, 12>(), tile_of<D, 12>(), tile_of<D, 12>(), tile_of<D, 12>()};
#else
  constexpr TileFn kFns[] = {tile_of<D, 1>(), tile_of<D, 2>(), tile_of<D, 4>(), tile_of<D, 4>()};
#endif
  return kFns[n - 1];
}

TileFn tile_fn(DType type, int n, int64_t unit) {
  if (unit == kMaxUnit && n < kMaxUnit) {
    n = kMaxUnit;
  }
  switch (type) {
    case DType::f32:
      return pick<DType::f32>(n);
    case DType::f16:
      return pick<DType::f16>(n);
    case DType::bf16:
      return pick<DType::bf16>(n);
    case DType::q4_0:
      return pick<DType::q4_0>(n);
    case DType::q4_1:
      return pick<DType::q4_1>(n);
    case DType::q5_0:
      return pick<DType::q5_0>(n);
    case DType::q5_1:
      return pick<DType::q5_1>(n);
    case DType::q8_0:
      return pick<DType::q8_0>(n);
    case DType::q2_k:
      return pick<DType::q2_k>(n);
    case DType::q3_k:
      return pick<DType::q3_k>(n);
    case DType::q4_k:
      return pick<DType::q4_k>(n);
    case DType::q5_k:
      return pick<DType::q5_k>(n);
    case DType::q6_k:
      return pick<DType::q6_k>(n);
    case DType::iq4_nl:
      return pick<DType::iq4_nl>(n);
    case DType::iq4_xs:
      return pick<DType::iq4_xs>(n);
  }
  return nullptr;
}

FL_INLINE float largest_of(vi bits) {
#if FL_LANES == 16
  const int32_t top = _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(bits));
  float largest;
  __builtin_memcpy(&largest, &top, sizeof(largest));
  return largest;
#endif
  int32_t a[kLanes];
  __builtin_memcpy(a, &bits, sizeof(bits));
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      a[i] = a[i] > a[i + half] ? a[i] : a[i + half];
    }
  }
  float value;
  __builtin_memcpy(&value, a, sizeof(value));
  return value;
}

/// Symmetric, 127 steps to the largest magnitude of the 32. The nearest integer comes from adding 1.5 * 2^23.
void quantise(const float* x, int64_t stride, int64_t line_stride, int64_t begin, int64_t end, int64_t n,
              int64_t first, int64_t last, int64_t unit, uint8_t* out) {
  constexpr float kRound = 12582912.0F;
  constexpr float kTiny = 1e-35F;  // 127 / kTiny is finite
  constexpr float kHuge = 3.4e38F;
  constexpr int64_t kVecs = kGroupCols / FL_LANES;
  constexpr int64_t kLine = kGroupCols / 2;
  for (int64_t t = begin; t < end; ++t) {
    const float* line = x + t * stride;
    for (int64_t g = first; g < last; ++g, line += 2 * line_stride) {
      uint8_t* record = out + g * kTokenRecordBytes * unit;
      if (t >= n) {
        __builtin_memset(record + t * 32, 0, 32);
        for (int64_t at = kScalesAt; at < kTokenRecordBytes; at += 4) {
          __builtin_memset(record + at * unit + t * 4, 0, 4);
        }
        continue;
      }
      vf v[kVecs];
      vi top{};  // magnitudes as integers: the same order, and NaN above infinity
      for (int64_t i = 0; i < kVecs; ++i) {
        v[i] = load(line + i * FL_LANES / kLine * line_stride + i * FL_LANES % kLine);
        const vi magnitude = reinterpret_cast<vi>(v[i]) & 0x7FFFFFFF;
        top = magnitude > top ? magnitude : top;
      }
      const float largest = largest_of(top);
      const float scale = largest / 127.0F;  // not finite if an element is not: then so are the products
      const float inverse = largest > kTiny && largest < kHuge ? 127.0F / largest : 0.0F;
      int32_t sums[2] = {0, 0};
      for (int64_t i = 0; i < kVecs; ++i) {
        const vf shifted = v[i] * inverse + kRound;
        vi q = reinterpret_cast<vi>(shifted) - 0x4B400000;
        q = q > 127 ? splat_i(127) : q;  // NaN
        q = q < -127 ? splat_i(-127) : q;
        sums[i * FL_LANES / kLine] +=
            store_bytes(reinterpret_cast<int8_t*>(record) + t * 32 + i * FL_LANES, q);
      }
      const float real_sum = scale * static_cast<float>(sums[0] + sums[1]);
      const int32_t minus[2] = {-(sums[0] << kOffsetShift), -(sums[1] << kOffsetShift)};
      __builtin_memcpy(record + kScalesAt * unit + t * 4, &scale, 4);
      __builtin_memcpy(record + kSumsAt * unit + t * 4, &real_sum, 4);
      __builtin_memcpy(record + kMinusSumsAt * unit + t * 4, &minus[0], 4);
      __builtin_memcpy(record + (kMinusSumsAt + 4) * unit + t * 4, &minus[1], 4);
    }
  }
}

void put(const float* sums, int64_t n, float* y, int64_t stride, bool accumulate) {
  for (int64_t t = 0; t < n; ++t, sums += kTileRows, y += stride) {
    for (int64_t i = 0; i < kTileRows; i += kLanes) {
      const vf v = load(sums + i);
      store(y + i, accumulate ? load(y + i) + v : v);
    }
  }
}

void put_past_caches(const float* sums, int64_t n, float* y, int64_t stride) {
  for (int64_t t = 0; t < n; ++t, sums += kTileRows, y += stride) {
    for (int64_t i = 0; i < kTileRows; i += kLanes) {
      stream(y + i, load(sums + i));
    }
  }
}

void largest(const float* sums, int64_t n, int64_t stride, float* out) {
  const vf inf = splat(__builtin_inff());
  for (int64_t t = 0; t < n; ++t, sums += kTileRows) {
    vf top = splat(-__builtin_inff());
    for (int64_t i = 0; i < kTileRows; i += kLanes) {
      const vf v = load(sums + i);
      const vf finite = v < inf ? v : inf;  // infinity for a NaN too
      top = finite > top ? finite : top;
    }
    const float max = max_lanes(top);
    out[t * stride] = max < __builtin_inff() ? max : __builtin_nanf("");
  }
}

}  // namespace body
}  // namespace

const MatmulTable FL_TABLE = {FL_TOKENS,        body::tile_fn,         body::quantise,
                              body::put,        body::put_past_caches, body::largest,
                              body::read_bytes, body::spin_int8,       body::spin_f32};

}  // namespace fl::cpu
