// Products on the device against double precision on the host, for every type, at the edges of the tiles.
#include "kernels/cuda/matmul.h"

#include <cmath>
#include <cstdlib>

#include <gtest/gtest.h>

#include "core/half.h"
#include "kernels/cuda/activations.cuh"
#include "tests/kernels/cuda_matmul_fixture.h"

namespace fl::cuda {
namespace {

using test::cases;
using test::few_cases;

// Every kernel for up to 8 tokens, wherever it fits.
MatmulOptions kernel_of(ActivationPlacement placement, int groups) {
  MatmulOptions options = kTilesOnly;
  options.placement = placement;
  options.groups = groups;
  return options;
}
const std::array kForms{
    kTilesOnly,
    kernel_of(ActivationPlacement::automatic, 1),
    kernel_of(ActivationPlacement::l2, 1),
    kernel_of(ActivationPlacement::automatic, 2),
    kernel_of(ActivationPlacement::l2, 2),
    kernel_of(ActivationPlacement::staged, 0),
};

class CudaMatmul : public MatmulTest {};

TEST_F(CudaMatmul, TilesComeBackByteForByte) {
  for (const DType type : {DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0}) {
    for (const auto& [rows, cols] : {std::pair{16, 256}, std::pair{53, 1280}}) {
      const Matrix w(type, rows, cols, 3);
      DeviceArray<std::byte> back(w.blocks.size());
      unpack(nullptr, w.packed, back.data());
      check(cudaDeviceSynchronize(), "unpack");
      EXPECT_TRUE(back.intact());
      EXPECT_EQ(back.download(), w.blocks) << dtype_info(type).name << " " << rows << "x" << cols;
    }
  }
}

TEST_F(CudaMatmul, ExpansionHasTheValuesOfTheFile) {
  for (const DType type : kTypes) {
    const int64_t cols = dtype_info(type).block_elems == 256 ? 512 : 288;
    const Matrix w(type, 37, cols, 4);
    const auto padded = static_cast<size_t>(padded_cols(cols));
    DeviceArray<uint16_t> out(21 * padded);
    expand_f16(nullptr, w.packed, 16, 21, out.data());
    check(cudaDeviceSynchronize(), "expand");
    EXPECT_TRUE(out.intact());
    const std::vector<uint16_t> got = out.download();
    for (size_t r = 0; r < 21; ++r) {
      for (size_t c = 0; c < padded; ++c) {
        const float value =
            f16_to_float(got[r * padded + static_cast<size_t>(row_position(static_cast<int>(c)))]);
        const float want =
            c < static_cast<size_t>(cols) ? w.values[(16 + r) * static_cast<size_t>(cols) + c] : 0.0F;
        ASSERT_NEAR(value, want, std::abs(want) * 1.2e-3F + 6e-5F)
            << dtype_info(type).name << " " << r << "," << c;
      }
    }
  }
}

TEST_F(CudaMatmul, EveryTypeShapeAndCount) {
  const auto matmul = make(kTilesOnly);
  double worst = 0;
  for (const DType type : types()) {
    const bool super = dtype_info(type).block_elems == 256;
    const bool plain = dtype_info(type).block_elems == 1;
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{16, 256},
                                     {5, super   ? 256
                                         : plain ? 40
                                                 : 96},
                                     {100, super ? 768 : 800},
                                     {33, 2304}}) {
      const Matrix w(type, rows, cols, static_cast<uint32_t>(rows));
      if (few_cases() && rows != 33 && rows != 5) {
        continue;
      }
      for (const int n : cases({1, 2, 3, 8, 9, 16, 17, 31, 32, 33, 64, 65, 130}, {1, 8, 9, 17, 33, 65})) {
        const Inputs in(n, cols, static_cast<uint32_t>(n));
        const double error = relative_error(expected(w, in), run(*matmul, w, in));
        EXPECT_LT(error, kTolerance) << dtype_info(type).name << " " << rows << "x" << cols << " n=" << n;
        worst = std::isnan(error) ? error : std::max(worst, error);
      }
    }
  }
  RecordProperty("worst_relative_error", std::to_string(worst));
  std::printf("worst relative error %.2e\n", worst);
}

// Long runs: every block has several steps, the rings wrap, shared memory holds part of the activations.
TEST_F(CudaMatmul, LargeMatrices) {
  for (const MatmulOptions& form : kForms) {
    const auto matmul = make(form);
    for (const DType type :
         cases({DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0, DType::f16}, {DType::q4_k})) {
      for (const auto& [rows, cols] :
           cases<std::pair<int64_t, int64_t>>({{9000, 1024}, {2600, 8192}, {5136, 6144}}, {{5136, 2304}})) {
        const Matrix w(type, rows, cols, 11);
        for (const int n : cases({1, 4, 8, 16, 32, 64}, {4, 64})) {
          if (n > 8 && form.groups != 0) {
            continue;
          }
          const Inputs in(n, cols, 5);
          const std::vector<float> got = run(*matmul, w, in);
          std::vector<double> want;
          std::vector<float> sampled;
          for (int64_t i = 0; i < 300; ++i) {
            const int64_t row = i < 40 ? rows - 1 - i : i * 7919 % rows;
            const int64_t token = i % n;
            want.push_back(dot(w, row, in.x.data() + token * cols));
            sampled.push_back(got[static_cast<size_t>(token * rows + row)]);
          }
          EXPECT_LT(relative_error(want, sampled), kTolerance)
              << dtype_info(type).name << " " << rows << "x" << cols << " n=" << n;
          for (const float v : got) {
            ASSERT_TRUE(std::isfinite(v));
          }
        }
      }
    }
  }
}

TEST_F(CudaMatmul, ATokenHasTheSameBitsAloneAndBesideOthers) {
  const auto matmul = make(kTilesOnly);
  std::vector<std::unique_ptr<Matmul>> forms;
  for (const MatmulOptions& form : kForms) {
    forms.push_back(make(form));
  }
  // 321 tiles of 25 superblocks: borders of blocks cut tiles and classes, and first groups have a tile more
  // than second ones, some of which (4 tiles) have none
  for (const auto& [type, rows, cols] :
       cases<std::tuple<DType, int, int>>({{DType::q4_k, 2100, 2304},
                                           {DType::q4_k, 5136, 6400},
                                           {DType::q5_k, 2100, 2304},
                                           {DType::q6_k, 5136, 6400},
                                           {DType::q6_k, 3000, 9216},
                                           {DType::q4_k, 53, 9216},
                                           {DType::q8_0, 2100, 2304},
                                           {DType::f16, 2100, 2304}},
                                          {{DType::q6_k, 2100, 2304}, {DType::q4_k, 53, 6400}})) {
    const Matrix w(type, rows, cols, 21);
    const Inputs all(130, w.cols, 22);
    const std::vector<float> together = run(*matmul, w, all);
    EXPECT_EQ(run(*matmul, w, all), together) << "a second run";
    for (const int n : cases({1, 2, 3, 4, 5, 6, 7, 8, 13, 32, 57, 64}, {2, 8, 13})) {
      for (const int first : cases({0, 66}, {66})) {
        const Inputs some(
            std::vector<float>(all.x.begin() + first * w.cols, all.x.begin() + (first + n) * w.cols), n,
            w.cols);
        const std::vector<float> want(together.begin() + first * w.rows,
                                      together.begin() + (first + n) * w.rows);
        EXPECT_EQ(run(*matmul, w, some), want) << dtype_info(type).name << " n=" << n << " first=" << first;
        for (size_t form = 0; form < forms.size() && n <= 8; ++form) {
          EXPECT_EQ(run(*forms[form], w, some), want)
              << dtype_info(type).name << " n=" << n << " form " << form;
        }
      }
    }
  }
}

// Pairs of tiles that borders of blocks cut (276 of them), in both kernels.
TEST_F(CudaMatmul, SwigluHasTheSameBitsAloneAndBesideOthers) {
  const auto matmul = make(kTilesOnly);
  std::vector<std::unique_ptr<Matmul>> forms;
  for (const MatmulOptions& form : kForms) {
    forms.push_back(make(form));
  }
  constexpr int kFf = 4416;
  for (const DType type : cases({DType::q4_k, DType::q6_k}, {DType::q4_k})) {
    const Matrix gate(type, kFf, 1280, 23);
    const Matrix up(type, kFf, 1280, 24);
    const Matrix down(DType::q8_0, 64, kFf, 25);
    const auto feed_forward = [&](const Inputs& in, Matmul& with) {
      DeviceArray<std::byte> hidden(activation_bytes(in.n, kFf));
      const Activations out{hidden.data(), in.n, kFf};
      with.swiglu(nullptr, in.activations, gate.packed, up.packed, out, {}, {&down.packed});
      DeviceArray<float> y(static_cast<size_t>(in.n) * 64);
      const Matmul::Output output{&down.packed, y.data(), 64};
      with.store(nullptr, out, {&output, 1}, {}, NextProduct::gate_and_up(gate.packed, up.packed));
      check(cudaDeviceSynchronize(), "feed-forward");
      EXPECT_TRUE(hidden.intact() && y.intact());
      return y.download();
    };
    const Inputs all(64, 1280, 26);
    const std::vector<float> together = feed_forward(all, *matmul);
    for (const int n : cases({1, 3, 8, 9, 16, 24, 40}, {3, 24})) {
      const Inputs some(std::vector<float>(all.x.begin() + 1280, all.x.begin() + (1 + n) * 1280), n, 1280);
      const std::vector<float> want(together.begin() + 64, together.begin() + (1 + n) * 64);
      EXPECT_EQ(feed_forward(some, *matmul), want) << dtype_info(type).name << " n=" << n;
      for (size_t form = 0; form < forms.size() && n <= 8; ++form) {
        EXPECT_EQ(feed_forward(some, *forms[form]), want)
            << dtype_info(type).name << " n=" << n << " form " << form;
      }
    }
  }
}

// A file may hold any scale: from the smallest f16 to the largest.
TEST_F(CudaMatmul, ScalesOfAnySize) {
  const auto matmul = make(kTilesOnly);
  for (const DType type : {DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0}) {
    for (const auto bits : cases<uint16_t>({0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF}, {0x7BFF})) {
      const Matrix w(type, 40, 1024, 27, bits);
      for (const int n : {2, 24}) {
        const Inputs in(n, 1024, 28);
        EXPECT_LT(relative_error(expected(w, in), run(*matmul, w, in)), kTolerance)
            << dtype_info(type).name << " scale " << bits << " n=" << n;
      }
    }
    const Matrix zero(type, 40, 1024, 27, uint16_t{0});
    const Inputs in(3, 1024, 29);
    for (const float v : run(*matmul, zero, in)) {
      ASSERT_EQ(v, 0.0F) << dtype_info(type).name;
    }
  }
}

TEST_F(CudaMatmul, SeveralMatricesOfDifferentTypesInOneLaunch) {
  const auto matmul = make(kTilesOnly);
  const auto apart = make(kernel_of(ActivationPlacement::automatic, 1));
  const Matrix qkv(DType::q5_k, 1000, 1024, 31);
  const Matrix z(DType::q4_k, 600, 1024, 32);
  const Matrix alpha(DType::f32, 48, 1024, 33);
  const Matrix beta(DType::q8_0, 12, 1024, 34);
  for (const int n : cases({1, 5, 8, 20, 64, 70}, {5, 70})) {
    const Inputs in(n, 1024, 35);
    DeviceArray<float> a(static_cast<size_t>(n * 1000));
    DeviceArray<float> b(static_cast<size_t>(n * 700));  // rows further apart than they are long
    DeviceArray<float> c(static_cast<size_t>(n * 48));
    DeviceArray<float> d(static_cast<size_t>(n * 12));
    const std::array<Matmul::Output, 4> outputs{{{&qkv.packed, a.data(), 1000},
                                                 {&z.packed, b.data(), 700},
                                                 {&alpha.packed, c.data(), 48},
                                                 {&beta.packed, d.data(), 12}}};
    matmul->store(nullptr, in.activations, outputs);
    check(cudaDeviceSynchronize(), "product");
    EXPECT_EQ(a.download(), run(*apart, qkv, in));
    EXPECT_EQ(c.download(), run(*matmul, alpha, in));
    EXPECT_EQ(d.download(), run(*matmul, beta, in));
    const std::vector<float> wide = b.download();
    const std::vector<float> narrow = run(*matmul, z, in);
    for (size_t t = 0; t < static_cast<size_t>(n); ++t) {
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

TEST_F(CudaMatmul, SwigluFeedsTheNextProduct) {
  // The library's own kernels are not ours to check.
  for (const char* const how : cases({"tiles", "library", "prompt kernel"}, {"tiles", "prompt kernel"})) {
    const auto matmul = make({.prompt_kernel = how[0] == 'p',
                              .most_records = 16,
                              .library = how[0] == 'l',
                              .library_from_tokens = 65});
    for (const auto& [gate_type, up_type] :
         {std::pair{DType::q4_k, DType::q4_k}, {DType::q4_k, DType::q6_k}}) {
      for (const int64_t ff : cases({512, 640}, {640})) {
        const Matrix gate(gate_type, ff, 768, 41);
        const Matrix up(up_type, ff, 768, 42);
        const Matrix down(DType::f32, 200, ff, 43);
        for (const int n : cases({1, 8, 24, 64, 100, 330}, {1, 24, 100})) {
          const Inputs in(n, 768, 44, matmul->most_records());
          DeviceArray<std::byte> hidden(activation_bytes(n, ff));
          const Activations out{hidden.data(), n, static_cast<int32_t>(ff), matmul->most_records()};
          matmul->swiglu(nullptr, in.activations, gate.packed, up.packed, out);
          DeviceArray<float> y(std::vector<float>(static_cast<size_t>(n) * 200, 1.0F));
          matmul->add(nullptr, out, down.packed, y.data(), 200);
          check(cudaDeviceSynchronize(), "feed-forward");
          EXPECT_TRUE(hidden.intact() && y.intact());
          std::vector<double> want;
          for (int t = 0; t < n; ++t) {
            const float* x = in.x.data() + t * 768;
            std::vector<float> h;
            for (int64_t r = 0; r < ff; ++r) {
              h.push_back(static_cast<float>(silu(dot(gate, r, x)) * dot(up, r, x)));
            }
            for (int64_t r = 0; r < 200; ++r) {
              want.push_back(1 + dot(down, r, h.data()));
            }
          }
          EXPECT_LT(relative_error(want, y.download()), 2e-3) << how << " ff=" << ff << " n=" << n;
        }
      }
    }
  }
}

TEST_F(CudaMatmul, NormIsFinishedByTheNextProduct) {
  const auto matmul = make(kTilesOnly);
  const Matrix w(DType::q6_k, 1024, 512, 51);
  const Matrix next(DType::q4_k, 300, 1024, 52);
  constexpr float kEps = 1e-6F;
  for (const int n : cases({1, 3, 8, 33, 64}, {3, 33})) {
    const Inputs in(n, 512, 53);
    const std::vector<float> before = random_vector(static_cast<size_t>(n) * 1024, 54);
    const std::vector<float> norm = random_vector(1024, 55);
    DeviceArray<float> residual(before);
    const DeviceArray<float> weight(norm);
    DeviceArray<std::byte> normed(activation_bytes(n, 1024));
    DeviceArray<float> squares(static_cast<size_t>(n * rms_partials(1024)));
    DeviceArray<float> y(static_cast<size_t>(n) * 300);
    const Activations out{normed.data(), n, 1024};
    matmul->add_and_norm(nullptr, in.activations, w.packed, residual.data(), 1024, weight.data(), out,
                         squares.data());
    const Matmul::Output output{&next.packed, y.data(), 300};
    matmul->store(nullptr, out, {&output, 1}, {squares.data(), rms_partials(1024), 1024, kEps});
    check(cudaDeviceSynchronize(), "two products");
    EXPECT_TRUE(residual.intact() && normed.intact() && squares.intact() && y.intact());
    std::vector<double> sums;
    std::vector<double> want;
    for (int t = 0; t < n; ++t) {
      std::vector<float> x;
      double mean = 0;
      for (int64_t r = 0; r < 1024; ++r) {
        const double v =
            static_cast<double>(before[static_cast<size_t>(t * 1024 + r)]) + dot(w, r, in.x.data() + t * 512);
        sums.push_back(v);
        mean += v * v / 1024;
        x.push_back(static_cast<float>(v) * norm[static_cast<size_t>(r)]);
      }
      for (int64_t r = 0; r < 300; ++r) {
        want.push_back(dot(next, r, x.data()) / std::sqrt(mean + static_cast<double>(kEps)));
      }
    }
    EXPECT_LT(relative_error(sums, residual.download()), kTolerance) << n;
    EXPECT_LT(relative_error(want, y.download()), 2 * kTolerance) << n;
  }
}

TEST_F(CudaMatmul, LibraryAgreesWithTheTiles) {
  const auto matmul = make({.prompt_kernel = false, .library = true, .library_from_tokens = 65});
  if (matmul->describe() == "tiles") {
    GTEST_SKIP() << "libcublasLt.so.13 is not on this machine";
  }
  if (few_cases()) {
    GTEST_SKIP() << "the library's own kernels are not ours to check";
  }
  for (const DType type : {DType::q4_k, DType::q5_k, DType::q6_k, DType::q8_0, DType::bf16}) {
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{64, 256}, {9008, 1024}, {48, 8192}}) {
      const Matrix w(type, rows, cols, 61);
      const Inputs in(200, cols, 62);
      const std::vector<float> got = run(*matmul, w, in);
      std::vector<double> want;
      std::vector<float> sampled;
      for (int64_t i = 0; i < 400; ++i) {
        const int64_t row = i * 7919 % rows;
        const int64_t token = i % 200;
        want.push_back(dot(w, row, in.x.data() + token * cols));
        sampled.push_back(got[static_cast<size_t>(token * rows + row)]);
      }
      EXPECT_LT(relative_error(want, sampled), kTolerance)
          << dtype_info(type).name << " " << rows << "x" << cols;
    }
  }
}

// Values far from 1 and outliers survive the 16-bit storage.
TEST_F(CudaMatmul, OutliersAndSmallValues) {
  const auto matmul = make(kTilesOnly);
  const Matrix w(DType::q4_k, 64, 1024, 71);
  for (const float scale : {1e-2F, 1.0F, 150.0F}) {
    std::vector<float> x = random_vector(2 * 1024, 72, scale);
    x[5] = 400 * scale;
    x[1024 + 77] = -400 * scale;
    const Inputs in(x, 2, 1024);
    EXPECT_LT(relative_error(expected(w, in), run(*matmul, w, in)), 1.5e-3) << scale;
  }
  // all of one sign: the constant part of the weights' f16 form is as large as it gets
  std::vector<float> ones(1024, 0.7F);
  const Inputs in(ones, 1, 1024);
  const double error = relative_error(expected(w, in), run(*matmul, w, in));
  std::printf("constant input: relative error %.2e\n", error);
  EXPECT_LT(error, 5e-3);
}

// A device with the shared memory of an RTX 4090: one block an SM, fewer tiles under way, many tokens in
// parts.
TEST_F(CudaMatmul, LittleSharedMemoryChangesNoBit) {
  const auto matmul = make(kTilesOnly);
  DeviceInfo small = device_;
  small.max_shared_per_block = 99 << 10;
  small.max_shared_per_sm = 100 << 10;
  const uint64_t bytes = Matmul::workspace_bytes(512, 4096, 8192, kTilesOnly);
  const DeviceArray<std::byte> workspace(bytes);
  Matmul tight(small, workspace.data(), bytes, kTilesOnly);
  for (const DType type : cases({DType::q4_k, DType::q6_k, DType::q8_0, DType::f16}, {DType::q4_k})) {
    const Matrix w(type, 2200, 2048, 91);
    for (const int n : cases({1, 4, 8, 16, 32, 40, 64}, {8, 40})) {
      const Inputs in(n, w.cols, 92);
      EXPECT_EQ(run(tight, w, in), run(*matmul, w, in)) << dtype_info(type).name << " n=" << n;
    }
  }
}

TEST_F(CudaMatmul, ReplaysInAGraph) {
  const auto matmul = make(kTilesOnly);
  const Matrix w(DType::q4_k, 512, 512, 81);
  const Inputs in(3, 512, 82);
  DeviceArray<float> y(std::vector<float>(3 * 512, 0.0F));
  Stream stream;
  const Graph graph = Graph::capture(stream, [&] {
    for (int i = 0; i < 4; ++i) {
      matmul->add(stream, in.activations, w.packed, y.data(), 512);
    }
  });
  graph.launch(stream);
  stream.synchronize();
  std::vector<double> want = expected(w, in);
  for (double& v : want) {
    v *= 4;
  }
  EXPECT_LT(relative_error(want, y.download()), kTolerance);
}

}  // namespace
}  // namespace fl::cuda
