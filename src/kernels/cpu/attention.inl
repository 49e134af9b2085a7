// Attention over blocks of keys and values. Contract and cache layout: attention.h.
// Included by ops_<isa>.cpp after gemm_f32.inl and half.inl.

/// Rows of keys (dims) or columns of values that are decoded at a time: a panel stays in the first-level
/// cache.
constexpr int64_t kPanel = 64;
constexpr int64_t kKeyPanel = 32;

FL_INLINE int64_t head_bytes(DType type, int64_t head_dim) {
  switch (type) {
    case DType::f32:
      return kKvBlock * head_dim * 4;
    case DType::f16:
    case DType::bf16:
      return kKvBlock * head_dim * 2;
    default:
      return kKvBlock * head_dim + kKvBlock * (head_dim / kKvQuantGroup) * 2;
  }
}

/// Keys of dims [d0, d0 + n) of a block as floats [n][kKvBlock].
FL_INLINE void decode_keys(DType type, const std::byte* head, int64_t head_dim, int64_t d0, int64_t n,
                           float* out) {
  if (type == DType::f16 || type == DType::bf16) {
    const auto* p = reinterpret_cast<const uint16_t*>(head) + d0 * kKvBlock;
    if (type == DType::f16) {
      for (int64_t i = 0; i < n * kKvBlock; i += kLanes) {
        store(out + i, load_half(p + i));
      }
    } else {
      for (int64_t i = 0; i < n * kKvBlock; i += kLanes) {
        store(out + i, load_bfloat(p + i));
      }
    }
    return;
  }
  const auto* scales = reinterpret_cast<const uint16_t*>(head + head_dim * kKvBlock);
  for (int64_t d = d0; d < d0 + n; d += 4) {
    const uint16_t* scale = scales + d / kKvQuantGroup * kKvBlock;
    for (int64_t j = 0; j < kKvBlock; j += kLanes) {
      vi line;
      __builtin_memcpy(&line, head + d * kKvBlock + j * 4, sizeof(line));
      const vf each = load_half(scale + j);
      for (int b = 0; b < 4; ++b) {
        const vi key = (line >> (8 * b) & 255) - 128;
        store(out + (d + b - d0) * kKvBlock + j, __builtin_convertvector(key, vf) * each);
      }
    }
  }
}

/// Columns [c0, c0 + n) of the first n_keys values of a block as floats [n_keys][kPanel].
FL_INLINE void decode_values(DType type, const std::byte* head, int64_t head_dim, int64_t n_keys, int64_t c0,
                             int64_t n, float* out) {
  if (type == DType::f16 || type == DType::bf16) {
    for (int64_t j = 0; j < n_keys; ++j) {
      float* to = out + j * kPanel;
      const auto* p = reinterpret_cast<const uint16_t*>(head) + j * head_dim + c0;
      int64_t c = 0;
      for (; c + kLanes <= n; c += kLanes) {
        store(to + c, type == DType::f16 ? load_half(p + c) : load_bfloat(p + c));
      }
      for (; c < n; ++c) {
        to[c] = type == DType::f16 ? half_to_float(p[c]) : bfloat_to_float(p[c]);
      }
    }
    return;
  }
  const auto* scales = reinterpret_cast<const uint16_t*>(head + head_dim * kKvBlock);
  for (int64_t j = 0; j < n_keys; j += 4) {  // the rest of the last four is decoded and not used
    for (int64_t first = 0; first < n; first += kKvQuantGroup) {
      const uint16_t* at = scales + (c0 + first) / kKvQuantGroup * kKvBlock + j;
      const vf scale[4] = {splat(half_to_float(at[0])), splat(half_to_float(at[1])),
                           splat(half_to_float(at[2])), splat(half_to_float(at[3]))};
      for (int64_t c = first; c < first + kKvQuantGroup; c += kLanes) {
        vi line;
        __builtin_memcpy(&line, head + (j * head_dim + (c0 + c) * 4), sizeof(line));
        for (int b = 0; b < 4; ++b) {
          const vi value = line << (24 - 8 * b) >> 24;
          store(out + (j + b) * kPanel + c, __builtin_convertvector(value, vf) * scale[b]);
        }
      }
    }
  }
}

static int64_t attention_scratch(const AttentionShape& shape) {
  const int64_t rows = kQueryTile * (shape.n_heads / shape.n_kv_heads);
  const int64_t query_bytes = shape.head_dim / 2 + 2 * (shape.head_dim / kKvQuantGroup) + 1;  // as floats
  return rows * (2 * shape.head_dim + kKvBlock + 2 + query_bytes) + kPanel * kPanel + 2 * 16;
}

/// With this few query rows a block is decoded in registers; with more, once into a panel that all rows
/// share. Both decode the same floats and add in the same order.
constexpr int64_t kDirectRows = 2 * FL_GEMM_ROWS;
constexpr int64_t kWide = 4 * kLanes;  // columns of a direct panel; divides kKvBlock

/// scores [rows][kKvBlock] = q [rows][head_dim] times the keys of a block.
FL_INLINE void score_block(DType type, const std::byte* keys, int64_t hd, int64_t rows, const float* q,
                           float* scores, float* panel) {
  if (type == DType::f32) {
    gemm<Into::store>(rows, kKvBlock, hd, rows_of(q, hd), reinterpret_cast<const float*>(keys), kKvBlock,
                      scores, kKvBlock);
    return;
  }
  if (type == DType::f16 && rows <= kDirectRows) {
    const auto* halves = reinterpret_cast<const uint16_t*>(keys);
    for (int64_t j = 0; j < kKvBlock; j += kWide) {
      gemm_panel<4, Into::store>(
          rows, hd, rows_of(q, hd),
          [=](int64_t p, int v)
              __attribute__((always_inline)) { return load_half(halves + p * kKvBlock + j + v * kLanes); },
          scores + j, kKvBlock);
    }
    return;
  }
  for (int64_t d0 = 0; d0 < hd; d0 += kKeyPanel) {
    const int64_t dims = hd - d0 < kKeyPanel ? hd - d0 : kKeyPanel;
    decode_keys(type, keys, hd, d0, dims, panel);
    if (d0 == 0) {
      gemm<Into::store>(rows, kKvBlock, dims, rows_of(q, hd), panel, kKvBlock, scores, kKvBlock);
    } else {
      gemm<Into::add>(rows, kKvBlock, dims, rows_of(q + d0, hd), panel, kKvBlock, scores, kKvBlock);
    }
  }
}

/// o [rows][head_dim] += weights [rows][kKvBlock] times the first n_keys values of a block.
FL_INLINE void add_values(DType type, const std::byte* values, int64_t hd, int64_t n_keys, int64_t rows,
                          const float* weights, float* o, float* panel) {
  const Left left = rows_of(weights, kKvBlock);
  if (type == DType::f32) {
    gemm<Into::add>(rows, hd, n_keys, left, reinterpret_cast<const float*>(values), hd, o, hd);
    return;
  }
  const bool direct = rows <= kDirectRows && hd % kWide == 0;
  if (type == DType::f16 && direct) {
    const auto* halves = reinterpret_cast<const uint16_t*>(values);
    for (int64_t c = 0; c < hd; c += kWide) {
      gemm_panel<4, Into::add>(
          rows, n_keys, left,
          [=](int64_t p, int v)
              __attribute__((always_inline)) { return load_half(halves + p * hd + c + v * kLanes); },
          o + c, hd);
    }
    return;
  }
  for (int64_t c0 = 0; c0 < hd; c0 += kPanel) {
    const int64_t columns = hd - c0 < kPanel ? hd - c0 : kPanel;
    decode_values(type, values, hd, n_keys, c0, columns, panel);
    gemm<Into::add>(rows, columns, n_keys, left, panel, kPanel, o + c0, hd);
  }
}

/// Softmax so far of one row: p becomes e^(score - max), the row's maximum and sum move on; returns the
/// factor by which what was summed before shrinks. Only the first n_valid scores count.
FL_INLINE float softmax_block(float* p, int64_t n_valid, float* maximum, float* sum) {
  vf largest = splat(-__builtin_inff());
  for (int64_t j = 0; j < kKvBlock; j += kLanes) {
    vf x = load(p + j);
    if (j + kLanes > n_valid) {
      float a[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        a[i] = j + i < n_valid ? p[j + i] : -__builtin_inff();
      }
      x = load(a);
      store(p + j, x);
    }
    largest = x > largest ? x : largest;
  }
  const float before = *maximum;
  const float now = max_f(before, max_lanes(largest));
  vf total{};
  for (int64_t j = 0; j < kKvBlock; j += kLanes) {
    const vf e = exp_v(load(p + j) - now);
    store(p + j, e);
    total = total + e;
  }
  const float shrink = before == now ? 1.0F : exp_v(splat(before - now))[0];
  *maximum = now;
  *sum = *sum * shrink + sum_lanes(total);
  return shrink;
}

static void attention(const AttentionShape& shape, const KvCache& cache, const AttentionInput& in,
                      int64_t kv_head, int64_t first, int64_t n, float* out, int64_t out_stride,
                      float* scratch) {
  const int64_t hd = shape.head_dim;
  const int64_t group = shape.n_heads / shape.n_kv_heads;
  const int64_t rows = n * group;
  float* q = scratch;
  float* o = q + rows * hd;
  float* scores = o + rows * hd;
  float* maximum = scores + rows * kKvBlock;
  float* sum = maximum + rows;
  float* panel = sum + rows;
  for (int64_t r = 0; r < rows; ++r) {
    const float* from =
        in.q + (first + r / group) * in.stride + (kv_head * group + r % group) * in.head_stride;
    for (int64_t d = 0; d < hd; ++d) {
      q[r * hd + d] = from[d] * shape.scale;
      o[r * hd + d] = 0.0F;
    }
    maximum[r] = -__builtin_inff();
    sum[r] = 0.0F;
  }
#ifdef FL_INTEGER_ATTENTION
  QueryBytes query_bytes{};
  if (cache.type_k == DType::q8_0) {
    query_bytes.scale = panel + kPanel * kPanel;
    query_bytes.starts = reinterpret_cast<int32_t*>(query_bytes.scale + rows);
    query_bytes.high = reinterpret_cast<int8_t*>(query_bytes.starts + rows * (hd / kKvQuantGroup) * 2);
    query_bytes.low = query_bytes.high + rows * hd;
    quantise_queries(rows, hd, q, query_bytes);
  }
#endif
  const int64_t bytes_k = head_bytes(cache.type_k, hd);
  const int64_t bytes_v = head_bytes(cache.type_v, hd);
  const int64_t first_index = in.first_index + first;
  const int64_t n_keys = first_index + n;
  for (int64_t b = 0; b * kKvBlock < n_keys; ++b) {
    const int64_t block_head = int64_t{in.blocks.data()[b]} * shape.n_kv_heads + kv_head;
    const std::byte* keys = cache.k + block_head * bytes_k;
    const std::byte* values = cache.v + block_head * bytes_v;
    const int64_t begin = b * kKvBlock;
    const int64_t in_block = n_keys - begin < kKvBlock ? n_keys - begin : kKvBlock;
    // Queries before this block see none of it.
    const int64_t skip = begin > first_index ? (begin - first_index) * group : 0;
    const int64_t live = rows - skip;
#ifdef FL_INTEGER_ATTENTION
    if (cache.type_k == DType::q8_0) {
      score_block_q8(keys, hd, skip, live, query_bytes, scores + skip * kKvBlock);
    } else
#endif
    {
      score_block(cache.type_k, keys, hd, live, q + skip * hd, scores + skip * kKvBlock, panel);
    }
    for (int64_t r = skip; r < rows; ++r) {
      const int64_t visible = first_index + r / group + 1 - begin;
      const float shrink =
          softmax_block(scores + r * kKvBlock, visible < kKvBlock ? visible : kKvBlock, maximum + r, sum + r);
      if (shrink != 1.0F) {  // the maximum rarely moves
        scale_row(o + r * hd, shrink, hd);
      }
    }
#ifdef FL_INTEGER_ATTENTION
    if (cache.type_v == DType::q8_0) {
      add_values_q8(values, hd, in_block, live, scores + skip * kKvBlock, o + skip * hd);
      continue;
    }
#endif
    add_values(cache.type_v, values, hd, in_block, live, scores + skip * kKvBlock, o + skip * hd, panel);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t t = first + r / group;
    const int64_t h = kv_head * group + r % group;
    const float* gate = in.gate + t * in.stride + h * in.head_stride;
    float* to = out + t * out_stride + h * hd;
    const float inverse = 1.0F / sum[r];
    int64_t d = 0;
    for (; d + kLanes <= hd; d += kLanes) {
      store(to + d, load(o + r * hd + d) * inverse * sigmoid_v(load(gate + d)));
    }
    if (d < hd) {
      store_part(to + d, load_part(o + r * hd + d, hd - d) * inverse * sigmoid_v(load_part(gate + d, hd - d)),
                 hd - d);
    }
  }
}

/// One token of one KV head into its block. `at` in [0, kKvBlock).
FL_INLINE void store_head(DType type, std::byte* head, int64_t head_dim, int64_t at, const float* x,
                          bool transposed) {
  const int64_t step = transposed ? kKvBlock : 1;
  const int64_t start = transposed ? at : at * head_dim;
  if (type == DType::f32) {
    auto* p = reinterpret_cast<float*>(head) + start;
    for (int64_t d = 0; d < head_dim; ++d) {
      p[d * step] = x[d];
    }
  } else if (type == DType::f16) {
    auto* p = reinterpret_cast<uint16_t*>(head) + start;
    for (int64_t d = 0; d < head_dim; ++d) {
      p[d * step] = float_to_half(x[d]);
    }
  } else if (type == DType::bf16) {
    auto* p = reinterpret_cast<uint16_t*>(head) + start;
    for (int64_t d = 0; d < head_dim; ++d) {
      p[d * step] = float_to_bfloat(x[d]);
    }
  } else {
    auto* p = reinterpret_cast<uint8_t*>(head);
    auto* scales = reinterpret_cast<uint16_t*>(head + head_dim * kKvBlock);
    for (int64_t g = 0; g < head_dim / kKvQuantGroup; ++g) {
      float largest = 0.0F;
      for (int64_t d = 0; d < kKvQuantGroup; ++d) {
        largest = max_f(largest, __builtin_fabsf(x[g * kKvQuantGroup + d]));
      }
      const uint16_t scale = float_to_half(largest / 127.0F);
      scales[g * kKvBlock + at] = scale;
      const float stored = half_to_float(scale);
      const float inverse = stored > 0.0F ? 1.0F / stored : 0.0F;
      for (int64_t d = g * kKvQuantGroup; d < (g + 1) * kKvQuantGroup; ++d) {
        const float scaled = x[d] * inverse;
        const float limited =
            min_f(max_f(scaled, -127.0F), 127.0F);  // the scale was rounded; NaN becomes -127
        const auto value = static_cast<int32_t>(limited + (limited < 0.0F ? -0.5F : 0.5F));
        if (transposed) {
          p[d / 4 * 4 * kKvBlock + at * 4 + d % 4] = static_cast<uint8_t>(value + 128);
        } else {
          p[at / 4 * 4 * head_dim + d * 4 + at % 4] = static_cast<uint8_t>(value);
        }
      }
    }
  }
}

static void kv_store(const AttentionShape& shape, const KvCache& cache, int32_t block, int64_t at, int64_t g,
                     const float* k, const float* v) {
  const int64_t hd = shape.head_dim;
  const int64_t block_head = int64_t{block} * shape.n_kv_heads + g;
  store_head(cache.type_k, cache.k + block_head * head_bytes(cache.type_k, hd), hd, at, k, true);
  store_head(cache.type_v, cache.v + block_head * head_bytes(cache.type_v, hd), hd, at, v, false);
}
