// The first memory: KV blocks of kBlockTokens tokens. Reference-counted, so that sequences and the prefix
// cache share them; a block is written only by the one sequence that fills it. Ids only: the bytes are the
// runner's.
#pragma once

#include <cstdint>
#include <vector>

namespace fl::engine {

class KvCache {
 public:
  explicit KvCache(int32_t n_blocks);

  int32_t total() const { return static_cast<int32_t>(refs_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t refs(int32_t block) const { return refs_.at(block); }

  /// A block with one reference, or -1 when none is free.
  int32_t allocate();
  void add_ref(int32_t block);
  void release(int32_t block);

 private:
  std::vector<int32_t> refs_;
  std::vector<int32_t> free_;
};

}  // namespace fl::engine
