// Products of prompts: against double precision on the host, and that a token's bits depend on nothing but
// the token, the matrix and the chip (docs/decisions/0082).
#include "kernels/cuda/matmul_prompt.h"

#include <cmath>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/kernels/cuda_matmul_fixture.h"

namespace fl::cuda {
namespace {

using test::cases;
using test::few_cases;

class CudaMatmulPrompt : public MatmulTest {
 protected:
  void SetUp() override {
    MatmulTest::SetUp();
    if (!IsSkipped() && make({})->describe() != "tiles + wgmma") {
      GTEST_SKIP() << "prompts of this device take another way";
    }
  }
  static Inputs some(const Inputs& all, int64_t cols, int first, int n) {
    return {std::vector<float>(all.x.begin() + first * cols, all.x.begin() + (first + n) * cols), n, cols,
            kMaxColumns, true};
  }
};

struct Part {
  int first;
  int n;
};
constexpr int kAll = 700;
std::vector<Part> parts() {
  return cases<Part>(
      {{0, 1}, {699, 1}, {3, 8}, {64, 64}, {100, 65}, {128, 128}, {77, 200}, {300, 257}, {0, 512}, {1, 699}},
      {{64, 64}, {300, 257}});
}

// Matrices with more tiles than SMs and with fewer, in one chain and in several, with rows and columns that
// end within a tile.
TEST_F(CudaMatmulPrompt, ATokensBitsDoNotDependOnTheOthers) {
  const auto matmul = make({});
  for (const DType type :
       cases({DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0, DType::f16}, {DType::q4_k})) {
    for (const auto& [rows, cols] : cases<std::pair<int, int>>(
             {{20000, 768}, {1000, 2304}, {53, 256}, {640, 6144}, {5120, 4864}, {2040, 3328}},
             {{20000, 512}, {640, 6144}})) {
      const Matrix w(type, rows, cols, 71);
      const Inputs all(kAll, cols, 72, kMaxColumns, true);
      const std::vector<float> before =
          random_vector(static_cast<size_t>(kAll) * static_cast<size_t>(rows), 73);
      const auto at = [&](const std::vector<float>& y, Part p) {
        return std::vector<float>(y.begin() + int64_t{p.first} * rows,
                                  y.begin() + int64_t{p.first + p.n} * rows);
      };
      const auto sums = [&](const Inputs& in, const std::vector<float>& to) {
        const DeviceArray<float> y(to);
        matmul->add(nullptr, in.activations, w.packed, y.data(), rows);
        check(cudaDeviceSynchronize(), "product");
        EXPECT_TRUE(y.intact());
        return y.download();
      };
      const std::vector<float> stored = run(*matmul, w, all);
      const std::vector<float> added = sums(all, before);
      EXPECT_EQ(sums(all, before), added) << "a second run";
      for (const Part& p : parts()) {
        const Inputs in = some(all, cols, p.first, p.n);
        const std::string where = fmt::format("{} {}x{}, tokens {} to {}", dtype_info(type).name, rows, cols,
                                              p.first, p.first + p.n);
        ASSERT_EQ(run(*matmul, w, in), at(stored, p)) << where;
        ASSERT_EQ(sums(in, at(before, p)), at(added, p)) << where << ", added";
      }
    }
  }
}

TEST_F(CudaMatmulPrompt, ATokensSwigluDoesNotDependOnTheOthers) {
  const auto matmul = make({});
  constexpr int kFf = 9000;
  for (const auto& [gate_type, up_type] : cases<std::pair<DType, DType>>(
           {{DType::q4_k, DType::q4_k}, {DType::q6_k, DType::q6_k}, {DType::q4_k, DType::q6_k}},
           {{DType::q4_k, DType::q4_k}})) {
    const Matrix gate(gate_type, kFf, 768, 81);
    const Matrix up(up_type, kFf, 768, 82);
    const Inputs all(kAll, 768, 83, kMaxColumns, true);
    const size_t row_bytes = static_cast<size_t>(padded_cols(kFf)) * 2;
    const auto hidden = [&](const Inputs& in) {
      DeviceArray<std::byte> out(activation_bytes(in.n, kFf));
      matmul->swiglu(nullptr, in.activations, gate.packed, up.packed,
                     {out.data(), in.n, kFf, kMaxColumns, true});
      check(cudaDeviceSynchronize(), "swiglu");
      EXPECT_TRUE(out.intact());
      std::vector<std::byte> rows = out.download();
      rows.resize(static_cast<size_t>(in.n) * row_bytes);
      return rows;
    };
    const std::vector<std::byte> together = hidden(all);
    for (const Part& p : parts()) {
      const auto from = together.begin() + static_cast<int64_t>(static_cast<size_t>(p.first) * row_bytes);
      ASSERT_EQ(
          hidden(some(all, 768, p.first, p.n)),
          std::vector<std::byte>(from, from + static_cast<int64_t>(static_cast<size_t>(p.n) * row_bytes)))
          << dtype_info(gate_type).name << ", tokens " << p.first << " to " << p.first + p.n;
    }
  }
}

// Tiles that are shared between blocks and whole ones, rows and tokens that end within a tile.
TEST_F(CudaMatmulPrompt, AgreesWithDoublePrecision) {
  const auto matmul = make({});
  double worst = 0;
  for (const DType type : types()) {
    const bool super = dtype_info(type).block_elems == 256;
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 256},
                                     {5, super ? 256 : 96},
                                     {100, super ? 768 : 800},
                                     {1000, 2304},
                                     {9000, 1024}}) {
      if (few_cases() && rows != 1000) {
        continue;
      }
      const Matrix w(type, rows, cols, static_cast<uint32_t>(rows));
      for (const int n : type == DType::q4_k
                             ? cases({1, 17, 31, 64, 65, 96, 100, 130, 192, 200, 256, 257, 512},
                                     {1, 64, 96, 100, 130, 192, 200, 257, 500})
                             : cases({1, 17, 31, 64, 65, 96, 100, 130, 192, 200, 256, 257, 512}, {100})) {
        if (rows == 9000 && n != 100 && n != 512) {
          continue;
        }
        const Inputs in(n, cols, static_cast<uint32_t>(n), kMaxColumns, true);
        ASSERT_EQ(in.activations.layout(), ActivationLayout::rows);
        const std::vector<float> got = run(*matmul, w, in);
        EXPECT_EQ(run(*matmul, w, in), got) << "a second run";
        std::vector<double> want;
        std::vector<float> sampled;
        for (int64_t i = 0; i < 600; ++i) {
          const int64_t row = i < 300 ? (rows - 1 - i % rows) : i * 7919 % rows;
          const int64_t token = i < 100 ? n - 1 - i % n : i * 31 % n;
          want.push_back(dot(w, row, in.x.data() + token * cols));
          sampled.push_back(got[static_cast<size_t>(token * rows + row)]);
        }
        const double error = relative_error(want, sampled);
        EXPECT_LT(error, kTolerance) << dtype_info(type).name << " " << rows << "x" << cols << " n=" << n;
        worst = std::isnan(error) ? error : std::max(worst, error);
        for (const float v : got) {
          ASSERT_TRUE(std::isfinite(v));
        }
      }
    }
  }
  std::printf("worst relative error %.2e\n", worst);
}

// More blocks of tokens than neighbouring rows take in turn: every output is written, by the right rows and
// tokens.
TEST_F(CudaMatmulPrompt, TakesManyTokens) {
  const auto matmul = make({});
  const Matrix w(DType::q4_k, 1000, 768, 63);
  for (const int n : cases({1100, 1500, 2300}, {1100})) {
    const Inputs in(n, 768, 64, kMaxColumns, true);
    const std::vector<float> got = run(*matmul, w, in);
    std::vector<double> want;
    std::vector<float> sampled;
    for (int64_t i = 0; i < 20000; ++i) {
      const int64_t row = i * 7919 % 1000;
      const int64_t token = i * 31 % n;
      want.push_back(dot(w, row, in.x.data() + token * 768));
      sampled.push_back(got[static_cast<size_t>(token * 1000 + row)]);
    }
    EXPECT_LT(relative_error(want, sampled), kTolerance) << n;
    for (const float v : got) {
      ASSERT_TRUE(std::isfinite(v));
    }
  }
}

TEST_F(CudaMatmulPrompt, TakesSeveralMatricesAndAdds) {
  const auto matmul = make({});
  const Matrix qkv(DType::q6_k, 1000, 1024, 31);
  const Matrix z(DType::q4_k, 600, 1024, 32);
  const Matrix beta(DType::q8_0, 12, 1024, 34);
  for (const int n : cases({40, 65, 150, 300}, {40, 150})) {
    const Inputs in(n, 1024, 35, kMaxColumns, true);
    DeviceArray<float> a(static_cast<size_t>(n * 1000));
    DeviceArray<float> b(static_cast<size_t>(n * 700));  // rows further apart than they are long
    DeviceArray<float> c(static_cast<size_t>(n * 12));
    const std::array<Matmul::Output, 3> outputs{
        {{&qkv.packed, a.data(), 1000}, {&z.packed, b.data(), 700}, {&beta.packed, c.data(), 12}}};
    DeviceArray<float> residual(std::vector<float>(static_cast<size_t>(n) * 600, 2.0F));
    for (int repeat = 0; repeat < 3; ++repeat) {
      matmul->store(nullptr, in.activations, outputs);
      matmul->add(nullptr, in.activations, z.packed, residual.data(), 600);
    }
    check(cudaDeviceSynchronize(), "products");
    EXPECT_LT(relative_error(expected(qkv, in), a.download()), kTolerance);
    EXPECT_LT(relative_error(expected(beta, in), c.download()), kTolerance);
    std::vector<double> sums = expected(z, in);
    const std::vector<float> wide = b.download();
    for (size_t t = 0; t < static_cast<size_t>(n); ++t) {
      for (size_t r = 0; r < 700; ++r) {
        if (r < 600) {
          ASSERT_NEAR(wide[t * 700 + r], sums[t * 600 + r], 5e-3 * std::abs(sums[t * 600 + r]) + 5e-2);
        } else {
          ASSERT_TRUE(std::isnan(wide[t * 700 + r]));
        }
      }
    }
    for (double& v : sums) {
      v = 2 + 3 * v;
    }
    EXPECT_LT(relative_error(sums, residual.download()), kTolerance);
    EXPECT_TRUE(a.intact() && b.intact() && c.intact() && residual.intact());
  }
}

}  // namespace
}  // namespace fl::cuda
