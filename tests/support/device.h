// Device buffers for kernel tests: filled with NaN before use, with canaries on both sides that intact()
// checks.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "core/cuda/runtime.h"

namespace fl::test {

/// Every test program with device tests says whether it has a device; without one its tests skip, in CI they
/// fail.
#define FL_NEEDS_DEVICE()                                       \
  if (::fl::cuda::device_count() == 0) {                        \
    if (std::getenv("CI_GPU") != nullptr) {                     \
      FAIL() << "no CUDA device, and CI_GPU says there is one"; \
    }                                                           \
    GTEST_SKIP() << "no CUDA device";                           \
  }                                                             \
  static_assert(true)

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n), buffer_(n * sizeof(T) + 2 * kCanary + kAlign) { poison(); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { upload(values); }

  T* data() const { return reinterpret_cast<T*>(buffer_.data() + kCanary); }
  std::byte* bytes() const { return buffer_.data() + kCanary; }
  size_t size() const { return n_; }
  void poison() {
    cuda::check(cudaMemset(buffer_.data(), 0xFF, buffer_.bytes()), "poison");  // NaN in every float type
  }
  void upload(const std::vector<T>& values) {
    cuda::check(cudaMemcpy(data(), values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  std::vector<T> download() const {
    std::vector<T> values(n_);
    cuda::check(cudaMemcpy(values.data(), data(), n_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return values;
  }
  bool intact() const {
    std::vector<uint8_t> all(buffer_.bytes());
    cuda::check(cudaMemcpy(all.data(), buffer_.data(), all.size(), cudaMemcpyDeviceToHost), "canaries");
    for (size_t i = 0; i < kCanary; ++i) {
      if (all[i] != 0xFF) {
        return false;
      }
    }
    for (size_t i = kCanary + n_ * sizeof(T); i < all.size(); ++i) {
      if (all[i] != 0xFF) {
        return false;
      }
    }
    return true;
  }

 private:
  static constexpr size_t kCanary = 1024;
  static constexpr size_t kAlign = 256;
  size_t n_;
  cuda::DeviceBuffer buffer_;
};

}  // namespace fl::test
