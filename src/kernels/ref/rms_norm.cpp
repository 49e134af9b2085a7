#include "kernels/rms_norm.h"

#include <cmath>

namespace fl::ref {

void rms_norm(const double* x, const double* w, double eps, int64_t n, double* y) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += x[i] * x[i];
  }
  const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = x[i] * scale * w[i];
  }
}

void gated_rms_norm(const double* x, const double* z, const double* w, double eps, int64_t n, double* y) {
  rms_norm(x, w, eps, n, y);
  for (int64_t i = 0; i < n; ++i) {
    y[i] *= z[i] / (1.0 + std::exp(-z[i]));
  }
}

}  // namespace fl::ref
