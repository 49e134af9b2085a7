#include "model/host_buffer.h"

#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <new>
#include <string>
#include <utility>

namespace fl::model {

HostBuffer::HostBuffer(uint64_t bytes) : bytes_(bytes) {
  if (bytes == 0) {
    return;
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw std::bad_alloc();
  }
  madvise(memory, bytes, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
  std::memset(data_, 0, bytes);
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) {
    munmap(data_, bytes_);
  }
}

uint64_t available_memory() {
  std::ifstream in("/proc/meminfo");
  std::string word;
  while (in >> word) {
    if (word == "MemAvailable:") {
      uint64_t kib = 0;
      in >> kib;
      return kib * 1024;
    }
  }
  return 0;
}

}  // namespace fl::model
