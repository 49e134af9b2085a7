// Small float products with lanes over the columns: c[i, j] (=, +=, -=) sum_p a[i, p] b[p, j]. Every element
// is one sum in the order of p, started from zero or from c, so it does not depend on m, n or the blocking.
// Included by ops_<isa>.cpp after vec.h.

enum class Into { store, add, subtract };

template <int kRows, int kVectors, Into kInto>
FL_INLINE void gemm_tile(int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                         int64_t ldc) {
  vf acc[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      acc[i][v] = kInto == Into::store ? vf{} : load(c + i * ldc + v * kLanes);
    }
  }
  for (int64_t p = 0; p < k; ++p) {
    vf column[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      column[v] = load(b + p * ldb + v * kLanes);
    }
    for (int i = 0; i < kRows; ++i) {
      const vf x = splat(a[i * lda + p]);
      for (int v = 0; v < kVectors; ++v) {
        acc[i][v] = kInto == Into::subtract ? acc[i][v] - x * column[v] : acc[i][v] + x * column[v];
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      store(c + i * ldc + v * kLanes, acc[i][v]);
    }
  }
}

/// Fewer columns than a vector has lanes.
template <Into kInto>
FL_INLINE void gemm_tail(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                         int64_t ldb, float* c, int64_t ldc) {
  for (int64_t i = 0; i < m; ++i) {
    vf acc = kInto == Into::store ? vf{} : load_part(c + i * ldc, n);
    for (int64_t p = 0; p < k; ++p) {
      const vf column = load_part(b + p * ldb, n);
      const vf x = splat(a[i * lda + p]);
      acc = kInto == Into::subtract ? acc - x * column : acc + x * column;
    }
    store_part(c + i * ldc, acc, n);
  }
}

/// Rows of one panel of kVectors vectors. Register blocking: kMaxRows * kVectors accumulators.
template <int kMaxRows, int kVectors, Into kInto>
FL_INLINE void gemm_panel(int64_t m, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                          float* c, int64_t ldc) {
  int64_t i = 0;
  for (; i + kMaxRows <= m; i += kMaxRows) {
    gemm_tile<kMaxRows, kVectors, kInto>(k, a + i * lda, lda, b, ldb, c + i * ldc, ldc);
  }
  for (; i + 2 <= m; i += 2) {
    gemm_tile<2, kVectors, kInto>(k, a + i * lda, lda, b, ldb, c + i * ldc, ldc);
  }
  for (; i < m; ++i) {
    gemm_tile<1, kVectors, kInto>(k, a + i * lda, lda, b, ldb, c + i * ldc, ldc);
  }
}

template <Into kInto>
static void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                 float* c, int64_t ldc) {
  int64_t j = 0;
  for (; j + 4 * kLanes <= n; j += 4 * kLanes) {
    gemm_panel<FL_GEMM_ROWS, 4, kInto>(m, k, a, lda, b + j, ldb, c + j, ldc);
  }
  for (; j + kLanes <= n; j += kLanes) {
    gemm_panel<FL_GEMM_ROWS, 1, kInto>(m, k, a, lda, b + j, ldb, c + j, ldc);
  }
  if (j < n) {
    gemm_tail<kInto>(m, n - j, k, a, lda, b + j, ldb, c + j, ldc);
  }
}
