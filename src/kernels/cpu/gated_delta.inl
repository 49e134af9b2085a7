// The gated delta rule of one value head, recurrent and chunked. Contract: gated_delta.h.
// Included by ops_<isa>.cpp after gemm_f32.inl and rows.inl.

// The shape's own helpers are not called here: an out-of-line copy would carry this file's instruction set.
FL_INLINE int64_t qk_channels(const DeltaShape& shape) {
  return shape.n_key_heads * shape.key_dim;
}

/// What one chunk needs, all rows of kDeltaChunk tokens at most.
struct DeltaScratch {
  float* q;      ///< [chunk][dk] normalised, scaled
  float* k;      ///< [chunk][dk] normalised
  float* kt;     ///< [dk][chunk] keys transposed
  float* d;      ///< [chunk][dv] the solution D
  float* o;      ///< [chunk][dv]
  float* l;      ///< [chunk][chunk] strictly lower triangle of L
  float* p;      ///< [chunk][chunk] decayed scores, lower triangle with diagonal
  float* beta;   ///< [chunk]
  float* g;      ///< [chunk] log decay of a token
  float* decay;  ///< [chunk] e^(c_i)
};

FL_INLINE DeltaScratch carve(const DeltaShape& shape, float* at) {
  DeltaScratch s{};
  const int64_t c = kDeltaChunk;
  s.q = at;
  s.k = s.q + c * shape.key_dim;
  s.kt = s.k + c * shape.key_dim;
  s.d = s.kt + c * shape.key_dim;
  s.o = s.d + c * shape.value_dim;
  s.l = s.o + c * shape.value_dim;
  s.p = s.l + c * c;
  s.beta = s.p + c * c;
  s.g = s.beta + c;
  s.decay = s.g + c;
  return s;
}

static int64_t delta_scratch(const DeltaShape& shape) {
  const int64_t c = kDeltaChunk;
  const int64_t n = c * (3 * shape.key_dim + 2 * shape.value_dim) + 2 * c * c + 3 * c;
  return (n + 15) / 16 * 16;
}

/// y = x * scale / sqrt(sum(x^2) + eps)
FL_INLINE void l2_normalise(const float* x, int64_t n, float scale, float* y) {
  const float factor = scale / __builtin_sqrtf(sum_of_squares(x, n) + static_cast<float>(kL2NormEps));
  for (int64_t i = 0; i < n; ++i) {
    y[i] = x[i] * factor;
  }
}

/// Rows of q and k that are asked for ahead: a token's heads lie tens of KiB apart, out of the hardware's
/// sight.
constexpr int64_t kPrefetchRows = 8;

FL_INLINE void prefetch(const float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    __builtin_prefetch(p + i);
  }
}

/// Gates and normalised q, k of tokens [t0, t0 + n).
FL_INLINE void delta_prepare(const DeltaShape& shape, const DeltaInput<float>& in, int64_t h, int64_t t0,
                             int64_t n, const DeltaScratch& s) {
  const int64_t dk = shape.key_dim;
  const int64_t key_head = h % shape.n_key_heads;
  const float q_scale = 1.0F / __builtin_sqrtf(static_cast<float>(dk));
  for (int64_t i = 0; i < n; ++i) {
    const float* row = in.qkv + (t0 + i) * in.qkv_stride;
    if (i + kPrefetchRows < n) {
      const float* later = row + kPrefetchRows * in.qkv_stride;
      prefetch(later + key_head * dk, dk);
      prefetch(later + qk_channels(shape) + key_head * dk, dk);
    }
    prefetch(row + 2 * qk_channels(shape) + h * shape.value_dim, shape.value_dim);
    prefetch(in.z + ((t0 + i) * shape.n_value_heads + h) * shape.value_dim, shape.value_dim);
    l2_normalise(row + key_head * dk, dk, q_scale, s.q + i * dk);
    l2_normalise(row + qk_channels(shape) + key_head * dk, dk, 1.0F, s.k + i * dk);
    const int64_t at = (t0 + i) * shape.n_value_heads + h;
    const float x = in.alpha[at] + in.dt[h];
    const float softplus = x > 20.0F ? x : __builtin_log1pf(__builtin_expf(x));
    s.g[i] = in.a[h] * softplus;
    s.beta[i] = 1.0F / (1.0F + __builtin_expf(-in.beta[at]));
  }
}

/// Columns of delta_columns: two accumulators each, and whole rows of the usual state where registers allow,
/// so that it is read as one stream (half rows: 50 GB/s read and written instead of 66; a prefetch of the
/// next head during the update: 42).
constexpr int kDeltaVectors = FL_LANES == 16 ? 8 : 4;

/// kWide vectors of columns of delta_token.
template <int kWide>
FL_INLINE void delta_columns(int64_t dk, int64_t dv, const float* q, const float* k, const float* v,
                             float beta, float decay, float kq, float* state, float* o) {
  vf p[kWide] = {};
  vf r[kWide] = {};
  for (int64_t j = 0; j < dk; ++j) {
    const vf kj = splat(k[j]);
    const vf qj = splat(q[j]);
    for (int w = 0; w < kWide; ++w) {
      const vf sv = load(state + j * dv + w * kLanes);
      p[w] = p[w] + sv * kj;
      r[w] = r[w] + sv * qj;
    }
  }
  for (int w = 0; w < kWide; ++w) {
    p[w] = beta * (load(v + w * kLanes) - decay * p[w]);
    store(o + w * kLanes, decay * r[w] + kq * p[w]);
  }
  for (int64_t j = 0; j < dk; ++j) {
    const vf kj = splat(k[j]);
    for (int w = 0; w < kWide; ++w) {
      float* at = state + j * dv + w * kLanes;
      store(at, decay * load(at) + kj * p[w]);
    }
  }
}

/// One token: p = S^T k and r = S^T q from the old state in one pass, then the update.
/// o = e^g r + (k . q) delta.
FL_INLINE void delta_token(int64_t dk, int64_t dv, const float* q, const float* k, const float* v, float beta,
                           float decay, float* state, float* o) {
  vf kq_lanes{};
  int64_t i = 0;
  for (; i + kLanes <= dk; i += kLanes) {
    kq_lanes = kq_lanes + load(k + i) * load(q + i);
  }
  float kq = sum_lanes(kq_lanes);
  for (; i < dk; ++i) {
    kq += k[i] * q[i];
  }
  int64_t c = 0;
  for (; c + kDeltaVectors * kLanes <= dv; c += kDeltaVectors * kLanes) {
    delta_columns<kDeltaVectors>(dk, dv, q, k, v + c, beta, decay, kq, state + c, o + c);
  }
  for (; c + 4 * kLanes <= dv; c += 4 * kLanes) {
    delta_columns<4>(dk, dv, q, k, v + c, beta, decay, kq, state + c, o + c);
  }
  for (; c < dv; c += kLanes) {
    const int64_t n = dv - c < kLanes ? dv - c : kLanes;
    vf p{};
    vf r{};
    for (int64_t j = 0; j < dk; ++j) {
      const vf sv = load_part(state + j * dv + c, n);
      p = p + sv * splat(k[j]);
      r = r + sv * splat(q[j]);
    }
    p = beta * (load_part(v + c, n) - decay * p);
    store_part(o + c, decay * r + kq * p, n);
    for (int64_t j = 0; j < dk; ++j) {
      float* at = state + j * dv + c;
      store_part(at, decay * load_part(at, n) + splat(k[j]) * p, n);
    }
  }
}

/// Rows of the substitution that one product prepares.
constexpr int64_t kSolveRows = FL_GEMM_ROWS;
/// Rows of a triangular product that are taken together; above the diagonal nothing is computed beyond them.
constexpr int64_t kStripRows = 16;

/// y[i] = y[i] * factor
FL_INLINE void scale_row(float* y, float factor, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store(y + i, load(y + i) * factor);
  }
  for (; i < n; ++i) {
    y[i] *= factor;
  }
}

/// d[i] = beta * (v[i] - decay * d[i])
FL_INLINE void delta_row(float* d, const float* v, float beta, float decay, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store(d + i, beta * (load(v + i) - decay * load(d + i)));
  }
  for (; i < n; ++i) {
    d[i] = beta * (v[i] - decay * d[i]);
  }
}

/// Turns the dot products of row i into L (scaled by beta) and decayed scores; zeroes the scores above the
/// diagonal. In double: strong decays add up to hundreds, and differences of their running sums are the
/// exponents.
FL_INLINE void decay_row(int64_t i, int64_t n, const double* sum, float beta, float* l, float* p) {
  using vd = double __attribute__((vector_size(8 * FL_LANES)));
  for (int64_t j = 0; j <= i; j += kLanes) {
    vd at;
    __builtin_memcpy(&at, sum + j, sizeof(at));
    const vf difference = __builtin_convertvector(sum[i] - at, vf);
    // Beyond the diagonal it may be positive; those elements are zeroed or never read.
    const vf weight = exp_v(difference > 0.0F ? vf{} : difference);
    store(l + j, load(l + j) * (beta * weight));
    store(p + j, load(p + j) * weight);
  }
  for (int64_t j = i + 1; j < n; ++j) {
    p[j] = 0.0F;
  }
}

/// A chunk of n tokens; v rows at `v` with stride v_stride. Leaves the outputs in s.o.
FL_INLINE void delta_chunk(int64_t dk, int64_t dv, int64_t n, const float* v, int64_t v_stride,
                           const DeltaScratch& s, float* state) {
  constexpr int64_t kC = kDeltaChunk;
  double sum[kC] = {};
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    total += static_cast<double>(s.g[i]);
    sum[i] = total;
    s.decay[i] = __builtin_expf(static_cast<float>(total));
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < dk; ++j) {
      s.kt[j * kC + i] = s.k[i * dk + j];
    }
  }
  // Columns of L and P beyond the strip stay unset: decay_row may scale what lies there, nothing reads it.
  for (int64_t i0 = 0; i0 < n; i0 += kStripRows) {
    const int64_t rows = n - i0 < kStripRows ? n - i0 : kStripRows;
    gemm<Into::store>(rows, i0 + rows, dk, rows_of(s.k + i0 * dk, dk), s.kt, kC, s.l + i0 * kC, kC);
    gemm<Into::store>(rows, i0 + rows, dk, rows_of(s.q + i0 * dk, dk), s.kt, kC, s.p + i0 * kC, kC);
    for (int64_t i = i0; i < i0 + rows; ++i) {
      decay_row(i, i0 + rows, sum, s.beta[i], s.l + i * kC, s.p + i * kC);
    }
  }
  // D := diag(beta) (V - diag(e^c) K S), and O := diag(e^c) Q S
  gemm<Into::store>(n, dv, dk, rows_of(s.k, dk), state, dv, s.d, dv);
  gemm<Into::store>(n, dv, dk, rows_of(s.q, dk), state, dv, s.o, dv);
  for (int64_t i = 0; i < n; ++i) {
    delta_row(s.d + i * dv, v + i * v_stride, s.beta[i], s.decay[i], dv);
    scale_row(s.o + i * dv, s.decay[i], dv);
  }
  // (I + L) D = right-hand side: earlier groups of rows by a product, then row by row inside the group
  for (int64_t i0 = 0; i0 < n; i0 += kSolveRows) {
    const int64_t rows = n - i0 < kSolveRows ? n - i0 : kSolveRows;
    gemm<Into::subtract>(rows, dv, i0, rows_of(s.l + i0 * kC, kC), s.d, dv, s.d + i0 * dv, dv);
    for (int64_t i = i0 + 1; i < i0 + rows; ++i) {
      gemm<Into::subtract>(1, dv, i - i0, rows_of(s.l + i * kC + i0, kC), s.d + i0 * dv, dv, s.d + i * dv,
                           dv);
    }
  }
  for (int64_t i0 = 0; i0 < n; i0 += kStripRows) {
    const int64_t rows = n - i0 < kStripRows ? n - i0 : kStripRows;
    gemm<Into::add>(rows, dv, i0 + rows, rows_of(s.p + i0 * kC, kC), s.d, dv, s.o + i0 * dv, dv);
  }
  // S := e^(c_last) S + (diag(e^(c_last - c)) K)^T D
  for (int64_t i = 0; i < n; ++i) {
    scale_row(s.k + i * dk, __builtin_expf(static_cast<float>(total - sum[i])), dk);
  }
  scale_row(state, s.decay[n - 1], dk * dv);
  gemm<Into::add>(dk, dv, n, columns_of(s.k, dk), s.d, dv, state, dv);
}

static void gated_delta(const DeltaShape& shape, const DeltaInput<float>& in, int64_t h, float* layer_state,
                        float* y, float* scratch) {
  const DeltaScratch s = carve(shape, scratch);
  const int64_t dk = shape.key_dim;
  const int64_t dv = shape.value_dim;
  float* state = layer_state + h * dk * dv;
  for (int64_t t0 = 0; t0 < in.n_tokens;) {
    const int64_t to_border = kDeltaChunk - (in.first_position + t0) % kDeltaChunk;
    const int64_t n = in.n_tokens - t0 < to_border ? in.n_tokens - t0 : to_border;
    const float* v = in.qkv + t0 * in.qkv_stride + 2 * qk_channels(shape) + h * dv;
    delta_prepare(shape, in, h, t0, n, s);
    if (n < kDeltaMinChunk) {
      for (int64_t i = 0; i < n; ++i) {
        delta_token(dk, dv, s.q + i * dk, s.k + i * dk, v + i * in.qkv_stride, s.beta[i],
                    __builtin_expf(s.g[i]), state, s.o + i * dv);
      }
    } else {
      delta_chunk(dk, dv, n, v, in.qkv_stride, s, state);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = (t0 + i) * shape.n_value_heads * shape.value_dim + h * dv;
      gated_rms_norm(s.o + i * dv, in.z + at, in.norm, in.eps, dv, y + at);
    }
    t0 += n;
  }
}
