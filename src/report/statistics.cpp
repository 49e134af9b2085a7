#include "report/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fl::report {
namespace {

constexpr double kFirstEdge = 1e-4;  // seconds
constexpr double kLastEdge = 100;
constexpr int kBinsPerDecade = 12;

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

Stat stat_of(std::span<const double> values) {
  Stat out;
  if (values.empty()) {
    return out;
  }
  out.n = static_cast<int64_t>(values.size());
  out.mean = mean_of(values);
  if (values.size() > 1) {
    double squares = 0;
    for (const double value : values) {
      squares += (value - out.mean) * (value - out.mean);
    }
    out.sd = std::sqrt(squares / static_cast<double>(values.size() - 1));
  }
  out.cv = out.mean != 0 ? out.sd / std::abs(out.mean) : 0;
  out.median = median({values.begin(), values.end()});
  out.min = *std::min_element(values.begin(), values.end());
  out.max = *std::max_element(values.begin(), values.end());
  return out;
}

double quantile(std::span<const double> sorted, double q) {
  const double at = std::clamp(q, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return quantile(values, 0.5);
}

Distribution distribution_of(std::vector<double> values) {
  Distribution out;
  if (values.empty()) {
    return out;
  }
  std::sort(values.begin(), values.end());
  out.n = static_cast<int64_t>(values.size());
  out.mean = mean_of(values);
  out.p50 = quantile(values, 0.50);
  out.p95 = quantile(values, 0.95);
  out.p99 = quantile(values, 0.99);
  out.min = values.front();
  out.max = values.back();
  return out;
}

Histogram histogram_of(std::span<const double> seconds) {
  const int n_bins = static_cast<int>(std::lround(kBinsPerDecade * std::log10(kLastEdge / kFirstEdge)));
  std::vector<int64_t> counts(static_cast<size_t>(n_bins));
  int first = n_bins;
  int last = -1;
  for (const double value : seconds) {
    const double place = value > 0 ? kBinsPerDecade * std::log10(value / kFirstEdge) : 0;
    const int bin = std::clamp(static_cast<int>(std::floor(place)), 0, n_bins - 1);
    ++counts[static_cast<size_t>(bin)];
    first = std::min(first, bin);
    last = std::max(last, bin);
  }
  Histogram out;
  for (int bin = first; bin <= last; ++bin) {
    out.edges.push_back(kFirstEdge * std::pow(10.0, static_cast<double>(bin) / kBinsPerDecade));
    out.counts.push_back(counts[static_cast<size_t>(bin)]);
  }
  if (last >= first) {
    out.edges.push_back(kFirstEdge * std::pow(10.0, static_cast<double>(last + 1) / kBinsPerDecade));
  }
  return out;
}

Line fit_line(std::span<const double> x, std::span<const double> y) {
  Line out;
  if (x.empty()) {
    return out;
  }
  const double mean_x = mean_of(x);
  const double mean_y = mean_of(y);
  double xx = 0;
  double xy = 0;
  double yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    xy += (x[i] - mean_x) * (y[i] - mean_y);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
  }
  out.slope = xx > 0 ? xy / xx : 0;
  out.at_zero = mean_y - out.slope * mean_x;
  out.r2 = xx > 0 && yy > 0 ? xy * xy / (xx * yy) : 0;
  return out;
}

Line fit_robust_line(std::span<const double> x, std::span<const double> y) {
  Line out;
  if (x.empty()) {
    return out;
  }
  std::vector<double> slopes;
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = i + 1; j < x.size(); ++j) {
      if (x[i] != x[j]) {
        slopes.push_back((y[j] - y[i]) / (x[j] - x[i]));
      }
    }
  }
  out.slope = slopes.empty() ? 0 : median(std::move(slopes));
  std::vector<double> rests;
  for (size_t i = 0; i < x.size(); ++i) {
    rests.push_back(y[i] - out.slope * x[i]);
  }
  out.at_zero = median(std::move(rests));
  return out;
}

double student(double freedom) {
  // By the first terms of its expansion (Abramowitz and Stegun 26.7.5).
  return 1.96 + 2.37 / freedom + 2.82 / (freedom * freedom);
}

Fit fit_columns(const std::vector<std::vector<double>>& rows, std::span<const double> y) {
  const size_t n = rows.empty() ? 0 : rows.front().size();
  // The normal equations beside a unit matrix, which becomes the inverse (Gauss and Jordan).
  constexpr double kLeastPivot = 1e-9;  // of what the column was
  std::vector<std::vector<double>> a(n, std::vector<double>(2 * n));
  std::vector<double> products(n);
  for (size_t i = 0; i < n; ++i) {
    a[i][n + i] = 1;
    for (size_t r = 0; r < rows.size(); ++r) {
      products[i] += rows[r][i] * y[r];
      for (size_t j = 0; j < n; ++j) {
        a[i][j] += rows[r][i] * rows[r][j];
      }
    }
  }
  // What the columns before leave of one is its pivot: none, and it adds nothing.
  std::vector<bool> used(n);
  for (size_t i = 0; i < n; ++i) {
    double before = 0;
    for (const std::vector<double>& row : rows) {
      before += row[i] * row[i];
    }
    const double pivot = a[i][i];
    used[i] = before > 0 && pivot > kLeastPivot * before;
    if (!used[i]) {
      continue;
    }
    for (double& value : a[i]) {
      value /= pivot;
    }
    for (size_t k = 0; k < n; ++k) {
      const double factor = a[k][i];
      for (size_t j = 0; k != i && j < 2 * n; ++j) {
        a[k][j] -= factor * a[i][j];
      }
    }
  }
  Fit out;
  for (size_t i = 0; i < n; ++i) {
    double factor = 0;
    for (size_t j = 0; used[i] && j < n; ++j) {
      factor += used[j] ? a[i][n + j] * products[j] : 0;
    }
    out.factors.push_back(factor);
    out.variances.push_back(used[i] ? a[i][n + i] : HUGE_VAL);
  }
  for (size_t r = 0; r < rows.size(); ++r) {
    double left = y[r];
    for (size_t i = 0; i < n; ++i) {
      left -= out.factors[i] * rows[r][i];
    }
    out.left.push_back(left);
    out.squares += left * left;
  }
  out.freedom =
      static_cast<double>(rows.size()) - static_cast<double>(std::count(used.begin(), used.end(), true));
  return out;
}

}  // namespace fl::report
