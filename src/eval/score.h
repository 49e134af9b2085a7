// From verdicts to a score with its uncertainty.
#pragma once

#include <cstdint>
#include <vector>

namespace fl::eval {

struct Interval {
  double low = 0;
  double high = 0;
};

/// Wilson's score interval (Wilson 1927) for k of n, 95 %.
Interval wilson95(int64_t k, int64_t n);

/// Unbiased pass@k of one task with c right of n samples (Chen et al. 2021, "Evaluating Large Language Models
/// Trained on Code", equation 1). k <= n.
double pass_at_k(int64_t n, int64_t c, int64_t k);

}  // namespace fl::eval
