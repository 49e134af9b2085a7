// Integer dot products on vectors of FL_LANES lanes of four bytes. Included by matmul_kernels.inl after
// vec.h.

using vu = uint32_t __attribute__((vector_size(4 * FL_LANES)));

FL_INLINE vu load_codes(const uint8_t* p) {
  vu v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
FL_INLINE int32_t word(const uint8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
FL_INLINE float real(const uint8_t* p) {
  float v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
FL_INLINE vi splat_i(int32_t x) {
  return x - vi{};
}
FL_INLINE vf to_float(vi v) {
  return __builtin_convertvector(v, vf);
}

#if FL_LANES != 16
FL_INLINE int32_t sum_of(vi v) {
  int32_t a[kLanes];
  __builtin_memcpy(a, &v, sizeof(v));
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      a[i] += a[i + half];
    }
  }
  return a[0];
}
#endif

#if FL_LANES == 16

constexpr bool kSignedDot = false;
/// The records' sums of activations are times minus 2^this; codes are raised until their offset is it.
constexpr int kOffsetShift = 7;
/// Sums times integer scales: 32 columns of at most 2^7 * 127 and scales of at most 2^7 fit.
using Scaled = vi;
FL_INLINE Scaled as_scale(vi v) {
  return v;
}
FL_INLINE vf from_scaled(Scaled v) {
  return to_float(v);
}

/// FL_LANES small integers to lanes; __builtin_convertvector goes through scalars for these.
FL_INLINE vi signed_bytes(const uint8_t* p) {
  return reinterpret_cast<vi>(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
FL_INLINE vi unsigned_bytes(const uint8_t* p) {
  return reinterpret_cast<vi>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
FL_INLINE vu unsigned_words(const uint8_t* p) {
  return reinterpret_cast<vu>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
/// FL_LANES numbers of a signed byte each; their sum.
FL_INLINE int32_t store_bytes(int8_t* p, vi v) {
  const __m128i bytes = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  const __m128i raised = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
  const __m128i sums = _mm_sad_epu8(raised, _mm_setzero_si128());  // of eight each
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
}
/// Past the caches; p is a multiple of the vector's size.
FL_INLINE void stream(float* p, vf v) {
  _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
}
FL_INLINE vf halves(const uint8_t* p) {
  return reinterpret_cast<vf>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
FL_INLINE vu look_up(vu index) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Codes)));
  return reinterpret_cast<vu>(_mm512_shuffle_epi8(table, reinterpret_cast<__m512i>(index)));
}
/// Written out because GCC 12 does not let vpdpbusd broadcast what it reads: it loads four columns of x to a
/// register of their own first, one more instruction and register for every product (docs/decisions/0034).
FL_INLINE vi dot(vi acc, vu w, const uint8_t* x) {
  using Word __attribute__((may_alias, aligned(1))) = const int32_t;
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*reinterpret_cast<Word*>(x)));
  return acc;
}
template <int kBits>
FL_INLINE vi dot_pair(vi acc, vu w0, vu w1, const uint8_t* x0, const uint8_t* x1) {
  return dot(dot(acc, w0, x0), w1, x1);
}

#elif FL_LANES == 8

// Eight-bit codes would saturate the 16-bit sums of two products: they become signed again and lend their
// sign to x.
constexpr bool kSignedDot = true;
constexpr int kOffsetShift = 0;  // raised codes would saturate too

FL_INLINE vi signed_bytes(const uint8_t* p) {
  return reinterpret_cast<vi>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
FL_INLINE vi unsigned_bytes(const uint8_t* p) {
  return reinterpret_cast<vi>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
FL_INLINE vu unsigned_words(const uint8_t* p) {
  return reinterpret_cast<vu>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
FL_INLINE int32_t store_bytes(int8_t* p, vi v) {
  const __m256i words = _mm256_packs_epi32(reinterpret_cast<__m256i>(v), reinterpret_cast<__m256i>(v));
  const __m256i bytes = _mm256_packs_epi16(words, words);
  const int32_t low = _mm256_extract_epi32(bytes, 0);
  const int32_t high = _mm256_extract_epi32(bytes, 4);
  __builtin_memcpy(p, &low, 4);
  __builtin_memcpy(p + 4, &high, 4);
  return sum_of(v);
}
FL_INLINE void stream(float* p, vf v) {
  _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
}
FL_INLINE vf halves(const uint8_t* p) {
  return reinterpret_cast<vf>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
FL_INLINE vu look_up(vu index) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Codes)));
  return reinterpret_cast<vu>(_mm256_shuffle_epi8(table, reinterpret_cast<__m256i>(index)));
}
template <int kBits>
FL_INLINE vi dot_pair(vi acc, vu w0, vu w1, const uint8_t* x0, const uint8_t* x1) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i a = reinterpret_cast<__m256i>(w0);
  const __m256i b = reinterpret_cast<__m256i>(w1);
  const __m256i xa = _mm256_set1_epi32(word(x0));
  const __m256i xb = _mm256_set1_epi32(word(x1));
  if constexpr (kBits == 8) {
    const __m256i flip = _mm256_set1_epi8(-128);
    const __m256i sa = _mm256_xor_si256(a, flip);
    const __m256i sb = _mm256_xor_si256(b, flip);
    const __m256i pa = _mm256_maddubs_epi16(_mm256_abs_epi8(sa), _mm256_sign_epi8(xa, sa));
    const __m256i pb = _mm256_maddubs_epi16(_mm256_abs_epi8(sb), _mm256_sign_epi8(xb, sb));
    return acc + reinterpret_cast<vi>(_mm256_madd_epi16(pa, ones)) +
           reinterpret_cast<vi>(_mm256_madd_epi16(pb, ones));
  } else {  // 2 * (2 * 63 * 127) < 2^15
    const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(a, xa), _mm256_maddubs_epi16(b, xb));
    return acc + reinterpret_cast<vi>(_mm256_madd_epi16(sum, ones));
  }
}

#else

constexpr bool kSignedDot = false;
constexpr int kOffsetShift = 0;

FL_INLINE vi signed_bytes(const uint8_t* p) {
  vi v{};
  for (int i = 0; i < FL_LANES; ++i) {
    v[i] = static_cast<int8_t>(p[i]);
  }
  return v;
}
FL_INLINE vi unsigned_bytes(const uint8_t* p) {
  vi v{};
  for (int i = 0; i < FL_LANES; ++i) {
    v[i] = p[i];
  }
  return v;
}
FL_INLINE vu unsigned_words(const uint8_t* p) {
  vu v{};
  for (int i = 0; i < FL_LANES; ++i) {
    v[i] = static_cast<uint32_t>(p[2 * i] | p[2 * i + 1] << 8);
  }
  return v;
}
FL_INLINE int32_t store_bytes(int8_t* p, vi v) {
  for (int i = 0; i < FL_LANES; ++i) {
    p[i] = static_cast<int8_t>(v[i]);
  }
  return sum_of(v);
}
FL_INLINE void stream(float* p, vf v) {
#if defined(__SSE__)
  _mm_stream_ps(p, reinterpret_cast<__m128>(v));
#else
  store(p, v);
#endif
}
/// As f16_to_float of core/half.h, lane by lane.
FL_INLINE vf halves(const uint8_t* p) {
  float a[FL_LANES];
  for (int i = 0; i < FL_LANES; ++i) {
    const uint32_t half = static_cast<uint32_t>(p[2 * i] | p[2 * i + 1] << 8);
    const uint32_t sign = (half & 0x8000U) << 16;
    const uint32_t magnitude = half & 0x7FFFU;
    uint32_t bits = sign;
    if (magnitude >= 0x7C00U) {
      bits |= 0x7F800000U | (magnitude & 0x3FFU) << 13;
    } else if (magnitude < 0x0400U) {
      const float small = static_cast<float>(magnitude) * 0x1p-24F;
      uint32_t small_bits;
      __builtin_memcpy(&small_bits, &small, sizeof(small_bits));
      bits |= small_bits;
    } else {
      bits |= (magnitude << 13) + 0x38000000U;
    }
    __builtin_memcpy(&a[i], &bits, sizeof(float));
  }
  return load(a);
}
FL_INLINE vu look_up(vu index) {
  uint8_t in[4 * FL_LANES];
  __builtin_memcpy(in, &index, sizeof(in));
  for (uint8_t& byte : in) {
    byte = kIq4Codes[byte & 15];
  }
  return load_codes(in);
}
#if defined(__SSE2__)
FL_INLINE vi dot(vi acc, vu w, const uint8_t* x) {
  const __m128i xs = _mm_set1_epi32(word(x));
  const __m128i x_even = _mm_srai_epi16(_mm_slli_epi16(xs, 8), 8);
  const __m128i x_odd = _mm_srai_epi16(xs, 8);
  const __m128i even = reinterpret_cast<__m128i>(w & 0x00FF00FFU);
  const __m128i odd = reinterpret_cast<__m128i>(w >> 8 & 0x00FF00FFU);
  return acc + reinterpret_cast<vi>(_mm_madd_epi16(even, x_even)) +
         reinterpret_cast<vi>(_mm_madd_epi16(odd, x_odd));
}
#else
FL_INLINE vi dot(vi acc, vu w, const uint8_t* x) {
  for (int byte = 0; byte < 4; ++byte) {
    acc += reinterpret_cast<vi>(w >> (8 * byte) & 0xFFU) * splat_i(static_cast<int8_t>(x[byte]));
  }
  return acc;
}
#endif
template <int kBits>
FL_INLINE vi dot_pair(vi acc, vu w0, vu w1, const uint8_t* x0, const uint8_t* x1) {
  return dot(dot(acc, w0, x0), w1, x1);
}

#endif

/// The factor that turns a record's sum of activations into their sum.
constexpr float kRecordSumUnit = 1.0F / static_cast<float>(1 << kOffsetShift);

#if FL_LANES != 16
/// Sums times integer scales, in floats: exact, and the multiplication of integers is slow or missing.
using Scaled = vf;
FL_INLINE Scaled as_scale(vi v) {
  return to_float(v);
}
FL_INLINE vf from_scaled(Scaled v) {
  return v;
}
#endif
