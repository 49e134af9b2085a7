// The second memory: rows of recurrent state, each valid at exactly one position of one sequence. The
// runner's step rows (model/runner.h) come first, then its spare rows. A row has one owner: a running
// sequence (a step row) or the prefix cache: a checkpoint, or a sequence parked after its end. What ends
// stays in its step row until another sequence needs that one, so that a chat that goes on costs no copy.
#pragma once

#include <cstdint>
#include <vector>

namespace fl::engine {

class StateCache {
 public:
  StateCache(int32_t n_step_rows, int32_t n_spare_rows);

  int32_t total() const { return static_cast<int32_t>(used_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_step_.size() + free_spare_.size()); }
  int32_t free_step() const { return static_cast<int32_t>(free_step_.size()); }
  bool is_spare(int32_t row) const { return row >= n_step_rows_; }

  /// A row, or -1 when none is free.
  int32_t allocate_step() { return take(free_step_); }
  int32_t allocate_spare() { return take(free_spare_); }
  void release(int32_t row);

 private:
  int32_t take(std::vector<int32_t>& free);

  int32_t n_step_rows_;
  std::vector<char> used_;
  std::vector<int32_t> free_step_;
  std::vector<int32_t> free_spare_;
};

}  // namespace fl::engine
