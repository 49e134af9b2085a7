#include "engine/kv_cache.h"

#include <numeric>

#include "base/result.h"

namespace fl::engine {

KvCache::KvCache(int32_t n_blocks) : refs_(n_blocks, 0), free_(n_blocks) {
  // Taken from the back: low ids first, which keeps a short run's blocks together.
  std::iota(free_.rbegin(), free_.rend(), 0);
}

int32_t KvCache::allocate() {
  if (free_.empty()) {
    return -1;
  }
  const int32_t block = free_.back();
  free_.pop_back();
  refs_[block] = 1;
  return block;
}

void KvCache::add_ref(int32_t block) {
  FL_CHECK(refs_.at(block) > 0, "reference to a free KV block");
  ++refs_[block];
}

void KvCache::release(int32_t block) {
  FL_CHECK(refs_.at(block) > 0, "release of a free KV block");
  if (--refs_[block] == 0) {
    free_.push_back(block);
  }
}

}  // namespace fl::engine
