// Operations on one row: norms, SwiGLU, RoPE, convolution. Contracts: rms_norm.h, swiglu.h, rope.h,
// causal_conv.h. Included by ops_<isa>.cpp after vec.h.

FL_INLINE float sum_of_squares(const float* x, int64_t n) {
  vf a{};
  vf b{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const vf u = load(x + i);
    const vf v = load(x + i + kLanes);
    a = a + u * u;
    b = b + v * v;
  }
  for (; i + kLanes <= n; i += kLanes) {
    const vf u = load(x + i);
    a = a + u * u;
  }
  if (i < n) {
    const vf u = load_part(x + i, n - i);
    b = b + u * u;
  }
  return sum_lanes(a + b);
}

static void rms_norm(const float* x, const float* w, float eps, int64_t n, float* y) {
  const float scale = 1.0F / __builtin_sqrtf(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store(y + i, load(x + i) * scale * load(w + i));
  }
  for (; i < n; ++i) {
    y[i] = x[i] * scale * w[i];
  }
}

static void gated_rms_norm(const float* x, const float* z, const float* w, float eps, int64_t n, float* y) {
  const float scale = 1.0F / __builtin_sqrtf(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store(y + i, load(x + i) * scale * load(w + i) * silu_v(load(z + i)));
  }
  if (i < n) {
    const int64_t rest = n - i;
    store_part(y + i,
               load_part(x + i, rest) * scale * load_part(w + i, rest) * silu_v(load_part(z + i, rest)),
               rest);
  }
}

static void swiglu(const float* gate, const float* up, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store(y + i, silu_v(load(gate + i)) * load(up + i));
  }
  if (i < n) {
    store_part(y + i, silu_v(load_part(gate + i, n - i)) * load_part(up + i, n - i), n - i);
  }
}

static void rope(const float* cos_sin, int64_t pairs, float* head) {
  const float* c = cos_sin;
  const float* s = cos_sin + pairs;
  int64_t i = 0;
  for (; i + kLanes <= pairs; i += kLanes) {
    const vf u = load(head + i);
    const vf w = load(head + i + pairs);
    store(head + i, u * load(c + i) - w * load(s + i));
    store(head + i + pairs, w * load(c + i) + u * load(s + i));
  }
  for (; i < pairs; ++i) {
    const float u = head[i];
    const float w = head[i + pairs];
    head[i] = u * c[i] - w * s[i];
    head[i + pairs] = w * c[i] + u * s[i];
  }
}

/// One vector of channels: the inputs stay in a ring of registers' worth of vectors while tokens pass.
static void conv_lanes(float* x, int64_t stride, int64_t n_tokens, const float* w, float* window,
                       int64_t kernel, int64_t channels, int64_t n) {
  vf taps[kMaxConvKernel];
  vf line[kMaxConvKernel];
  for (int64_t j = 0; j < kernel; ++j) {
    taps[j] = load_part(w + j * channels, n);
  }
  for (int64_t j = 0; j + 1 < kernel; ++j) {
    line[j] = load_part(window + j * channels, n);
  }
  for (int64_t t = 0; t < n_tokens; ++t) {
    float* at = x + t * stride;
    line[kernel - 1] = load_part(at, n);
    vf sum{};
    for (int64_t j = 0; j < kernel; ++j) {
      sum = sum + taps[j] * line[j];
    }
    store_part(at, silu_v(sum), n);
    for (int64_t j = 0; j + 1 < kernel; ++j) {
      line[j] = line[j + 1];
    }
  }
  for (int64_t j = 0; j + 1 < kernel; ++j) {
    store_part(window + j * channels, line[j], n);
  }
}

/// The same for a kernel of four and kWide full vectors, which is what models have: the window stays in
/// registers, and a token's channels are touched a few cache lines at a time.
template <int kWide>
static void conv4_lanes(float* x, int64_t stride, int64_t n_tokens, const float* w, float* window,
                        int64_t channels) {
  vf taps[4][kWide];
  vf old[3][kWide];
  for (int v = 0; v < kWide; ++v) {
    for (int j = 0; j < 4; ++j) {
      taps[j][v] = load(w + j * channels + v * kLanes);
    }
    for (int j = 0; j < 3; ++j) {
      old[j][v] = load(window + j * channels + v * kLanes);
    }
  }
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int v = 0; v < kWide; ++v) {
      float* at = x + t * stride + v * kLanes;
      const vf now = load(at);
      vf sum = taps[0][v] * old[0][v];
      sum = sum + taps[1][v] * old[1][v];
      sum = sum + taps[2][v] * old[2][v];
      sum = sum + taps[3][v] * now;
      store(at, silu_v(sum));
      old[0][v] = old[1][v];
      old[1][v] = old[2][v];
      old[2][v] = now;
    }
  }
  for (int v = 0; v < kWide; ++v) {
    for (int j = 0; j < 3; ++j) {
      store(window + j * channels + v * kLanes, old[j][v]);
    }
  }
}

static void causal_conv_silu(float* x, int64_t stride, int64_t n_tokens, const float* w, float* window,
                             int64_t kernel, int64_t channels, int64_t first, int64_t last) {
  int64_t c = first;
  if (kernel == 4) {
    constexpr int kWide = FL_LANES == 16 ? 2 : 1;  // 7 registers a vector, besides those of the exponential
    for (; c + kWide * kLanes <= last; c += kWide * kLanes) {
      conv4_lanes<kWide>(x + c, stride, n_tokens, w + c, window + c, channels);
    }
    for (; c + kLanes <= last; c += kLanes) {
      conv4_lanes<1>(x + c, stride, n_tokens, w + c, window + c, channels);
    }
  }
  for (; c < last; c += kLanes) {
    conv_lanes(x + c, stride, n_tokens, w + c, window + c, kernel, channels,
               last - c < kLanes ? last - c : kLanes);
  }
}
