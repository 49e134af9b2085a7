// What tests of the products have in common: the types, a place to work, one product, its values.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <vector>

#include "tests/kernels/cuda_matmul_support.h"
#include "tests/support/cases.h"

namespace fl::cuda {

inline constexpr std::array kTypes{DType::f32,  DType::f16,  DType::bf16, DType::q4_0,   DType::q4_1,
                                   DType::q5_0, DType::q5_1, DType::q8_0, DType::q2_k,   DType::q3_k,
                                   DType::q4_k, DType::q5_k, DType::q6_k, DType::iq4_nl, DType::iq4_xs};

// One type of every packed form (tile_layout.h).
inline constexpr std::array kPackedForms{DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0, DType::f16};

inline std::span<const DType> types() {
  return test::few_cases() ? std::span<const DType>(kPackedForms) : kTypes;
}

// 16-bit activations: 2.1e-4; f16 copies of weights as much again; a few outputs scatter around that
inline constexpr double kTolerance = 1e-3;

inline const MatmulOptions kTilesOnly{.prompt_kernel = false, .library = false};

class MatmulTest : public test::DeviceTest {
 protected:
  std::unique_ptr<Matmul> make(MatmulOptions options) {
    // 16-bit prompts and records of any number of tokens, whatever the device prefers; int8:
    // cuda_matmul_int8_test
    options.prompt = PromptProducts::f16;
    const uint64_t bytes = std::max(Matmul::workspace_bytes(512, 4096, 8192, options),
                                    Matmul::workspace_bytes(512, 4096, 8192, kTilesOnly));
    workspaces_.push_back(std::make_unique<DeviceArray<std::byte>>(bytes));
    return std::make_unique<Matmul>(device_, workspaces_.back()->data(), bytes, options);
  }
  std::vector<float> run(Matmul& matmul, const Matrix& w, const Inputs& in) {
    DeviceArray<float> y(static_cast<size_t>(in.n * w.rows));
    const Matmul::Output output{&w.packed, y.data(), w.rows};
    matmul.store(nullptr, in.activations, {&output, 1});
    check(cudaDeviceSynchronize(), "product");
    EXPECT_TRUE(y.intact());
    return y.download();
  }
  std::vector<double> expected(const Matrix& w, const Inputs& in) {
    std::vector<double> y;
    for (int t = 0; t < in.n; ++t) {
      for (int64_t r = 0; r < w.rows; ++r) {
        y.push_back(dot(w, r, in.x.data() + t * w.cols));
      }
    }
    return y;
  }
  std::vector<std::unique_ptr<DeviceArray<std::byte>>> workspaces_;
};

}  // namespace fl::cuda
