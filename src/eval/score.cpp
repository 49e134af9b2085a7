#include "eval/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fl::eval {

namespace {

// p of `count` samples; `count` may be an effective number.
Interval wilson(double p, double count) {
  constexpr double kZ = 1.959963984540054;  // two-sided 95 % of the normal distribution
  const double z2 = kZ * kZ / count;
  const double centre = (p + z2 / 2) / (1 + z2);
  const double half = kZ / (1 + z2) * std::sqrt(p * (1 - p) / count + z2 / (4 * count));
  return {p <= 0 ? 0 : centre - half, p >= 1 ? 1 : centre + half};
}

}  // namespace

Interval wilson95(int64_t k, int64_t n) {
  if (n <= 0) {
    return {0, 1};
  }
  return wilson(static_cast<double>(k) / static_cast<double>(n), static_cast<double>(n));
}

Interval clustered_interval95(std::span<const double> shares, int64_t n_samples) {
  if (shares.empty()) {
    return {0, 1};
  }
  const double n_tasks = static_cast<double>(shares.size());
  const double p = std::accumulate(shares.begin(), shares.end(), 0.0) / n_tasks;
  double squares = 0;
  for (double share : shares) {
    squares += (share - p) * (share - p);
  }
  // Variance of the mean over tasks. Zero says nothing when all tasks agree: then the tasks are counted.
  const double variance = n_tasks > 1 ? squares / (n_tasks - 1) / n_tasks : 0;
  const double effective = variance > 0 ? p * (1 - p) / variance : n_tasks;
  return wilson(p, std::clamp(effective, n_tasks, std::max(n_tasks, static_cast<double>(n_samples))));
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
