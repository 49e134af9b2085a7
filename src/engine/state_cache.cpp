#include "engine/state_cache.h"

#include <numeric>

#include "base/result.h"

namespace fl::engine {

StateCache::StateCache(int32_t n_step_rows, int32_t n_spare_rows)
    : n_step_rows_(n_step_rows),
      used_(int64_t{n_step_rows} + n_spare_rows, 0),
      free_step_(n_step_rows),
      free_spare_(n_spare_rows) {
  std::iota(free_step_.rbegin(), free_step_.rend(), 0);
  std::iota(free_spare_.rbegin(), free_spare_.rend(), n_step_rows);
}

int32_t StateCache::take(std::vector<int32_t>& free) {
  if (free.empty()) {
    return -1;
  }
  const int32_t row = free.back();
  free.pop_back();
  used_[row] = 1;
  return row;
}

void StateCache::release(int32_t row) {
  FL_CHECK(used_.at(row) != 0, "release of a free state row");
  used_[row] = 0;
  (is_spare(row) ? free_spare_ : free_step_).push_back(row);
}

}  // namespace fl::engine
