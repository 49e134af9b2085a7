// Conversions of f16 and bf16 for the KV cache; round to nearest even, with overflow to the largest finite
// f16. Included by ops_<isa>.cpp after vec.h.

constexpr float kMaxHalf = 65504.0F;

FL_INLINE uint32_t bits_of(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, sizeof(u));
  return u;
}
FL_INLINE float float_of(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, sizeof(x));
  return x;
}

FL_INLINE float half_to_float(uint16_t h) {
#ifdef __F16C__
  return _cvtsh_ss(h);
#else
  const uint32_t sign = (h & 0x8000U) << 16;
  const uint32_t exponent = (h >> 10) & 31U;
  const uint32_t mantissa = h & 1023U;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return float_of(sign | bits_of(magnitude));
  }
  if (exponent == 31) {
    return float_of(sign | 0x7F800000U | (mantissa << 13));
  }
  return float_of(sign | ((exponent + 112U) << 23) | (mantissa << 13));
#endif
}

FL_INLINE uint16_t float_to_half(float x) {
  x = x > kMaxHalf ? kMaxHalf : (x < -kMaxHalf ? -kMaxHalf : x);
#ifdef __F16C__
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const uint32_t u = bits_of(x);
  const uint32_t sign = (u >> 16) & 0x8000U;
  if (x != x) {
    return static_cast<uint16_t>(sign | 0x7E00U);
  }
  const uint32_t magnitude = u & 0x7FFFFFFFU;
  if (magnitude < 0x38800000U) {  // below 2^-14: a multiple of 2^-24, rounded by the float adder
    const float shifted = float_of(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (bits_of(shifted) - 0x3F000000U));
  }
  const uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
#endif
}

FL_INLINE float bfloat_to_float(uint16_t b) {
  return float_of(static_cast<uint32_t>(b) << 16);
}
FL_INLINE uint16_t float_to_bfloat(float x) {
  const uint32_t u = bits_of(x);
  if (x != x) {
    return static_cast<uint16_t>((u >> 16) | 0x40U);
  }
  return static_cast<uint16_t>((u + 0x7FFFU + ((u >> 16) & 1U)) >> 16);
}

/// kLanes values of a row.
FL_INLINE vf load_half(const uint16_t* p) {
#if FL_LANES == 16 && defined(__AVX512F__)
  return reinterpret_cast<vf>(
      _mm512_maskz_cvtph_ps(0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif FL_LANES == 8 && defined(__F16C__)
  return reinterpret_cast<vf>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  float a[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    a[i] = half_to_float(p[i]);
  }
  return load(a);
#endif
}
FL_INLINE vf load_bfloat(const uint16_t* p) {
#if FL_LANES == 16 && defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_slli_epi32(
      0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))),
      16));
#elif FL_LANES == 8 && defined(__AVX2__)
  return reinterpret_cast<vf>(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
#else
  float a[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    a[i] = bfloat_to_float(p[i]);
  }
  return load(a);
#endif
}
FL_INLINE vf load_int8(const int8_t* p) {
#if FL_LANES == 16 && defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_cvtepi32_ps(
      0xFFFF, _mm512_maskz_cvtepi8_epi32(0xFFFF, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
#elif FL_LANES == 8 && defined(__AVX2__)
  return reinterpret_cast<vf>(
      _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
#else
  float a[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    a[i] = static_cast<float>(p[i]);
  }
  return load(a);
#endif
}
