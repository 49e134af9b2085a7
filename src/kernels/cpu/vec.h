// Vectors of float for kernels written once and compiled for several instruction sets: included only by the
// ops_<isa>.cpp files, inside their own namespace, so that no function compiled for a large instruction set
// can stand in for one compiled for a smaller. For the same reason nothing here uses the standard library's
// templates.
//
// GCC's vector extension gives lanes; FL_LANES is the width the including file compiles for.

using vf = float __attribute__((vector_size(4 * FL_LANES)));
using vi = int32_t __attribute__((vector_size(4 * FL_LANES)));
constexpr int64_t kLanes = FL_LANES;

#define FL_INLINE static inline __attribute__((always_inline))

FL_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
FL_INLINE void store(float* p, vf v) {
  __builtin_memcpy(p, &v, sizeof(v));
}
FL_INLINE vf splat(float x) {
  return x - vf{};
}
FL_INLINE float min_f(float a, float b) {
  return a < b ? a : b;
}
FL_INLINE float max_f(float a, float b) {
  return a > b ? a : b;
}

/// The sum of the lanes, halves first: one fixed order.
FL_INLINE float sum_lanes(vf v) {
#if FL_LANES == 16 && defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));  // in the same order
#else
  float a[kLanes];
  store(a, v);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      a[i] += a[i + half];
    }
  }
  return a[0];
#endif
}
FL_INLINE float max_lanes(vf v) {
#if FL_LANES == 16 && defined(__AVX512F__)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
#else
  float a[kLanes];
  store(a, v);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      a[i] = max_f(a[i], a[i + half]);
    }
  }
  return a[0];
#endif
}

/// e^x with an error of about one unit in the last place; exactly 1 at 0, exactly 0 below -87.3, inf
/// above 88.7. NaN stays NaN. Range reduction by ln 2 in two parts, then the Taylor series to the seventh
/// power on |r| <= 0.35.
FL_INLINE vf exp_v(vf x) {
  constexpr float kLow = -87.3F;
  constexpr float kHigh = 88.7F;
  const vf clamped = x < kLow ? splat(kLow) : (x > kHigh ? splat(kHigh) : x);
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const vf shifted = clamped * 1.44269504F + kRound;
  const vf n = shifted - kRound;
  vf r = clamped - n * 0.693359375F;
  r = r + n * 2.12194440e-4F;
  vf p = r * (1.0F / 5040.0F) + (1.0F / 720.0F);
  p = p * r + (1.0F / 120.0F);
  p = p * r + (1.0F / 24.0F);
  p = p * r + (1.0F / 6.0F);
  p = p * r + 0.5F;
  p = p * (r * r) + r;
  p = p + 1.0F;
  // Two factors of 2^(n/2): n = 128 alone has no float.
  const vi whole = __builtin_convertvector(n, vi);
  const vi half = whole >> 1;
  const vi rest = whole - half;
  const vf scale_a = reinterpret_cast<vf>((half + 127) << 23);
  const vf scale_b = reinterpret_cast<vf>((rest + 127) << 23);
  vf y = p * scale_a * scale_b;
  y = x < kLow ? vf{} : y;
  y = x > kHigh ? splat(__builtin_inff()) : y;
  return x == x ? y : x;
}
FL_INLINE vf sigmoid_v(vf x) {
  return 1.0F / (1.0F + exp_v(-x));
}
FL_INLINE vf silu_v(vf x) {
  return x / (1.0F + exp_v(-x));
}

/// A vector of n < kLanes values padded with zeros, and back.
FL_INLINE vf load_part(const float* p, int64_t n) {
  float a[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    a[i] = p[i];
  }
  return load(a);
}
FL_INLINE void store_part(float* p, vf v, int64_t n) {
  float a[kLanes];
  store(a, v);
  for (int64_t i = 0; i < n; ++i) {
    p[i] = a[i];
  }
}
