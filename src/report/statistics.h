// Statistics of repeats and of pooled values.
#pragma once

#include <span>
#include <vector>

#include "report/document.h"

namespace fl::report {

/// Over this a figure's spread flags the cell.
inline constexpr double kMaxCv = 0.05;

/// n = 0 gives zeros.
Stat stat_of(std::span<const double> values);

/// The value at share `q` (0 .. 1), linear between neighbours (type 7 of Hyndman and Fan, 1996). `sorted` is
/// ascending and not empty.
double quantile(std::span<const double> sorted, double q);
double median(std::vector<double> values);  ///< of at least one value

Distribution distribution_of(std::vector<double> values);

/// Bins of equal ratio from 0.1 ms to 100 s, cut to those between the first and the last that hold a value.
Histogram histogram_of(std::span<const double> seconds);

/// Half of the 95 % interval, in standard errors.
double student(double freedom);

/// y as a sum of columns of x, by least squares.
struct Fit {
  std::vector<double> factors;    ///< of the columns; 0 of one that the columns before it explain
  std::vector<double> variances;  ///< of the factors, where that of a value is 1; infinite of such a one
  std::vector<double> left;       ///< of y, not explained
  double squares = 0;             ///< of what is left
  double freedom = 0;             ///< rows less the other columns
};
/// `rows` have as many columns each; one value of `y` a row.
Fit fit_columns(const std::vector<std::vector<double>>& rows, std::span<const double> y);

/// A straight line by least squares.
struct Line {
  double at_zero = 0;
  double slope = 0;
  double r2 = 0;  ///< share of the variance that it explains
};
/// At least two different x; otherwise the mean as a flat line.
Line fit_line(std::span<const double> x, std::span<const double> y);
/// The same by medians (Theil 1950, Sen 1968): a third of the points may be anything. `r2` stays 0.
Line fit_robust_line(std::span<const double> x, std::span<const double> y);

}  // namespace fl::report
