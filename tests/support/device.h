// What device tests stand on: the device, and buffers on it that are filled with NaN before use, with
// canaries in front and behind. A kernel that forgets an element leaves a NaN; one that writes outside is
// found by intact(); one that reads outside by compute-sanitizer.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <gtest/gtest.h>

#include "core/cuda/runtime.h"

namespace fl::test {

/// Without a device its tests are skipped; they fail where CI_GPU says that there is one.
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda::device_count() == 0) {
      if (std::getenv("CI_GPU") != nullptr) {
        FAIL() << "no CUDA device, and CI_GPU says there is one";
      }
      GTEST_SKIP() << "no CUDA device";
    }
    device_ = cuda::use_device(0);
  }
  cuda::DeviceInfo device_;
};

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::integral auto n)
      : n_(static_cast<size_t>(n)), buffer_(static_cast<size_t>(n) * sizeof(T) + 2 * kCanary) {
    poison();
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { upload(values); }

  T* data() const { return reinterpret_cast<T*>(buffer_.data() + kCanary); }
  size_t size() const { return n_; }
  void poison() {
    cuda::check(cudaMemset(buffer_.data(), kCanaryByte, buffer_.bytes()), "canaries");
    cuda::check(cudaMemset(data(), 0xFF, bytes()), "poison");  // NaN in every float type
  }
  void upload(const std::vector<T>& values) {
    cuda::check(cudaMemcpy(data(), values.data(), bytes(), cudaMemcpyHostToDevice), "upload");
  }
  std::vector<T> download() const {
    std::vector<T> values(n_);
    cuda::check(cudaDeviceSynchronize(), "kernels");
    cuda::check(cudaMemcpy(values.data(), data(), bytes(), cudaMemcpyDeviceToHost), "download");
    return values;
  }
  bool intact() const {
    std::vector<unsigned char> all(buffer_.bytes());
    cuda::check(cudaDeviceSynchronize(), "kernels");
    cuda::check(cudaMemcpy(all.data(), buffer_.data(), all.size(), cudaMemcpyDeviceToHost), "canaries");
    for (size_t i = 0; i < kCanary; ++i) {
      if (all[i] != kCanaryByte || all[all.size() - 1 - i] != kCanaryByte) {
        return false;
      }
    }
    return true;
  }

 private:
  static constexpr size_t kCanary = 1024;  ///< a multiple of every alignment that a kernel asks for
  static constexpr unsigned char kCanaryByte = 0xA5;
  size_t bytes() const { return n_ * sizeof(T); }
  size_t n_;
  cuda::DeviceBuffer buffer_;
};

}  // namespace fl::test
