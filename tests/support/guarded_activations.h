// Activations of a product in guarded device memory, and random inputs.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "core/half.h"
#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/queue.h"
#include "tests/support/device.h"

namespace fl::test {

/// Activations in a device array, and what they say.
class DeviceActivations {
 public:
  DeviceActivations(int32_t n_tokens, int32_t cols)
      : bytes_(cuda::activation_bytes(n_tokens, cols)), value_{nullptr, n_tokens, cols} {
    value_.data = bytes_.data();
  }
  const cuda::Activations& value() const { return value_; }
  bool intact() const { return bytes_.intact(); }
  /// [n_tokens][padded columns]
  std::vector<float> download() const {
    const std::vector<std::byte> all = bytes_.download();
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
  DeviceArray<std::byte> bytes_;
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
