// The choice of a token from its logits, on the device: the steps of model/batch.h (DeviceSampling), exactly,
// with candidates selected by radix selection over (logit, id) and probabilities in double precision.
#pragma once

#include <cstdint>

#include "kernels/cuda/queue.h"

namespace fl::cuda {

/// Candidates that the device can hold.
inline constexpr int kMaxTopK = 128;
/// Pieces of the vocabulary that are searched side by side.
inline constexpr int kSamplingParts = 32;

/// Biased logits that a row may have.
inline constexpr int kMaxSamplingBias = 32;
/// Where a bias stops, so that no sum overflows.
inline constexpr float kLargestLogit = 1e30F;

struct SamplingBias {
  int32_t token;
  float add;
};

/// One row of logits; what DeviceSampling says. The logits themselves are not changed.
struct SamplingRow {
  int32_t logits_row = 0;  ///< row of the logits
  int32_t top_k = 0;       ///< 0: nothing is sampled (the token is -1); 1 and `greedy`: the largest
  float top_p = 1;
  float min_p = 0;
  float temperature = 1;
  float uniform = 0;
  int32_t n_bias = 0;
  SamplingBias bias[kMaxSamplingBias] = {};
};

/// (ordered logit, inverted id) pairs; as large as `sampling_scratch(n_rows)` says.
using SamplingCandidate = uint64_t;
int64_t sampling_scratch(int n_rows);  ///< in candidates

/// sampled [n_rows]: the token, or -1 when a row has a NaN or its largest logit is not finite. logits
/// [..][n_vocab].
void sample(const Queue& queue, const float* logits, int n_vocab, const SamplingRow* rows, int n_rows,
            SamplingCandidate* scratch, int32_t* sampled);

}  // namespace fl::cuda
