// The second memory: rows of recurrent state, each valid at exactly one position of one sequence. A row has
// one owner: a running sequence (live) or the prefix cache (a checkpoint, or a sequence parked after its
// end).
#pragma once

#include <cstdint>
#include <vector>

namespace fl::engine {

class StateCache {
 public:
  explicit StateCache(int32_t n_rows);

  int32_t total() const { return static_cast<int32_t>(used_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }

  /// A row, or -1 when none is free.
  int32_t allocate();
  void release(int32_t row);

 private:
  std::vector<char> used_;
  std::vector<int32_t> free_;
};

}  // namespace fl::engine
