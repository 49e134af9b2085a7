// Scores and sums of values of a q8_0 cache in integers, where the machine multiplies bytes (VNNI). Queries
// and softmax weights become 16-bit integers in two planes of bytes, each of which meets the cache's bytes:
// what that loses is below the rounding of a float sum, and no byte of the cache is ever converted. Included
// by ops_<isa>.cpp after half.inl; the layout is in attention.h.

#if FL_LANES == 16 && defined(__AVX512VNNI__)

#define FL_INTEGER_ATTENTION 1

using vu = uint32_t __attribute__((vector_size(4 * FL_LANES)));

constexpr float kNearest = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
constexpr int32_t kNearestBits = 0x4B400000;
constexpr int32_t kQueryMax = 127 * 256 + 127;  // both bytes signed
constexpr float kWeightMax = 65535.0F;          // both bytes unsigned
constexpr float kSmallestWeight = 1e-30F;       // kWeightMax over it is finite

/// Queries [rows] as v = 256 * high + low, q = v * scale.
struct QueryBytes {
  int8_t* high;     ///< [rows][head_dim]
  int8_t* low;      ///< [rows][head_dim]
  int32_t* starts;  ///< [rows][head_dim / kKvQuantGroup][2]: -128 times the sums of high and low
  float* scale;     ///< [rows]
};

FL_INLINE vi dot_bytes(vi sum, vu unsigned_bytes, vu signed_bytes) {
  return reinterpret_cast<vi>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                  reinterpret_cast<__m512i>(unsigned_bytes),
                                                  reinterpret_cast<__m512i>(signed_bytes)));
}
FL_INLINE vu load_line(const void* p) {
  vu v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
FL_INLINE vu splat_word(const void* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word - vu{};
}
FL_INLINE void store_low_bytes(void* p, vi v) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
}
FL_INLINE int32_t sum_lanes_i(vi v) {
  return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(v));
}

FL_INLINE void quantise_queries(int64_t rows, int64_t hd, const float* q, const QueryBytes& out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = q + r * hd;
    vf largest{};
    for (int64_t d = 0; d < hd; d += kLanes) {
      const vf x = load(row + d);
      const vf magnitude = x < 0.0F ? -x : x;
      largest = magnitude > largest ? magnitude : largest;
    }
    const float top = max_lanes(largest);
    out.scale[r] = top / static_cast<float>(kQueryMax);
    const float inverse = top > kSmallestWeight ? static_cast<float>(kQueryMax) / top : 0.0F;
    for (int64_t g = 0; g < hd / kKvQuantGroup; ++g) {
      int32_t high_sum = 0;
      int32_t low_sum = 0;
      for (int64_t d = g * kKvQuantGroup; d < (g + 1) * kKvQuantGroup; d += kLanes) {
        vi v = reinterpret_cast<vi>(load(row + d) * inverse + kNearest) - kNearestBits;
        v = v > kQueryMax ? kQueryMax - vi{} : v;  // NaN
        v = v < -kQueryMax ? -kQueryMax - vi{} : v;
        const vi low = v << 24 >> 24;
        const vi high = (v - low) >> 8;
        store_low_bytes(out.high + r * hd + d, high);
        store_low_bytes(out.low + r * hd + d, low);
        high_sum += sum_lanes_i(high);
        low_sum += sum_lanes_i(low);
      }
      int32_t* starts = out.starts + (r * (hd / kKvQuantGroup) + g) * 2;
      starts[0] = -128 * high_sum;
      starts[1] = -128 * low_sum;
    }
  }
}

/// Scores [kRows][kKvBlock] of rows r, r + 1, ...
template <int kRows>
FL_INLINE void score_rows(const std::byte* keys, int64_t hd, int64_t r, const QueryBytes& q, float* scores) {
  constexpr int kVectors = static_cast<int>(kKvBlock / kLanes);
  const int64_t groups = hd / kKvQuantGroup;
  const auto* scales = reinterpret_cast<const uint16_t*>(keys + hd * kKvBlock);
  vf sum[kRows][kVectors] = {};
  for (int64_t g = 0; g < groups; ++g) {
    vi high[kRows][kVectors];
    vi low[kRows][kVectors];
    for (int i = 0; i < kRows; ++i) {
      const int32_t* starts = q.starts + ((r + i) * groups + g) * 2;
      for (int v = 0; v < kVectors; ++v) {
        high[i][v] = starts[0] - vi{};
        low[i][v] = starts[1] - vi{};
      }
    }
    for (int64_t d = g * kKvQuantGroup; d < (g + 1) * kKvQuantGroup; d += 4) {
      vu line[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        line[v] = load_line(keys + d * kKvBlock + v * kLanes * 4);
      }
      for (int i = 0; i < kRows; ++i) {
        const vu q_high = splat_word(q.high + (r + i) * hd + d);
        const vu q_low = splat_word(q.low + (r + i) * hd + d);
        for (int v = 0; v < kVectors; ++v) {
          high[i][v] = dot_bytes(high[i][v], line[v], q_high);
          low[i][v] = dot_bytes(low[i][v], line[v], q_low);
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const vf scale = load_half(scales + g * kKvBlock + v * kLanes);
      for (int i = 0; i < kRows; ++i) {
        sum[i][v] = sum[i][v] + __builtin_convertvector((high[i][v] << 8) + low[i][v], vf) * scale;
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      store(scores + i * kKvBlock + v * kLanes, sum[i][v] * q.scale[r + i]);
    }
  }
}

FL_INLINE void score_block_q8(const std::byte* keys, int64_t hd, int64_t first, int64_t rows,
                              const QueryBytes& q, float* scores) {
  int64_t r = 0;
  for (; r + 2 <= rows; r += 2) {
    score_rows<2>(keys, hd, first + r, q, scores + r * kKvBlock);
  }
  if (r < rows) {
    score_rows<1>(keys, hd, first + r, q, scores + r * kKvBlock);
  }
}

/// Softmax weights times the scales of one group of dims, as 256 * high + low; returns the factor. A weight
/// of zero stays zero whatever the scale is: behind the last token there is anything.
FL_INLINE float weight_bytes(const float* weights, const uint16_t* scales, uint8_t* high, uint8_t* low) {
  constexpr int kVectors = static_cast<int>(kKvBlock / kLanes);
  vf w[kVectors];
  vf largest{};
  for (int v = 0; v < kVectors; ++v) {
    const vf p = load(weights + v * kLanes);
    w[v] = p > 0.0F ? p * load_half(scales + v * kLanes) : vf{};
    largest = w[v] > largest ? w[v] : largest;
  }
  const float top = max_lanes(largest);
  const float inverse = top > kSmallestWeight ? kWeightMax / top : 0.0F;
  for (int v = 0; v < kVectors; ++v) {
    const vi whole = reinterpret_cast<vi>(w[v] * inverse + kNearest) - kNearestBits;
    store_low_bytes(high + v * kLanes, whole >> 8);
    store_low_bytes(low + v * kLanes, whole);
  }
  return top / kWeightMax;
}

/// o [kRows][head_dim] += weights [kRows][kKvBlock] times the first n_keys values.
template <int kRows>
FL_INLINE void value_rows(const std::byte* values, int64_t hd, int64_t n_keys, const float* weights,
                          float* o) {
  constexpr int kVectors = static_cast<int>(kKvQuantGroup / kLanes);
  const auto* scales = reinterpret_cast<const uint16_t*>(values + hd * kKvBlock);
  alignas(64) uint8_t high[kRows][kKvBlock];
  alignas(64) uint8_t low[kRows][kKvBlock];
  float factor[kRows];
  for (int64_t g = 0; g < hd / kKvQuantGroup; ++g) {
    vi high_sum[kRows][kVectors] = {};
    vi low_sum[kRows][kVectors] = {};
    for (int i = 0; i < kRows; ++i) {
      factor[i] = weight_bytes(weights + i * kKvBlock, scales + g * kKvBlock, high[i], low[i]);
    }
    const std::byte* at = values + g * kKvQuantGroup * 4;
    for (int64_t t = 0; t < n_keys; t += 4, at += hd * 4) {
      for (int v = 0; v < kVectors; ++v) {
        const vu line = load_line(at + v * kLanes * 4);
        for (int i = 0; i < kRows; ++i) {
          high_sum[i][v] = dot_bytes(high_sum[i][v], splat_word(high[i] + t), line);
          low_sum[i][v] = dot_bytes(low_sum[i][v], splat_word(low[i] + t), line);
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        float* to = o + i * hd + g * kKvQuantGroup + v * kLanes;
        store(to, load(to) + __builtin_convertvector((high_sum[i][v] << 8) + low_sum[i][v], vf) * factor[i]);
      }
    }
  }
}

FL_INLINE void add_values_q8(const std::byte* values, int64_t hd, int64_t n_keys, int64_t rows,
                             const float* weights, float* o) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    value_rows<4>(values, hd, n_keys, weights + r * kKvBlock, o + r * hd);
  }
  for (; r + 2 <= rows; r += 2) {
    value_rows<2>(values, hd, n_keys, weights + r * kKvBlock, o + r * hd);
  }
  if (r < rows) {
    value_rows<1>(values, hd, n_keys, weights + r * kKvBlock, o + r * hd);
  }
}

#endif
