#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace fl::ref {

void attention(const AttentionShape& shape, const double* q, const double* gate, const double* k,
               const double* v, int64_t n_tokens, int64_t n_keys, double* out) {
  const int64_t hd = shape.head_dim;
  const int64_t kv_width = shape.n_kv_heads * hd;
  for (int64_t t = 0; t < n_tokens; ++t) {
    const int64_t visible = n_keys - n_tokens + t + 1;
    for (int64_t h = 0; h < shape.n_heads; ++h) {
      const int64_t at = (t * shape.n_heads + h) * hd;
      const int64_t g = h / shape.group();
      std::vector<double> p(static_cast<size_t>(visible));
      for (int64_t j = 0; j < visible; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < hd; ++d) {
          dot += q[at + d] * k[j * kv_width + g * hd + d];
        }
        p[static_cast<size_t>(j)] = dot * shape.scale;
      }
      const double largest = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& value : p) {
        value = std::exp(value - largest);
        sum += value;
      }
      for (int64_t d = 0; d < hd; ++d) {
        double o = 0;
        for (int64_t j = 0; j < visible; ++j) {
          o += p[static_cast<size_t>(j)] * v[j * kv_width + g * hd + d];
        }
        out[at + d] = o / sum / (1.0 + std::exp(-gate[at + d]));
      }
    }
  }
}

}  // namespace fl::ref
