// Memory for kernels to read: aligned to a cache line, on huge pages when large. Private to kernels/cpu.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

namespace fl::cpu {

/// Zeros at first; throws std::bad_alloc. Movable.
class AlignedBytes {
 public:
  static constexpr uint64_t kHugePage = uint64_t{2} << 20;  ///< from this size on huge pages are asked for

  AlignedBytes() = default;
  explicit AlignedBytes(uint64_t size) : size_(size) {
    if (size == 0) {
      return;
    }
    // A huge page begins at a multiple of its size: map one more; what is outside is never touched.
    const uint64_t extra = size >= kHugePage ? kHugePage : 0;
    void* memory = mmap(nullptr, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw std::bad_alloc();
    }
    mapped_ = size + extra;
    map_ = static_cast<uint8_t*>(memory);
    data_ = map_;
    if (extra > 0) {
      data_ += (kHugePage - reinterpret_cast<uintptr_t>(map_) % kHugePage) % kHugePage;
      madvise(data_, size, MADV_HUGEPAGE);
    }
  }
  AlignedBytes(AlignedBytes&& other) noexcept
      : map_(std::exchange(other.map_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        mapped_(std::exchange(other.mapped_, 0)),
        size_(std::exchange(other.size_, 0)) {}
  AlignedBytes& operator=(AlignedBytes&& other) noexcept {
    std::swap(map_, other.map_);
    std::swap(data_, other.data_);
    std::swap(mapped_, other.mapped_);
    std::swap(size_, other.size_);
    return *this;
  }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  ~AlignedBytes() {
    if (map_ != nullptr) {
      munmap(map_, mapped_);
    }
  }
  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  uint8_t* map_ = nullptr;
  uint8_t* data_ = nullptr;
  uint64_t mapped_ = 0;
  uint64_t size_ = 0;
};

}  // namespace fl::cpu
