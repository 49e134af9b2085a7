// Small float products with lanes over the columns: c[i, j] (=, +=, -=) sum_p a[i, p] b[p, j]. Every element
// is one sum in the order of p, started from zero or from c, so it does not depend on m, n or the blocking.
// Included by ops_<isa>.cpp after vec.h.

enum class Into { store, add, subtract };

/// a[i, p] at p * kLanes... of either orientation.
struct Left {
  const float* data;
  int64_t row;     ///< floats between rows of a
  int64_t column;  ///< floats between columns of a
};

/// `right(p, v)` gives vector v of row p of b.
template <int kRows, int kVectors, Into kInto, typename Right>
FL_INLINE void gemm_tile(int64_t k, Left a, Right right, float* c, int64_t ldc) {
  vf acc[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      acc[i][v] = kInto == Into::store ? vf{} : load(c + i * ldc + v * kLanes);
    }
  }
  for (int64_t p = 0; p < k; ++p) {
    vf b[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      b[v] = right(p, v);
    }
    for (int i = 0; i < kRows; ++i) {
      const vf x = splat(a.data[i * a.row + p * a.column]);
      for (int v = 0; v < kVectors; ++v) {
        acc[i][v] = kInto == Into::subtract ? acc[i][v] - x * b[v] : acc[i][v] + x * b[v];
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      store(c + i * ldc + v * kLanes, acc[i][v]);
    }
  }
}

FL_INLINE Left below(Left a, int64_t rows) {
  return {a.data + rows * a.row, a.row, a.column};
}

/// All rows of one panel of kVectors vectors; FL_GEMM_ROWS * 4 accumulators fit the registers.
template <int kVectors, Into kInto, typename Right>
FL_INLINE void gemm_panel(int64_t m, int64_t k, Left a, Right right, float* c, int64_t ldc) {
  int64_t i = 0;
  for (; i + FL_GEMM_ROWS <= m; i += FL_GEMM_ROWS) {
    gemm_tile<FL_GEMM_ROWS, kVectors, kInto>(k, below(a, i), right, c + i * ldc, ldc);
  }
#if FL_GEMM_ROWS > 4
  for (; i + 4 <= m; i += 4) {
    gemm_tile<4, kVectors, kInto>(k, below(a, i), right, c + i * ldc, ldc);
  }
#endif
  for (; i + 2 <= m; i += 2) {
    gemm_tile<2, kVectors, kInto>(k, below(a, i), right, c + i * ldc, ldc);
  }
  for (; i < m; ++i) {
    gemm_tile<1, kVectors, kInto>(k, below(a, i), right, c + i * ldc, ldc);
  }
}

/// Fewer columns than a vector has lanes.
template <Into kInto>
FL_INLINE void gemm_tail(int64_t m, int64_t n, int64_t k, Left a, const float* b, int64_t ldb, float* c,
                         int64_t ldc) {
  for (int64_t i = 0; i < m; ++i) {
    vf acc = kInto == Into::store ? vf{} : load_part(c + i * ldc, n);
    for (int64_t p = 0; p < k; ++p) {
      const vf column = load_part(b + p * ldb, n);
      const vf x = splat(a.data[i * a.row + p * a.column]);
      acc = kInto == Into::subtract ? acc - x * column : acc + x * column;
    }
    store_part(c + i * ldc, acc, n);
  }
}

/// b is a float matrix with rows of ldb.
template <Into kInto>
static void gemm(int64_t m, int64_t n, int64_t k, Left a, const float* b, int64_t ldb, float* c,
                 int64_t ldc) {
  int64_t j = 0;
  const auto columns = [&](int64_t p, int v) __attribute__((always_inline)) {
    return load(b + p * ldb + j + v * kLanes);
  };
  for (; j + 4 * kLanes <= n; j += 4 * kLanes) {
    gemm_panel<4, kInto>(m, k, a, columns, c + j, ldc);
  }
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    gemm_panel<2, kInto>(m, k, a, columns, c + j, ldc);
  }
  for (; j + kLanes <= n; j += kLanes) {
    gemm_panel<1, kInto>(m, k, a, columns, c + j, ldc);
  }
  if (j < n) {
    gemm_tail<kInto>(m, n - j, k, a, b + j, ldb, c + j, ldc);
  }
}

/// a with rows of lda.
FL_INLINE Left rows_of(const float* a, int64_t lda) {
  return {a, lda, 1};
}
/// The transpose of a matrix with rows of lda.
FL_INLINE Left columns_of(const float* a, int64_t lda) {
  return {a, 1, lda};
}
