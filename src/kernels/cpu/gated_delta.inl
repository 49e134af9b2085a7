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

/// Gates and normalised q, k of tokens [t0, t0 + n).
FL_INLINE void delta_prepare(const DeltaShape& shape, const DeltaInput<float>& in, int64_t h, int64_t t0,
                             int64_t n, const DeltaScratch& s) {
  const int64_t dk = shape.key_dim;
  const int64_t key_head = h % shape.n_key_heads;
  const float q_scale = 1.0F / __builtin_sqrtf(static_cast<float>(dk));
  for (int64_t i = 0; i < n; ++i) {
    const float* row = in.qkv + (t0 + i) * in.qkv_stride;
    l2_normalise(row + key_head * dk, dk, q_scale, s.q + i * dk);
    l2_normalise(row + qk_channels(shape) + key_head * dk, dk, 1.0F, s.k + i * dk);
    const int64_t at = (t0 + i) * shape.n_value_heads + h;
    const float x = in.alpha[at] + in.dt[h];
    const float softplus = x > 20.0F ? x : __builtin_log1pf(__builtin_expf(x));
    s.g[i] = in.a[h] * softplus;
    s.beta[i] = 1.0F / (1.0F + __builtin_expf(-in.beta[at]));
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
  constexpr int kWide = 4;
  for (; c + kWide * kLanes <= dv; c += kWide * kLanes) {
    vf p[kWide] = {};
    vf r[kWide] = {};
    for (int64_t j = 0; j < dk; ++j) {
      const vf kj = splat(k[j]);
      const vf qj = splat(q[j]);
      for (int w = 0; w < kWide; ++w) {
        const vf sv = load(state + j * dv + c + w * kLanes);
        p[w] = p[w] + sv * kj;
        r[w] = r[w] + sv * qj;
      }
    }
    for (int w = 0; w < kWide; ++w) {
      p[w] = beta * (load(v + c + w * kLanes) - decay * p[w]);
      store(o + c + w * kLanes, decay * r[w] + kq * p[w]);
    }
    for (int64_t j = 0; j < dk; ++j) {
      const vf kj = splat(k[j]);
      for (int w = 0; w < kWide; ++w) {
        float* at = state + j * dv + c + w * kLanes;
        store(at, decay * load(at) + kj * p[w]);
      }
    }
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

/// Rows of the substitution that are solved one after another before the next product.
constexpr int64_t kSolveRows = 8;

/// A chunk of n tokens; v rows at `v` with stride v_stride. Leaves the outputs in s.o.
FL_INLINE void delta_chunk(int64_t dk, int64_t dv, int64_t n, const float* v, int64_t v_stride,
                           const DeltaScratch& s, float* state) {
  constexpr int64_t kC = kDeltaChunk;
  // In double: strong decays add up to hundreds, and differences of the sums are exponents.
  double sum[kC];
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
  // Columns beyond n are never read: every product below stops at n.
  gemm<Into::store>(n, n, dk, s.k, dk, s.kt, kC, s.l, kC);
  gemm<Into::store>(n, n, dk, s.q, dk, s.kt, kC, s.p, kC);
  for (int64_t i = 0; i < n; ++i) {
    float weight[kC];
    const int64_t padded = (i + kLanes) / kLanes * kLanes;  // covers 0 .. i
    for (int64_t j = 0; j < padded && j < kC; j += kLanes) {
      // Beyond i the difference may be positive; those lanes are zeroed below and never multiplied.
      float difference[kLanes];
      for (int64_t w = 0; w < kLanes; ++w) {
        difference[w] = j + w <= i ? static_cast<float>(sum[i] - sum[j + w]) : 0.0F;
      }
      store(weight + j, exp_v(load(difference)));
    }
    for (int64_t j = 0; j < i; ++j) {
      s.l[i * kC + j] *= s.beta[i] * weight[j];
      s.p[i * kC + j] *= weight[j];
    }
    for (int64_t j = i + 1; j < n; ++j) {
      s.p[i * kC + j] = 0.0F;
    }
  }
  // D := diag(beta) (V - diag(e^c) K S), and O := diag(e^c) Q S
  gemm<Into::store>(n, dv, dk, s.k, dk, state, dv, s.d, dv);
  gemm<Into::store>(n, dv, dk, s.q, dk, state, dv, s.o, dv);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < dv; ++c) {
      s.d[i * dv + c] = s.beta[i] * (v[i * v_stride + c] - s.decay[i] * s.d[i * dv + c]);
      s.o[i * dv + c] *= s.decay[i];
    }
  }
  // (I + L) D = right-hand side, forward substitution by groups of rows
  for (int64_t i0 = 0; i0 < n; i0 += kSolveRows) {
    const int64_t rows = n - i0 < kSolveRows ? n - i0 : kSolveRows;
    gemm<Into::subtract>(rows, dv, i0, s.l + i0 * kC, kC, s.d, dv, s.d + i0 * dv, dv);
    for (int64_t i = i0 + 1; i < i0 + rows; ++i) {
      for (int64_t j = i0; j < i; ++j) {
        const float factor = s.l[i * kC + j];
        for (int64_t c = 0; c < dv; ++c) {
          s.d[i * dv + c] -= factor * s.d[j * dv + c];
        }
      }
    }
  }
  gemm<Into::add>(n, dv, n, s.p, kC, s.d, dv, s.o, dv);
  // S := e^(c_last) S + (diag(e^(c_last - c)) K)^T D
  for (int64_t i = 0; i < n; ++i) {
    const float factor = __builtin_expf(static_cast<float>(total - sum[i]));
    for (int64_t j = 0; j < dk; ++j) {
      s.kt[j * kC + i] *= factor;
    }
  }
  const float last = s.decay[n - 1];
  for (int64_t i = 0; i < dk * dv; ++i) {
    state[i] *= last;
  }
  gemm<Into::add>(dk, dv, n, s.kt, kC, s.d, dv, state, dv);
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
