#include "eval/score.h"

#include <cmath>

namespace fl::eval {

Interval wilson95(int64_t k, int64_t n) {
  if (n <= 0) {
    return {0, 1};
  }
  constexpr double kZ = 1.959963984540054;  // two-sided 95 % of the normal distribution
  const double count = static_cast<double>(n);
  const double p = static_cast<double>(k) / count;
  const double z2 = kZ * kZ / count;
  const double centre = (p + z2 / 2) / (1 + z2);
  const double half = kZ / (1 + z2) * std::sqrt(p * (1 - p) / count + z2 / (4 * count));
  return {k == 0 ? 0 : centre - half, k == n ? 1 : centre + half};
}

double pass_at_k(int64_t n, int64_t c, int64_t k) {
  if (n - c < k) {
    return 1;
  }
  double miss = 1;
  for (int64_t i = n - c + 1; i <= n; ++i) {
    miss *= 1 - static_cast<double>(k) / static_cast<double>(i);
  }
  return 1 - miss;
}

}  // namespace fl::eval
