// Memory of packed weights: pieces of large slabs on huge pages, so that neither page tables nor the page
// borders at which the hardware's prefetching ends slow a stream. A matrix alone is often smaller than a huge
// page. Private to kernels/cpu.
#pragma once

#include <cstdint>
#include <memory>

namespace fl::cpu {

class WeightBytes {
 public:
  WeightBytes() = default;
  /// Zeros, aligned to 64 bytes; throws std::bad_alloc. A slab goes when its last piece goes.
  explicit WeightBytes(uint64_t size);

  uint8_t* data() const { return data_.get(); }
  uint64_t size() const { return size_; }

 private:
  std::shared_ptr<uint8_t> data_;  ///< shares ownership of the slab
  uint64_t size_ = 0;
};

}  // namespace fl::cpu
