#include "kernels/causal_conv.h"

#include <cmath>
#include <vector>

namespace fl::ref {

void causal_conv_silu(const double* u, const double* w, int64_t kernel, int64_t n_tokens, int64_t channels,
                      double* window, double* y) {
  const int64_t old = kernel - 1;
  for (int64_t c = 0; c < channels; ++c) {
    std::vector<double> line;
    for (int64_t j = 0; j < old; ++j) {
      line.push_back(window[j * channels + c]);
    }
    for (int64_t t = 0; t < n_tokens; ++t) {
      line.push_back(u[t * channels + c]);
    }
    for (int64_t t = 0; t < n_tokens; ++t) {
      double sum = 0;
      for (int64_t j = 0; j < kernel; ++j) {
        sum += w[j * channels + c] * line[static_cast<size_t>(t + j)];
      }
      y[t * channels + c] = sum / (1.0 + std::exp(-sum));
    }
    for (int64_t j = 0; j < old; ++j) {
      window[j * channels + c] = line[static_cast<size_t>(n_tokens + j)];
    }
  }
}

}  // namespace fl::ref
