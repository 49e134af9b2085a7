// The int8 products of prompts against double precision on the host.

#include <gtest/gtest.h>

#include "tests/kernels/cuda_matmul_support.h"
#include "tests/support/cases.h"
#include "tests/support/tolerances.h"

namespace fl::cuda {
namespace {

using test::cases;

const MatmulOptions kInt8{.library = false, .prompt = PromptProducts::int8};

// The largest of 32 normal variables is 2.07 of their deviations on the average, and its square 4.4: steps of
// 1/127 of it have an error of sqrt(4.4 / 12) / 127 = 4.8e-3. Everything else is below 3e-4; products of few
// outputs scatter.
constexpr double kTolerance = test::kInt8Activations;

class CudaMatmulInt8 : public test::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    const uint64_t bytes = Matmul::workspace_bytes(512, 4096, 8192, kInt8);
    workspace_ = std::make_unique<DeviceArray<std::byte>>(bytes);
    matmul_ = std::make_unique<Matmul>(device_, workspace_->data(), bytes, kInt8);
  }
  std::vector<float> run(const Matrix& w, const Inputs& in) {
    DeviceArray<float> y(static_cast<size_t>(in.n * w.rows));
    const Matmul::Output output{&w.packed, y.data(), w.rows};
    matmul_->store(nullptr, in.activations, {&output, 1});
    check(cudaDeviceSynchronize(), "product");
    EXPECT_TRUE(y.intact());
    return y.download();
  }
  // Of some outputs: all rows of small matrices, every edge of large ones.
  double error(const Matrix& w, const Inputs& in, const std::vector<float>& got) {
    std::vector<double> want;
    std::vector<float> sampled;
    const int64_t n = std::min<int64_t>(w.rows * in.n, 4000);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = n == w.rows * in.n ? i
                         : i < 200          ? w.rows * in.n - 1 - i
                                            : i * 104729 % (w.rows * in.n);
      want.push_back(dot(w, at % w.rows, in.x.data() + at / w.rows * w.cols));
      sampled.push_back(got[static_cast<size_t>(at)]);
    }
    for (const float v : got) {
      if (!std::isfinite(v)) {
        return NAN;
      }
    }
    return relative_error(want, sampled);
  }
  std::unique_ptr<DeviceArray<std::byte>> workspace_;
  std::unique_ptr<Matmul> matmul_;
};

TEST_F(CudaMatmulInt8, EveryTypeShapeAndCount) {
  double worst = 0;
  for (const DType type : cases({DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0, DType::q4_0, DType::q5_0,
                                 DType::iq4_nl, DType::q2_k, DType::f32},
                                {DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0})) {
    const bool super = dtype_info(type).block_elems == 256;
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 256},
                                     {5, super ? 256 : 96},
                                     {300, super ? 768 : 800},
                                     {1033, 2304}}) {
      if (test::few_cases() && rows != 300) {
        continue;
      }
      const Matrix w(type, rows, cols, static_cast<uint32_t>(rows));
      for (const int n : cases({65, 127, 128, 129, 200, 256, 300}, {65, 200, 300})) {
        const Inputs in(n, cols, static_cast<uint32_t>(n));
        const double e = error(w, in, run(w, in));
        EXPECT_LT(e, kTolerance) << dtype_info(type).name << " " << rows << "x" << cols << " n=" << n;
        worst = std::isnan(e) ? e : std::max(worst, e);
      }
    }
  }
  std::printf("worst relative error %.2e\n", worst);
}

// Whole = in chunks: neither the tokens beside it nor the shape of the launch changes a token's bits.
TEST_F(CudaMatmulInt8, ATokenHasTheSameBitsHoweverThePromptIsCut) {
  for (const auto& [type, cols] : cases<std::pair<DType, int>>(
           {{DType::q4_k, 2304}, {DType::q5_k, 1280}, {DType::q6_k, 2304}, {DType::q8_0, 1280}},
           {{DType::q4_k, 768}})) {
    const Matrix w(type, 1100, cols, 21);
    const Inputs all(500, w.cols, 22);
    const std::vector<float> together = run(w, all);
    EXPECT_EQ(run(w, all), together) << "a second run";
    for (const auto& [first, n] : {std::pair{0, 65}, {65, 128}, {193, 192}, {385, 115}, {1, 499}}) {
      const Inputs some(
          std::vector<float>(all.x.begin() + first * w.cols, all.x.begin() + (first + n) * w.cols), n,
          w.cols);
      const std::vector<float> want(together.begin() + first * w.rows,
                                    together.begin() + (first + n) * w.rows);
      EXPECT_EQ(run(w, some), want) << dtype_info(type).name << " n=" << n << " first=" << first;
    }
  }
}

TEST_F(CudaMatmulInt8, SeveralMatricesOfDifferentTypes) {
  const Matrix qkv(DType::q6_k, 1000, 1024, 31);
  const Matrix z(DType::q4_k, 600, 1024, 32);
  const Matrix alpha(DType::f32, 48, 1024, 33);
  const Matrix beta(DType::q4_k, 12, 1024, 34);
  for (const int n : cases({70, 150}, {70})) {
    const Inputs in(n, 1024, 35);
    const auto un = static_cast<size_t>(n);
    DeviceArray<float> a(un * 1000);
    DeviceArray<float> b(un * 700);  // rows further apart than they are long
    DeviceArray<float> c(un * 48);
    DeviceArray<float> d(un * 12);
    const std::array<Matmul::Output, 4> outputs{{{&qkv.packed, a.data(), 1000},
                                                 {&z.packed, b.data(), 700},
                                                 {&alpha.packed, c.data(), 48},
                                                 {&beta.packed, d.data(), 12}}};
    matmul_->store(nullptr, in.activations, outputs);
    check(cudaDeviceSynchronize(), "product");
    EXPECT_EQ(a.download(), run(qkv, in));
    // f16 weights beside int8 products go in slices of 64 tokens
    EXPECT_LT(error(alpha, in, c.download()), test::kHalfActivations) << n;
    EXPECT_EQ(d.download(), run(beta, in));
    const std::vector<float> wide = b.download();
    const std::vector<float> narrow = run(z, in);
    for (size_t t = 0; t < un; ++t) {
      for (size_t r = 0; r < 700; ++r) {
        if (r < 600) {
          ASSERT_EQ(wide[t * 700 + r], narrow[t * 600 + r]);
        } else {
          ASSERT_TRUE(std::isnan(wide[t * 700 + r]));
        }
      }
    }
    EXPECT_TRUE(a.intact() && b.intact() && c.intact() && d.intact());
  }
}

TEST_F(CudaMatmulInt8, SwigluFeedsTheNextProduct) {
  for (const auto& [gate_type, up_type] :
       {std::pair{DType::q4_k, DType::q4_k}, {DType::q6_k, DType::q6_k}, {DType::q4_k, DType::q6_k}}) {
    for (const int64_t ff : cases({512, 640}, {640})) {
      const Matrix gate(gate_type, ff, 768, 41);
      const Matrix up(up_type, ff, 768, 42);
      const Matrix down(ff % 256 == 0 ? DType::q4_k : DType::q8_0, 200, ff, 43);
      for (const int n : cases({65, 100, 190}, {100})) {
        const Inputs in(n, 768, 44);
        DeviceArray<std::byte> hidden(activation_bytes(n, ff));
        const Activations out{hidden.data(), n, static_cast<int32_t>(ff)};
        matmul_->swiglu(nullptr, in.activations, gate.packed, up.packed, out);
        DeviceArray<float> y(std::vector<float>(static_cast<size_t>(n) * 200, 1.0F));
        matmul_->add(nullptr, out, down.packed, y.data(), 200);
        check(cudaDeviceSynchronize(), "feed-forward");
        EXPECT_TRUE(hidden.intact() && y.intact());
        std::vector<double> want;
        std::vector<float> got = y.download();
        std::vector<float> sampled;
        for (int t = 0; t < n; t += t % 7 + 1) {
          const float* x = in.x.data() + t * 768;
          std::vector<float> h;
          for (int64_t r = 0; r < ff; ++r) {
            h.push_back(static_cast<float>(silu(dot(gate, r, x)) * dot(up, r, x)));
          }
          for (int64_t r = 0; r < 200; ++r) {
            want.push_back(dot(down, r, h.data()));
            sampled.push_back(got[static_cast<size_t>(t * 200 + r)] - 1.0F);
          }
        }
        // three quantised factors; the hidden values have larger outliers than a normal variable
        EXPECT_LT(relative_error(want, sampled), 2 * kTolerance) << "ff=" << ff << " n=" << n;
      }
    }
  }
}

// Inputs far from 1, with outliers, of one sign, or zero.
TEST_F(CudaMatmulInt8, OutliersAndSmallValues) {
  const Matrix w(DType::q4_k, 64, 1024, 71);
  for (const float scale : {1e-2F, 1.0F, 150.0F}) {
    std::vector<float> x = random_vector(70 * 1024, 72, scale);
    const Inputs plain(x, 70, 1024);
    EXPECT_LT(error(w, plain, run(w, plain)), kTolerance) << scale;
    for (size_t t = 0; t < 70; ++t) {
      x[t * 1024 + 5] = 400 * scale;
    }
    // The 31 neighbours of an outlier of 400 deviations are rounded to steps of 3.1: sqrt(31) / 400 = 1.4e-2
    // of the result. Blocks without one keep their precision.
    const Inputs outliers(x, 70, 1024);
    EXPECT_LT(error(w, outliers, run(w, outliers)), 2 * kTolerance) << scale;
  }
  const Inputs ones(std::vector<float>(70 * 1024, 0.7F), 70, 1024);
  const double constant = error(w, ones, run(w, ones));
  std::printf("constant input: relative error %.2e\n", constant);
  EXPECT_LT(constant, kTolerance);
  const Inputs zeros(std::vector<float>(70 * 1024, 0.0F), 70, 1024);
  for (const float v : run(w, zeros)) {
    ASSERT_EQ(v, 0.0F);
  }
}

}  // namespace
}  // namespace fl::cuda
