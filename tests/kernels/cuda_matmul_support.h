// Matrices and activations on host and device, for tests of the products.
#pragma once

#include <cmath>
#include <concepts>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "core/quants.h"
#include "kernels/cuda/matmul.h"
#include "tests/support/device.h"

namespace fl::cuda {

using test::DeviceArray;

// A matrix on both sides: file bytes and values on the host, tiles on the device.
struct Matrix {
  DType type;
  int64_t rows;
  int64_t cols;
  std::vector<std::byte> blocks;
  std::vector<float> values;
  std::unique_ptr<DeviceArray<std::byte>> tiles;
  PackedMatrix packed;

  /// scale_bits: f16 bits that every block has as its scale (and Q4_K, Q5_K as that of the minima) instead of
  /// its own.
  Matrix(DType t, int64_t n_rows, int64_t n_cols, uint32_t seed, std::optional<uint16_t> scale_bits = {})
      : Matrix(t, n_rows, n_cols, seed, [t, scale_bits](std::byte* block) {
          if (scale_bits.has_value()) {
            std::memcpy(block + (t == DType::q6_k ? 208 : 0), &*scale_bits, 2);
            if (t == DType::q4_k || t == DType::q5_k) {
              std::memcpy(block + 2, &*scale_bits, 2);
            }
          }
        }) {}
  /// change(block) may edit each block of the file.
  template <typename Change>
  requires std::invocable<Change, std::byte*> Matrix(DType t, int64_t n_rows, int64_t n_cols, uint32_t seed,
                                                     const Change& change)
      : type(t), rows(n_rows), cols(n_cols) {
    const size_t stride = row_bytes(type, static_cast<uint64_t>(cols));
    blocks.resize(stride * static_cast<size_t>(rows));
    values.resize(static_cast<size_t>(rows * cols));
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> row(static_cast<size_t>(cols));
    // rows repeat after a while: quantising is slow, and what is tested does not need more
    const int64_t distinct = std::min<int64_t>(rows, 96);
    for (int64_t r = 0; r < distinct; ++r) {
      for (float& v : row) {
        v = normal(rng) * 0.05F;
      }
      quantize_row(type, row, {}, blocks.data() + stride * static_cast<size_t>(r));
      std::byte* const first = blocks.data() + stride * static_cast<size_t>(r);
      for (std::byte* block = first; block < first + stride; block += dtype_info(type).block_bytes) {
        change(block);
      }
    }
    for (int64_t r = distinct; r < rows; ++r) {
      std::memcpy(blocks.data() + stride * static_cast<size_t>(r),
                  blocks.data() + stride * static_cast<size_t>((r * 7 + r / 96) % distinct), stride);
    }
    for (int64_t r = 0; r < rows; ++r) {
      dequantize_row(type, blocks.data() + stride * static_cast<size_t>(r),
                     {values.data() + r * cols, static_cast<size_t>(cols)});
    }
    tiles = std::make_unique<DeviceArray<std::byte>>(packed_bytes(type, rows, cols));
    const DeviceArray<std::byte> file(blocks);
    // in two pieces, as a loader may
    const int64_t cut = rows > 32 ? 16 : rows;
    packed = repack(nullptr, type, rows, cols, file.data(), 0, cut, tiles->data());
    if (cut < rows) {
      repack(nullptr, type, rows, cols, file.data() + stride * static_cast<size_t>(cut), cut, rows - cut,
             tiles->data());
    }
    check(cudaDeviceSynchronize(), "repack");
  }
};

inline std::vector<float> random_vector(size_t n, uint32_t seed, float scale = 1.0F) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) {
    v = normal(rng) * scale;
  }
  return x;
}

struct Inputs {
  int n;
  std::vector<float> x;  ///< [n][cols]
  std::unique_ptr<DeviceArray<std::byte>> stored;
  Activations activations;

  Inputs(std::vector<float> values, int n_tokens, int64_t cols, int32_t most_records = kMaxColumns,
         bool prompt = false)
      : n(n_tokens), x(std::move(values)) {
    stored = std::make_unique<DeviceArray<std::byte>>(activation_bytes(n, cols));
    activations = {stored->data(), n, static_cast<int32_t>(cols), most_records, prompt};
    const DeviceArray<float> device(x);
    store_activations(nullptr, false, device.data(), cols, activations);
    check(cudaDeviceSynchronize(), "store activations");
  }
  Inputs(int n_tokens, int64_t cols, uint32_t seed, int32_t most_records = kMaxColumns, bool prompt = false)
      : Inputs(random_vector(static_cast<size_t>(n_tokens * cols), seed), n_tokens, cols, most_records,
               prompt) {}
};

inline double dot(const Matrix& w, int64_t row, const float* x) {
  double sum = 0;
  for (int64_t c = 0; c < w.cols; ++c) {
    sum += static_cast<double>(w.values[static_cast<size_t>(row * w.cols + c)]) * static_cast<double>(x[c]);
  }
  return sum;
}

inline double silu(double x) {
  return x / (1 + std::exp(-x));
}

// ‖got - expected‖ / ‖expected‖; a NaN never passes.
inline double relative_error(const std::vector<double>& expected, const std::vector<float>& got) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(got[i]) - expected[i];
    difference += d * d;
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace fl::cuda
