// Holds what a runner is given against its contract: options when it is made, each batch before it works on
// it.
#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.h"
#include "model/runner.h"

namespace fl::model {

/// Errors name the option, the expected and the found value.
Status check_options(const Config& config, const RunnerOptions& options);

/// What a runner with these options takes, but for what only some can do (sample, several steps in flight).
Capacity capacity_of(const RunnerOptions& options, const Config& config);

/// Throws std::logic_error when a row of copy_state does not exist.
void check_copy(const Capacity& capacity, int32_t from_row, int32_t to_row);

class BatchCheck {
 public:
  explicit BatchCheck(const Capacity& capacity);
  /// Throws std::logic_error. Batches come in the order in which they are submitted.
  void operator()(const Batch& batch);

 private:
  void check_tokens(const Batch& batch) const;
  void check_slices(const Batch& batch);
  void check_rows(const Batch& batch) const;

  Capacity capacity_;
  std::vector<uint64_t> row_used_;  ///< the last step that used the state row
  uint64_t step_ = 0;
  std::vector<bool> sampled_;  ///< of the rows of the step before
};

}  // namespace fl::model
