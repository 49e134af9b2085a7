// From verdicts to a score with its uncertainty.
#pragma once

#include <cstdint>
#include <span>

namespace fl::eval {

struct Interval {
  double low = 0;
  double high = 0;
};

/// Wilson's score interval (Wilson 1927) for k of n, 95 %.
Interval wilson95(int64_t k, int64_t n);

/// 95 % interval of the mean of `shares`, the share of passing samples of each task, for n_samples in all.
/// Samples of one task are no independent draws: Wilson's interval with the effective number of samples
/// p (1 - p) / variance of the mean (Kish's design effect, "Survey Sampling" 1965), between the number of
/// tasks and n_samples. With one sample a task it is wilson95.
Interval clustered_interval95(std::span<const double> shares, int64_t n_samples);

/// Unbiased pass@k of one task with c right of n samples (Chen et al. 2021, "Evaluating Large Language Models
/// Trained on Code", equation 1). k <= n.
double pass_at_k(int64_t n, int64_t c, int64_t k);

}  // namespace fl::eval
