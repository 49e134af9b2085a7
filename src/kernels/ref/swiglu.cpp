#include "kernels/swiglu.h"

#include <cmath>

namespace fl::ref {

void swiglu(const double* gate, const double* up, int64_t n, double* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
  }
}

}  // namespace fl::ref
