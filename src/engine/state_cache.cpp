#include "engine/state_cache.h"

#include <numeric>

#include "base/result.h"

namespace fl::engine {

StateCache::StateCache(int32_t n_rows) : used_(n_rows, 0), free_(n_rows) {
  std::iota(free_.rbegin(), free_.rend(), 0);
}

int32_t StateCache::allocate() {
  if (free_.empty()) {
    return -1;
  }
  const int32_t row = free_.back();
  free_.pop_back();
  used_[row] = 1;
  return row;
}

void StateCache::release(int32_t row) {
  FL_CHECK(used_.at(row) != 0, "release of a free state row");
  used_[row] = 0;
  free_.push_back(row);
}

}  // namespace fl::engine
