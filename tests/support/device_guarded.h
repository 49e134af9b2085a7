// Device buffers for kernel tests: filled with NaN before use, with canaries in front and behind. A kernel
// that forgets an element leaves a NaN; one that writes outside is found by intact(); one that reads outside
// by compute-sanitizer.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/cuda/runtime.h"
#include "core/half.h"
#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/queue.h"

namespace fl::test {

/// Every test of a device stands on this: it fails where CI is set and there is no device, and is skipped
/// elsewhere.
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda::device_count() == 0) {
      if (std::getenv("CI") != nullptr) {
        FAIL() << "no CUDA device";
      }
      GTEST_SKIP() << "no CUDA device";
    }
    device_ = cuda::use_device(0);
  }
  cuda::DeviceInfo device_;
};

template <typename T>
class DeviceGuarded {
 public:
  explicit DeviceGuarded(int64_t n) : n_(n), buffer_(static_cast<uint64_t>(n) * sizeof(T) + 2 * kCanary) {
    poison();
  }
  explicit DeviceGuarded(const std::vector<T>& values) : DeviceGuarded(static_cast<int64_t>(values.size())) {
    set(values);
  }

  T* data() { return reinterpret_cast<T*>(buffer_.data() + kCanary); }
  int64_t size() const { return n_; }
  void poison() {
    cuda::check(cudaMemset(buffer_.data(), kCanaryByte, buffer_.bytes()), "canaries");
    cuda::check(cudaMemset(data(), 0xFF, bytes()), "poison");
  }
  void set(const std::vector<T>& values) {
    cuda::check(cudaMemcpy(data(), values.data(), bytes(), cudaMemcpyHostToDevice), "upload");
  }
  std::vector<T> get() {
    std::vector<T> values(static_cast<size_t>(n_));
    cuda::check(cudaDeviceSynchronize(), "kernels");
    cuda::check(cudaMemcpy(values.data(), data(), bytes(), cudaMemcpyDeviceToHost), "download");
    return values;
  }
  bool intact() {
    std::vector<unsigned char> all(buffer_.bytes());
    cuda::check(cudaMemcpy(all.data(), buffer_.data(), all.size(), cudaMemcpyDeviceToHost), "download");
    for (size_t i = 0; i < kCanary; ++i) {
      if (all[i] != kCanaryByte || all[all.size() - 1 - i] != kCanaryByte) {
        return false;
      }
    }
    return true;
  }

 private:
  static constexpr uint64_t kCanary = 256;
  static constexpr unsigned char kCanaryByte = 0xA5;
  size_t bytes() const { return static_cast<size_t>(n_) * sizeof(T); }
  int64_t n_;
  cuda::DeviceBuffer buffer_;
};

/// Activations in a device array, and what they say.
class DeviceActivations {
 public:
  DeviceActivations(int32_t n_tokens, int32_t cols)
      : bytes_(static_cast<int64_t>(cuda::activation_bytes(n_tokens, cols))),
        value_{nullptr, n_tokens, cols} {
    value_.data = bytes_.data();
  }
  const cuda::Activations& value() const { return value_; }
  bool intact() { return bytes_.intact(); }
  /// [n_tokens][padded columns]
  std::vector<float> get() {
    const std::vector<std::byte> all = bytes_.get();
    const int64_t n = value_.n_tokens;
    const int64_t padded = cuda::padded_cols(value_.cols);
    std::vector<float> out;
    for (int64_t token = 0; token < n; ++token) {
      for (int64_t c = 0; c < padded; ++c) {
        const int64_t at = value_.layout() == cuda::ActivationLayout::rows
                               ? (token * padded + cuda::row_position(static_cast<int>(c))) * 2
                               : (((c >> 8) * 9 + ((c >> 5) & 7)) * n + token) * 64 + ((c >> 2) & 3) * 16 +
                                     ((c >> 4) & 1) * 8 + (c & 3) * 2;
        uint16_t half = 0;
        std::memcpy(&half, all.data() + at, sizeof half);
        out.push_back(f16_to_float(half) / cuda::kActivationScale);
      }
    }
    return out;
  }

 private:
  DeviceGuarded<std::byte> bytes_;
  cuda::Activations value_;
};

inline std::vector<float> random_floats(std::mt19937& random, int64_t n, float low, float high) {
  std::uniform_real_distribution<float> draw(low, high);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) {
    v = draw(random);
  }
  return out;
}

}  // namespace fl::test
