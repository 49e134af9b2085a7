// Products of 9 to 64 tokens on sm_90 (kernels/cuda/matmul_batch.h): against double precision on the host,
// and the products of a layer in a row.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "core/half.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/matmul_policy.h"
#include "kernels/cuda/matmul_workspace.h"
#include "tests/kernels/cuda_matmul_support.h"
#include "tests/support/cases.h"

namespace fl::cuda {
namespace {

constexpr double kTolerance = 1e-3;
constexpr float kEps = 1e-6F;

class CudaMatmulBatch : public test::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    const uint64_t bytes = Matmul::workspace_bytes(512, 4096, 8192);
    workspace_ = std::make_unique<DeviceArray<std::byte>>(bytes);
    check(cudaMemset(workspace_->data(), 0x3C, bytes), "what might be taken for sums");
    check(cudaDeviceSynchronize(), "a workspace of someone else");
    matmul_ = std::make_unique<Matmul>(device_, workspace_->data(), bytes);
    if (matmul_->most_records() >= kMaxColumns || !matmul_->finishes_norm(kMaxColumns)) {
      GTEST_SKIP() << "steps of this device take another way";
    }
  }
  std::vector<float> run(const Matrix& w, const Inputs& in) {
    DeviceArray<float> y(static_cast<size_t>(in.n * w.rows));
    const Matmul::Output output{&w.packed, y.data(), w.rows};
    matmul_->store(nullptr, in.activations, {&output, 1});
    check(cudaDeviceSynchronize(), "product");
    EXPECT_TRUE(y.intact());
    return y.download();
  }
  // Of samples that include the last rows and tokens.
  double error_of(const Matrix& w, const Inputs& in, const std::vector<float>& got) {
    std::vector<double> want;
    std::vector<float> sampled;
    for (int64_t i = 0; i < 600; ++i) {
      const int64_t row = i < 300 ? w.rows - 1 - i % w.rows : i * 7919 % w.rows;
      const int64_t token = i < 100 ? in.n - 1 - i % in.n : i * 31 % in.n;
      want.push_back(dot(w, row, in.x.data() + token * w.cols));
      sampled.push_back(got[static_cast<size_t>(token * w.rows + row)]);
    }
    return relative_error(want, sampled);
  }

  std::unique_ptr<DeviceArray<std::byte>> workspace_;
  std::unique_ptr<Matmul> matmul_;
};

TEST_F(CudaMatmulBatch, EveryTypeShapeAndCount) {
  double worst = 0;
  for (const DType type : test::cases({DType::f32, DType::bf16, DType::q4_0, DType::q8_0, DType::q3_k,
                                       DType::q4_k, DType::q5_k, DType::q6_k},
                                      {DType::f32, DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k})) {
    const bool super = dtype_info(type).block_elems == 256;
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 256},
                                     {5, super ? 256 : 96},
                                     {100, super ? 768 : 800},
                                     {1000, 2304},
                                     {130, 8192},
                                     {9000, 1024}}) {
      const Matrix w(type, rows, cols, static_cast<uint32_t>(rows));
      for (const int n : test::cases({9, 15, 16, 17, 31, 32, 33, 48, 63, 64}, {16, 31, 33})) {
        if (rows == 9000 && (test::few_cases() || (n != 16 && n != 31 && n != 64))) {
          continue;
        }
        const Inputs in(n, cols, static_cast<uint32_t>(n), matmul_->most_records());
        ASSERT_EQ(in.activations.layout(), ActivationLayout::rows);
        const std::vector<float> got = run(w, in);
        EXPECT_EQ(run(w, in), got) << "a second run";
        const double error = error_of(w, in, got);
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

// Scales that a file may hold: any f16 for d, and minima that are far larger than it, or alone.
TEST_F(CudaMatmulBatch, ScalesOfAnySize) {
  for (const DType type : {DType::q4_k, DType::q5_k, DType::q6_k}) {
    for (const auto& [d, dmin] : {std::pair<uint16_t, uint16_t>{0x3C00, 0x3C00},  // 1, 1
                                  {0x0001, 0x0001},                               // the least denormal
                                  {0x8001, 0x0400},
                                  {0xA000, 0x2400},
                                  {0x0001, 0x3C00},  // minima beyond any quotient
                                  {0x0000, 0x2C00},  // minima alone
                                  {0x2C00, 0x0000},
                                  {0x3C00, 0x0001},
                                  {0x0000, 0x0000}}) {
      const auto change = [&, d = d, dmin = dmin](std::byte* block) {
        std::memcpy(block + (type == DType::q6_k ? 208 : 0), &d, 2);
        if (type != DType::q6_k) {
          std::memcpy(block + 2, &dmin, 2);
        }
      };
      const Matrix w(type, 48, 512, 5, change);
      for (const int n : {12, 33}) {
        const Inputs in(n, 512, 71, matmul_->most_records());
        const std::vector<float> got = run(w, in);
        if (d == 0 && (dmin == 0 || type == DType::q6_k)) {
          for (const float v : got) {
            ASSERT_EQ(v, 0.0F);
          }
        } else {
          EXPECT_LT(error_of(w, in, got), kTolerance)
              << dtype_info(type).name << " " << std::hex << d << " " << dmin << " n=" << std::dec << n;
        }
      }
    }
  }
}

// Parts of groups are their own flags: launches of every instance, and other products between them, must
// leave every place as they want to find it.
TEST_F(CudaMatmulBatch, NoPartIsLeftBehind) {
  const Matrix w(DType::q4_k, 1000, 2304, 3);
  std::map<int, std::vector<float>> first;
  for (const int n : {64, 9, 100, 33, 4, 17, 64, 16, 33, 9, 100, 4, 17, 16}) {
    const Inputs in(n, w.cols, static_cast<uint32_t>(n), matmul_->most_records());
    const std::vector<float> got = run(w, in);
    EXPECT_EQ(first.try_emplace(n, got).first->second, got) << n;
    EXPECT_LT(error_of(w, in, got), kTolerance) << n;
    const std::vector<std::byte> all = workspace_->download();
    const auto* const parts = all.data() + kTicketBytes;
    const uint64_t bytes = parts_of_groups_bytes(device_.arch, device_.n_sms);
    ASSERT_GT(bytes, 0U);
    ASSERT_LE(kTicketBytes + bytes, all.size());
    EXPECT_TRUE(std::all_of(parts, parts + bytes, [](std::byte b) { return b == std::byte{kAbsentByte}; }))
        << n;
  }
}

// Sums that are no numbers must not be taken for absent ones: their tokens are no numbers, all others as
// ever.
TEST_F(CudaMatmulBatch, TokensThatAreNoNumbersDisturbNoOther) {
  const Matrix w(DType::q4_k, 1000, 2304, 3);
  for (const int n : {16, 32, 64}) {
    const Inputs well(n, w.cols, 5, matmul_->most_records());
    const std::vector<float> want = run(w, well);
    const Inputs in(n, w.cols, 5, matmul_->most_records());
    std::vector<std::byte> stored = in.stored->download();
    const auto token_bytes = static_cast<size_t>(padded_cols(static_cast<int32_t>(w.cols))) * 2;
    // a NaN, the infinities, the NaN of all ones
    for (const auto& [token, bits] :
         {std::pair<int, uint16_t>{0, 0x7E00}, {n / 2, 0xFC00}, {n - 1, 0xFFFF}}) {
      for (size_t at = 0; at < token_bytes; at += 2) {
        std::memcpy(stored.data() + static_cast<size_t>(token) * token_bytes + at, &bits, 2);
      }
    }
    in.stored->upload(stored);
    const std::vector<float> got = run(w, in);
    for (int token = 0; token < n; ++token) {
      const bool ill = token == 0 || token == n / 2 || token == n - 1;
      for (int64_t r = 0; r < w.rows; ++r) {
        const auto at = static_cast<size_t>(token * w.rows + r);
        if (ill) {
          ASSERT_FALSE(std::isfinite(got[at])) << n << " " << token << " " << r;
        } else {
          ASSERT_EQ(got[at], want[at]) << n << " " << token << " " << r;
        }
      }
    }
    EXPECT_EQ(run(w, well), want) << n;
  }
}

constexpr int kHidden = 1024;
constexpr int kInner = 768;
constexpr int kFf = 2816;

// The products between two mixers, each of which takes what the one before has written: out, gate and up,
// down, the next mixer's inputs.
struct Weights {
  Matrix out, gate, up, down, qkv, z, alpha;
  std::vector<float> norms[2];
  DeviceArray<float> norm0, norm1;
  Weights(DType type, DType other, DType up_type)
      : out(type, kHidden, kInner, 1),
        gate(type, kFf, kHidden, 2),
        up(up_type, kFf, kHidden, 3),
        down(other, kHidden, kFf, 4),
        qkv(other, 1400, kHidden, 5),
        z(type, 700, kHidden, 6),
        alpha(DType::q8_0, 12, kHidden, 7),
        norms{random_vector(kHidden, 8), random_vector(kHidden, 9)},
        norm0(norms[0]),
        norm1(norms[1]) {}
};

struct Results {
  std::vector<float> residual, qkv, z, alpha;
  bool operator==(const Results&) const = default;
};

class Layer {
 public:
  Layer(const Weights& w, int n, int32_t most_records)
      : w_(w),
        n_(n),
        most_records_(most_records),
        in(n, kInner, 21, most_records),
        before(random_vector(static_cast<size_t>(n) * kHidden, 22)) {}

  // `repeats`: of everything, from the same residual; only the last one's results come back. `asks`: each
  // product knows the next one.
  Results run(Matmul& matmul, int repeats = 1, bool asks = true) {
    const auto un = static_cast<size_t>(n_);
    DeviceArray<float> residual(before);
    const DeviceArray<float> original(before);
    DeviceArray<std::byte> narrow(activation_bytes(n_, kHidden));
    DeviceArray<std::byte> hidden(activation_bytes(n_, kFf));
    DeviceArray<float> squares(un * rms_partials(kHidden));
    DeviceArray<float> qkv(un * 1400);
    DeviceArray<float> z(un * 800);  // rows further apart than they are long
    DeviceArray<float> alpha(un * 12);
    const Activations normed{narrow.data(), n_, kHidden, most_records_};
    const Activations wide{hidden.data(), n_, kFf, most_records_};
    const RmsScale scale{squares.data(), rms_partials(kHidden), kHidden, kEps};
    const std::array<Matmul::Output, 3> outputs{{{&w_.qkv.packed, qkv.data(), 1400},
                                                 {&w_.z.packed, z.data(), 800},
                                                 {&w_.alpha.packed, alpha.data(), 12}}};
    const auto known = [&](const NextProduct& next) { return asks ? next : NextProduct{}; };
    Stream stream;
    const auto all = [&] {
      check(cudaMemcpyAsync(residual.data(), original.data(), before.size() * 4, cudaMemcpyDeviceToDevice,
                            stream),
            "the residual again");
      matmul.add_and_norm(stream, in.activations, w_.out.packed, residual.data(), kHidden, w_.norm0.data(),
                          normed, squares.data(),
                          known(NextProduct::gate_and_up(w_.gate.packed, w_.up.packed)));
      matmul.swiglu(stream, normed, w_.gate.packed, w_.up.packed, wide, scale, known({&w_.down.packed}));
      matmul.add_and_norm(stream, wide, w_.down.packed, residual.data(), kHidden, w_.norm1.data(), normed,
                          squares.data(), known({&w_.qkv.packed, &w_.z.packed, &w_.alpha.packed}));
      matmul.store(stream, normed, outputs, scale, known({&w_.out.packed}));
    };
    const Graph graph = Graph::capture(stream, all);
    check(cudaDeviceSynchronize(), "what the other stream fills the arrays with");
    for (int i = 0; i < repeats; ++i) {
      graph.launch(stream);
    }
    stream.synchronize();
    EXPECT_TRUE(residual.intact() && narrow.intact() && hidden.intact() && squares.intact());
    EXPECT_TRUE(qkv.intact() && z.intact() && alpha.intact());
    Results results{residual.download(), qkv.download(), z.download(), alpha.download()};
    for (size_t t = 0; t < un; ++t) {
      for (size_t r = 700; r < 800; ++r) {
        EXPECT_TRUE(std::isnan(results.z[t * 800 + r]));
        results.z[t * 800 + r] = 0;  // NaNs are not equal
      }
    }
    return results;
  }

  // Of some tokens, the last among them.
  void expect_near(const Results& got) const {
    std::vector<double> want_residual;
    std::vector<double> want_qkv;
    std::vector<float> got_residual;
    std::vector<float> got_qkv;
    for (const int t : {0, n_ / 2, n_ - 1}) {
      const auto at = static_cast<size_t>(t) * kHidden;
      std::vector<double> x(before.begin() + static_cast<int64_t>(at),
                            before.begin() + static_cast<int64_t>(at) + kHidden);
      const auto normed = [&](const std::vector<float>& weight) {
        double mean = 0;
        for (const double v : x) {
          mean += v * v / kHidden;
        }
        std::vector<float> y;
        for (size_t r = 0; r < kHidden; ++r) {
          y.push_back(static_cast<float>(x[r] * static_cast<double>(weight[r]) /
                                         std::sqrt(mean + static_cast<double>(kEps))));
        }
        return y;
      };
      for (int64_t r = 0; r < kHidden; ++r) {
        x[static_cast<size_t>(r)] += dot(w_.out, r, in.x.data() + static_cast<int64_t>(t) * kInner);
      }
      const std::vector<float> first = normed(w_.norms[0]);
      std::vector<float> h;
      for (int64_t r = 0; r < kFf; ++r) {
        h.push_back(static_cast<float>(silu(dot(w_.gate, r, first.data())) * dot(w_.up, r, first.data())));
      }
      for (int64_t r = 0; r < kHidden; ++r) {
        x[static_cast<size_t>(r)] += dot(w_.down, r, h.data());
        want_residual.push_back(x[static_cast<size_t>(r)]);
        got_residual.push_back(got.residual[at + static_cast<size_t>(r)]);
      }
      const std::vector<float> second = normed(w_.norms[1]);
      for (int64_t r = 0; r < 1400; ++r) {
        want_qkv.push_back(dot(w_.qkv, r, second.data()));
        got_qkv.push_back(got.qkv[static_cast<size_t>(t) * 1400 + static_cast<size_t>(r)]);
      }
    }
    EXPECT_LT(relative_error(want_residual, got_residual), 2e-3) << n_;
    EXPECT_LT(relative_error(want_qkv, got_qkv), 3e-3) << n_;
  }

 private:
  const Weights& w_;
  int n_;
  int32_t most_records_;

 public:
  Inputs in;
  std::vector<float> before;
};

TEST_F(CudaMatmulBatch, ALayerAgreesWithDoublePrecision) {
  for (const auto& [type, other, up] : {std::tuple{DType::q4_k, DType::q6_k, DType::q4_k},
                                        {DType::q8_0, DType::f16, DType::q8_0},
                                        {DType::q4_k, DType::q5_k, DType::q6_k}}) {
    const Weights weights(type, other, up);
    for (const int n : test::cases({9, 16, 17, 32, 33, 64}, {9, 32, 33})) {
      Layer layer(weights, n, matmul_->most_records());
      layer.expect_near(layer.run(*matmul_));
    }
  }
}

// Alone each product knows no next one; what it asks L2 for changes no bit. Up to 8 tokens by the other
// kernel.
TEST_F(CudaMatmulBatch, RepeatedLayersHaveEqualBitsWhateverTheyAskFor) {
  const Weights weights(DType::q4_k, DType::q6_k, DType::q4_k);
  for (const int n : {1, 4, 8, 16, 32, 64}) {
    Layer layer(weights, n, matmul_->most_records());
    const Results once = layer.run(*matmul_, 1, false);
    for (int i = 0; i < 5; ++i) {
      EXPECT_TRUE(layer.run(*matmul_, test::few_cases() ? 2 : 40) == once) << n;
    }
  }
}

}  // namespace
}  // namespace fl::cuda
