// Loops that do nothing but what the limit is about. Included by matmul_kernels.inl.

#if defined(__x86_64__)
#define FL_OPAQUE(v) asm volatile("" : "+v"(v))
#elif defined(__aarch64__)
#define FL_OPAQUE(v) asm volatile("" : "+w"(v))
#else
#define FL_OPAQUE(v) asm volatile("" : "+m"(v))
#endif

constexpr int kSpinAccumulators = FL_LANES == 16 ? 16 : 8;  // enough to hide the latency of the unit

/// Reads n bytes (a multiple of 64) once, with independent loads.
void read_bytes(const uint8_t* p, int64_t n) {
  constexpr int64_t kVec = 4 * FL_LANES;
  constexpr int64_t kAhead = 2048;
  vu sums[4] = {};
  for (int64_t i = 0; i < n; i += kLineBytes) {
    __builtin_prefetch(p + i + kAhead);
    for (int64_t j = 0; j < kLineBytes; j += kVec) {
      sums[j / kVec] += load_codes(p + i + j);
    }
  }
  for (vu& sum : sums) {
    FL_OPAQUE(sum);
  }
}

/// `steps` times one dot product into each accumulator; the operations of a step.
int64_t spin_int8(int64_t steps) {
  vi acc[kSpinAccumulators] = {};
  for (vi& sum : acc) {
    FL_OPAQUE(sum);  // or all would be one
  }
  const uint8_t x[8] = {1, 1, 1, 1, 2, 2, 2, 2};
  vu w{};
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (int a = 0; a < kSpinAccumulators; ++a) {
      FL_OPAQUE(w);  // or the products would be taken out of the loop
      acc[a] = dot_pair<4>(acc[a], w, w, x, x + 4);
    }
  }
  for (vi& sum : acc) {
    FL_OPAQUE(sum);
  }
  return int64_t{kSpinAccumulators} * 2 * FL_LANES * 4 * 2;
}

int64_t spin_f32(int64_t steps) {
  vf acc[kSpinAccumulators] = {};
  for (vf& sum : acc) {
    FL_OPAQUE(sum);  // or all would be one
  }
  vf w{};
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (int a = 0; a < kSpinAccumulators; ++a) {
      FL_OPAQUE(w);
      acc[a] += acc[a] * w;
    }
  }
  for (vf& sum : acc) {
    FL_OPAQUE(sum);
  }
  return int64_t{kSpinAccumulators} * FL_LANES * 2;
}
