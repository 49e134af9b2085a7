// Runs one test of `freelunch bench` on a Runner: the product's own step, without server or sampler chain.
#pragma once

#include <cstdint>
#include <vector>

#include "apps/bench/plan.h"
#include "base/result.h"
#include "model/runner.h"
#include "model/weights.h"

namespace fl::apps::bench {

struct Measured {
  std::vector<double> seconds;  ///< of each repetition
  std::vector<double> rates;    ///< tokens/s of all sequences together, of each repetition
  uint64_t tokens_hash = 0;     ///< of every token that the model chose; equal for equal results
  /// Repetitions whose tokens are not those of the first: they start alike, so any is an error of a kernel or
  /// of the machine.
  int n_differing = 0;
  /// Where the runner reads memory between the steps of a pure generation test: the rate of each read,
  /// bytes/s, and of each stretch of steps its steps a second over the mean rate of the reads before and
  /// behind it.
  std::vector<double> reads;
  std::vector<double> steps_per_byte;
  /// The median read; 0: the runner has none.
  double read_bandwidth() const;
  double median_steps_per_byte() const;
  double mean_rate() const;
  double stddev_rate() const;  ///< of the sample
  double mean_seconds() const;
  double stddev_seconds() const;
};

/// The blocks, rows and sizes that the test needs.
model::RunnerOptions runner_options(const Test& test);

/// Prompts are seeded random ids, submitted in steps of at most n_batch tokens, sequences together;
/// generation goes on with the model's own greedy choice. With a depth, the sequences are filled once and
/// their state is restored before each repetition. One untimed warm-up. In pure generation tests the clock
/// stops every kStepsPerRead steps for a Runner::read_memory.
Measured measure(model::Runner& runner, const Test& test, int repetitions, uint32_t seed);

/// Least bytes that generating one token for every sequence must read and write: the matrices once, the
/// recurrent states in and out, the cached keys and values at the test's mean depth.
double step_bytes(const model::Weights& weights, const Test& test);
/// Multiply-adds times two of the matrices for one prompt token (the output matrix is needed once a prompt
/// and left out).
double prompt_token_ops(const model::Weights& weights);

}  // namespace fl::apps::bench
