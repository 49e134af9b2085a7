#include "kernels/gated_delta.h"

#include <cmath>
#include <vector>

#include "kernels/rms_norm.h"

namespace fl::ref {
namespace {

std::vector<double> l2_normalised(const double* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += x[i] * x[i];
  }
  std::vector<double> y(x, x + n);
  for (double& value : y) {
    value /= std::sqrt(sum + kL2NormEps);
  }
  return y;
}

}  // namespace

void gated_delta(const DeltaShape& shape, const DeltaInput<double>& in, double* state, double* y) {
  const int64_t dk = shape.key_dim;
  const int64_t dv = shape.value_dim;
  for (int64_t t = 0; t < in.n_tokens; ++t) {
    for (int64_t h = 0; h < shape.n_value_heads; ++h) {
      const double* row = in.qkv + t * in.qkv_stride;
      const int64_t key_head = h % shape.n_key_heads;
      const std::vector<double> q = l2_normalised(row + key_head * dk, dk);
      const std::vector<double> k = l2_normalised(row + shape.qk_channels() + key_head * dk, dk);
      const double* v = row + 2 * shape.qk_channels() + h * dv;
      const double beta = 1.0 / (1.0 + std::exp(-in.beta[t * shape.n_value_heads + h]));
      const double x = in.alpha[t * shape.n_value_heads + h] + in.dt[h];
      const double softplus = x > 30 ? x : std::log1p(std::exp(x));
      const double decay = std::exp(in.a[h] * softplus);
      double* s = state + h * dk * dv;
      std::vector<double> o(static_cast<size_t>(dv), 0.0);
      for (int64_t c = 0; c < dv; ++c) {
        double predicted = 0;
        for (int64_t i = 0; i < dk; ++i) {
          s[i * dv + c] *= decay;
          predicted += s[i * dv + c] * k[static_cast<size_t>(i)];
        }
        const double delta = beta * (v[c] - predicted);
        for (int64_t i = 0; i < dk; ++i) {
          s[i * dv + c] += k[static_cast<size_t>(i)] * delta;
          o[static_cast<size_t>(c)] += s[i * dv + c] * q[static_cast<size_t>(i)];
        }
        o[static_cast<size_t>(c)] /= std::sqrt(static_cast<double>(dk));
      }
      const int64_t at = t * shape.v_channels() + h * dv;
      gated_rms_norm(o.data(), in.z + at, in.norm, in.eps, dv, y + at);
    }
  }
}

}  // namespace fl::ref
