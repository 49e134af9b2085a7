// Memory reserved once: aligned, zeroed (so that the pages are really there), with huge pages where the
// kernel gives them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fl::model {

class HostBuffer {
 public:
  HostBuffer() = default;
  /// Throws std::bad_alloc.
  explicit HostBuffer(uint64_t bytes);
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;
  ~HostBuffer();

  std::byte* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Bytes that a new process may still take without swapping, by /proc/meminfo; 0 if unknown.
uint64_t available_memory();

}  // namespace fl::model
