#include "kernels/cpu/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/quants.h"
#include "kernels/swiglu.h"
#include "tests/kernels/isas.h"
#include "tests/support/guarded.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using cpu::Activations;
using cpu::Isa;
using cpu::MatmulTask;
using cpu::PackedMatrix;
using cpu::ThreadPool;
using test::Guarded;

const std::vector<DType> kTypes{DType::f32,  DType::f16,  DType::bf16, DType::q4_0,   DType::q4_1,
                                DType::q5_0, DType::q5_1, DType::q8_0, DType::q2_k,   DType::q3_k,
                                DType::q4_k, DType::q5_k, DType::q6_k, DType::iq4_nl, DType::iq4_xs};

bool is_float(DType type) {
  return dtype_info(type).block_elems == 1;
}

/// A matrix as a file holds it, in memory that ends at an inaccessible page.
struct FileMatrix {
  FileMatrix(DType type, int64_t rows, int64_t cols, unsigned seed)
      : bytes(static_cast<int64_t>(row_bytes(type, static_cast<uint64_t>(cols))) * rows) {
    std::mt19937 random(seed);
    std::normal_distribution<float> draw(0, 0.05F);
    std::vector<float> row(static_cast<size_t>(cols));
    view.type = type;
    view.ne = {cols, rows, 1, 1};
    view.data = bytes.data();
    for (int64_t r = 0; r < rows; ++r) {
      for (float& v : row) {
        v = draw(random) + 0.01F;  // a mean, so that minima matter
      }
      quantize_row(type, row, {}, const_cast<std::byte*>(view.row(r)));
    }
  }
  /// Sum over the columns in double, from the definition of the type.
  std::vector<double> times(const std::vector<float>& x, int64_t n_tokens) const {
    const int64_t cols = view.cols();
    std::vector<double> y(static_cast<size_t>(n_tokens * view.rows()));
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < view.rows(); ++r) {
      dequantize_row(view.type, view.row(r), row);
      for (int64_t t = 0; t < n_tokens; ++t) {
        double sum = 0;
        for (int64_t c = 0; c < cols; ++c) {
          sum += static_cast<double>(row[static_cast<size_t>(c)]) *
                 static_cast<double>(x[static_cast<size_t>(t * cols + c)]);
        }
        y[static_cast<size_t>(t * view.rows() + r)] = sum;
      }
    }
    return y;
  }
  Guarded<std::byte> bytes;
  TensorView view;
};

std::vector<float> random_input(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0, 1);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) {
    v = draw(random);
  }
  return x;
}

std::vector<float> product(ThreadPool& pool, const PackedMatrix& w, const std::vector<float>& x, int64_t n) {
  Activations in;
  in.reserve(n, w.cols());
  in.set(x.data(), n, w.cols(), w.cols());
  std::vector<float> y(static_cast<size_t>(n * w.rows()), std::numeric_limits<float>::quiet_NaN());
  const MatmulTask task{&w, y.data(), w.rows(), false};
  matmul(pool, in, {&task, 1});
  return y;
}

/// ||got - want|| over the norm that products of such rows have when their terms are independent: the
/// outputs' own norm may be near zero by cancellation when they are few.
double error_of_product(const std::vector<float>& got, const std::vector<double>& want,
                        const FileMatrix& file, const std::vector<float>& x, int64_t n_tokens) {
  double difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    difference += d * d;
  }
  if (!(difference >= 0)) {
    return std::numeric_limits<double>::infinity();
  }
  const int64_t cols = file.view.cols();
  std::vector<float> row(static_cast<size_t>(cols));
  double w_norm = 0;
  double x_norm = 0;
  for (int64_t r = 0; r < file.view.rows(); ++r) {
    dequantize_row(file.view.type, file.view.row(r), row);
    for (const float v : row) {
      w_norm += static_cast<double>(v) * static_cast<double>(v);
    }
  }
  for (const float v : x) {
    x_norm += static_cast<double>(v) * static_cast<double>(v);
  }
  EXPECT_EQ(static_cast<int64_t>(x.size()), n_tokens * cols);
  return std::sqrt(difference / (w_norm * x_norm / static_cast<double>(cols)));
}

/// Rows that make strips (kernels/cpu/pack.h), with a last chunk that is not whole.
constexpr int64_t kLongCols = 1280;

class MatmulOf : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, MatmulOf, testing::ValuesIn(kTypes),
                         [](const auto& p) { return std::string(dtype_info(p.param).name); });

TEST_P(MatmulOf, RowsComeBackBitForBit) {
  const DType type = GetParam();
  ThreadPool pool(2);
  constexpr int64_t kRows = 83;  // of long rows a strip of four tiles and one of two
  for (const int64_t cols : {int64_t{256}, int64_t{1024}, kLongCols}) {
    const FileMatrix file(type, kRows, cols, 7);
    const PackedMatrix w = PackedMatrix::pack(file.view, cpu::best_isa(), pool);
    EXPECT_EQ(w.bytes(), PackedMatrix::packed_bytes(type, kRows, cols, cpu::best_isa()));
    std::vector<float> want(static_cast<size_t>(cols));
    std::vector<float> got(static_cast<size_t>(cols));
    for (int64_t r = 0; r < kRows; ++r) {
      dequantize_row(type, file.view.row(r), want);
      w.dequantize_row(r, got);
      EXPECT_EQ(got, want) << "row " << r;
    }
  }
}

// Any bytes are a valid file: scales and codes at their extremes. Halves are kept finite.
TEST_P(MatmulOf, AnyBlockBytesComeBack) {
  const DType type = GetParam();
  ThreadPool pool(1);
  constexpr int64_t kRows = 16;
  constexpr int64_t kCols = 512;
  FileMatrix file(type, kRows, kCols, 3);
  std::mt19937 random(11);
  for (int64_t i = 0; i < file.bytes.size(); ++i) {
    file.bytes[i] = static_cast<std::byte>(random() & 0xBBU);
  }
  const PackedMatrix w = PackedMatrix::pack(file.view, cpu::best_isa(), pool);
  std::vector<float> want(kCols);
  std::vector<float> got(kCols);
  for (int64_t r = 0; r < kRows; ++r) {
    dequantize_row(type, file.view.row(r), want);
    w.dequantize_row(r, got);
    EXPECT_EQ(got, want) << "row " << r;
  }
}

TEST_P(MatmulOf, AgreesWithTheDefinition) {
  const DType type = GetParam();
  const int64_t block = dtype_info(type).block_elems;
  ThreadPool pool(2);
  std::vector<int64_t> widths{block, 3 * block, 1024, kLongCols};
  if (is_float(type)) {
    widths = {1, 31, 100, 1024};
  }
  for (const Isa isa : test::runnable_isas()) {
    for (const int64_t rows : {1, 16, 37, 83}) {
      for (const int64_t cols : widths) {
        const FileMatrix file(type, rows, cols, static_cast<unsigned>(rows + cols));
        const PackedMatrix w = PackedMatrix::pack(file.view, isa, pool);
        for (const int64_t n : {1, 2, 3, 5, 7, 8, 12, 13, 29}) {
          const std::vector<float> x = random_input(n * cols, static_cast<unsigned>(n));
          const std::vector<double> want = file.times(x, n);
          const std::vector<float> got = product(pool, w, x, n);
          // The norm of few errors scatters about its expectation.
          const double few = 1 + 1 / std::sqrt(static_cast<double>(n * rows));
          EXPECT_LT(error_of_product(got, want, file, x, n),
                    few * (is_float(type) ? test::kFloatReorder : test::kInt8Activations))
              << isa_name(isa) << " rows " << rows << " cols " << cols << " tokens " << n;
        }
      }
    }
  }
}

// The error that remains is that of the activations: with inputs that are whole multiples of one step it
// vanishes.
TEST_P(MatmulOf, ExactWhereTheInputIsExact) {
  const DType type = GetParam();
  constexpr int64_t kRows = 48;
  constexpr int64_t kCols = 512;
  constexpr int64_t kTokens = 14;
  ThreadPool pool(2);
  const FileMatrix file(type, kRows, kCols, 23);
  std::mt19937 random(5);
  std::vector<float> x(kCols * kTokens);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = i % 32 == 0 ? 127.0F : static_cast<float>(static_cast<int>(random() % 255) - 127);
  }
  const std::vector<double> want = file.times(x, kTokens);
  for (const Isa isa : test::runnable_isas()) {
    const PackedMatrix w = PackedMatrix::pack(file.view, isa, pool);
    const std::vector<float> got = product(pool, w, x, kTokens);
    EXPECT_LT(test::relative_error(got, want, kRows * kTokens), test::kFloatReorder) << isa_name(isa);
  }
}

TEST_P(MatmulOf, ARowAloneEqualsTheSameRowInABatch) {
  const DType type = GetParam();
  constexpr int64_t kRows = 40;
  constexpr int64_t kTokens = 27;
  ThreadPool pool(2);
  for (const int64_t cols : {int64_t{768}, kLongCols}) {
    const FileMatrix file(type, kRows, cols, 4);
    const std::vector<float> x = random_input(cols * kTokens, 9);
    for (const Isa isa : test::runnable_isas()) {
      const PackedMatrix w = PackedMatrix::pack(file.view, isa, pool);
      const std::vector<float> all = product(pool, w, x, kTokens);
      for (int64_t n = 1; n < kTokens; ++n) {
        for (const int64_t first : {int64_t{0}, kTokens - n}) {
          const std::vector<float> part(x.begin() + first * cols, x.begin() + (first + n) * cols);
          const std::vector<float> got = product(pool, w, part, n);
          for (int64_t i = 0; i < n * kRows; ++i) {
            ASSERT_EQ(got[static_cast<size_t>(i)], all[static_cast<size_t>(first * kRows + i)])
                << isa_name(isa) << " tokens " << n << " at " << first << " element " << i;
          }
        }
      }
    }
  }
}

TEST(Matmul, TheNumberOfThreadsChangesNoBit) {
  for (const DType type : {DType::q4_k, DType::q6_k, DType::f32}) {
    const FileMatrix file(type, 200, kLongCols, 4);
    const std::vector<float> x = random_input(kLongCols * 33, 9);
    ThreadPool one(1);
    const PackedMatrix w = PackedMatrix::pack(file.view, cpu::best_isa(), one);
    const std::vector<float> want = product(one, w, x, 33);
    for (const int threads : {2, 3, 7}) {
      ThreadPool pool(threads);
      EXPECT_EQ(product(pool, w, x, 33), want) << threads;
      const PackedMatrix again = PackedMatrix::pack(file.view, cpu::best_isa(), pool);
      EXPECT_EQ(product(pool, again, x, 33), want) << threads;
    }
  }
}

TEST(Matmul, GroupOfMixedTypesAccumulatesInPlaceAndTouchesNothingElse) {
  constexpr int64_t kCols = 256;
  constexpr int64_t kTokens = 5;
  constexpr int64_t kPad = 3;
  ThreadPool pool(2);
  const std::vector<float> x = random_input(kCols * kTokens, 2);
  for (const Isa isa : test::runnable_isas()) {
    const std::vector<DType> types{DType::q4_k, DType::f32, DType::q6_k, DType::bf16};
    const std::vector<int64_t> rows{33, 5, 64, 17};
    std::vector<std::unique_ptr<FileMatrix>> files;
    std::vector<PackedMatrix> packed;
    std::vector<std::unique_ptr<Guarded<float>>> outs;
    std::vector<MatmulTask> tasks;
    for (size_t i = 0; i < types.size(); ++i) {
      files.push_back(std::make_unique<FileMatrix>(types[i], rows[i], kCols, 60 + i));
      packed.push_back(PackedMatrix::pack(files.back()->view, isa, pool));
      outs.push_back(std::make_unique<Guarded<float>>((rows[i] + kPad) * (kTokens - 1) + rows[i]));
    }
    for (size_t i = 0; i < types.size(); ++i) {
      const bool accumulate = i % 2 == 1;
      if (accumulate) {
        for (float& v : outs[i]->span()) {
          v = 0.25F;
        }
      }
      tasks.push_back({&packed[i], outs[i]->data(), rows[i] + kPad, accumulate});
    }
    Activations in;
    in.reserve(kTokens, kCols);
    in.set(x.data(), kTokens, kCols, kCols);
    matmul(pool, in, tasks);
    for (size_t i = 0; i < types.size(); ++i) {
      const std::vector<float> alone = product(pool, packed[i], x, kTokens);
      EXPECT_TRUE(outs[i]->intact());
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t r = 0; r < rows[i] + kPad && t * (rows[i] + kPad) + r < outs[i]->size(); ++r) {
          const float got = (*outs[i])[t * (rows[i] + kPad) + r];
          if (r < rows[i]) {
            const float want = alone[static_cast<size_t>(t * rows[i] + r)];
            ASSERT_EQ(got, tasks[i].accumulate ? 0.25F + want : want) << i << " " << t << " " << r;
          } else if (tasks[i].accumulate) {
            ASSERT_EQ(got, 0.25F);
          } else {
            ASSERT_TRUE(std::isnan(got)) << "written beside its rows";
          }
        }
      }
    }
  }
}

TEST(Matmul, ReadsItsInputOnlyWhereItIs) {
  constexpr int64_t kCols = 96;
  constexpr int64_t kStride = 101;
  ThreadPool pool(1);
  std::mt19937 random(1);
  const FileMatrix quantised(DType::q8_0, 16, kCols, 1);
  const FileMatrix floats(DType::f32, 16, kCols, 1);
  for (const Isa isa : test::runnable_isas()) {
    for (const FileMatrix* file : {&quantised, &floats}) {
      const PackedMatrix w = PackedMatrix::pack(file->view, isa, pool);
      Guarded<float> x(kStride * 5 + kCols);  // what lies between the rows is NaN
      std::vector<float> dense(6 * kCols);
      for (int64_t t = 0; t < 6; ++t) {
        for (int64_t c = 0; c < kCols; ++c) {
          x[t * kStride + c] = dense[static_cast<size_t>(t * kCols + c)] =
              static_cast<float>(random() % 1000) * 0.01F - 5;
        }
      }
      Activations in;
      in.reserve(6, kCols);
      in.set(x.data(), 6, kCols, kStride);
      std::vector<float> y(6 * 16);
      const MatmulTask task{&w, y.data(), 16, false};
      matmul(pool, in, {&task, 1});
      EXPECT_EQ(y, product(pool, w, dense, 6));
    }
  }
}

TEST(Matmul, AnInputMadeOnTheWayGivesTheSameBitsAndIsMadeOnce) {
  constexpr int64_t kCols = 1536;  // more than one work item of the quantisation
  ThreadPool pool(3);
  std::mt19937 random(1);
  const FileMatrix quantised(DType::q4_k, 40, kCols, 1);
  const FileMatrix floats(DType::f16, 40, kCols, 2);
  for (const Isa isa : test::runnable_isas()) {
    const PackedMatrix a = PackedMatrix::pack(quantised.view, isa, pool);
    const PackedMatrix b = PackedMatrix::pack(floats.view, isa, pool);
    for (const int64_t n : {1, 3, 9}) {
      std::vector<float> x(static_cast<size_t>(n * kCols));
      for (float& v : x) {
        v = static_cast<float>(random() % 1000) * 0.01F - 5;
      }
      for (const bool rows : {false, true}) {
        for (const bool floats_first : {false, true}) {
          Guarded<float> made(n * kCols);
          std::vector<std::atomic<int>> times(x.size());
          auto make = [&](int64_t token, int64_t end_token, int64_t column, int64_t end_column) {
            EXPECT_TRUE(!rows || (column == 0 && end_column == kCols));
            for (; token < end_token; ++token) {
              for (int64_t c = column; c < end_column; ++c) {
                const auto at = static_cast<size_t>(token * kCols + c);
                made[token * kCols + c] = x[at];
                ++times[at];
              }
            }
          };
          Activations in;
          in.reserve(n, kCols);
          in.set_made(made.data(), n, kCols, kCols, rows, make);
          std::vector<float> ya(static_cast<size_t>(n * 40));
          std::vector<float> yb(ya.size());
          std::vector<MatmulTask> tasks{{&a, ya.data(), 40, false}, {&b, yb.data(), 40, false}};
          if (floats_first) {
            std::swap(tasks[0], tasks[1]);
          }
          matmul(pool, in, tasks);
          EXPECT_EQ(ya, product(pool, a, x, n));
          EXPECT_EQ(yb, product(pool, b, x, n));
          EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](const auto& t) { return t == 1; }));
        }
      }
    }
  }
}

TEST(Matmul, AnInputMadeInPartsGivesTheSameBits) {
  constexpr int64_t kCols = 320;
  ThreadPool pool(2);
  const FileMatrix quantised(DType::q8_0, 40, kCols, 1);
  const FileMatrix floats(DType::f16, 40, kCols, 2);
  for (const Isa isa : test::runnable_isas()) {
    for (const FileMatrix* file : {&quantised, &floats}) {
      const PackedMatrix w = PackedMatrix::pack(file->view, isa, pool);
      for (const int64_t n : {1, 2, 3, 7, 9}) {
        const std::vector<float> x = random_input(n * kCols, static_cast<unsigned>(n));
        Activations in;
        in.reserve(9, kCols);
        // More tokens first: what the missing tokens of a unit were before must not matter.
        const std::vector<float> before = random_input(9 * kCols, 77);
        in.set(before.data(), 9, kCols, kCols);
        std::vector<float> y(9 * 40);
        const MatmulTask task{&w, y.data(), 40, false};
        matmul(pool, in, {&task, 1});

        in.set_in_parts(x.data(), n, kCols, kCols, w);
        pool.parallel_for(n * 2, 1, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {  // tokens backwards, each in two parts
            const int64_t token = n - 1 - i / 2;
            const int64_t middle = 96;
            in.make_part(token, token + 1, i % 2 == 0 ? middle : 0, i % 2 == 0 ? kCols : middle);
          }
        });
        y.resize(static_cast<size_t>(n * 40));
        const MatmulTask again{&w, y.data(), 40, false};
        matmul(pool, in, {&again, 1});
        EXPECT_EQ(y, product(pool, w, x, n)) << isa_name(isa) << " tokens " << n;
      }
    }
  }
}

TEST_P(MatmulOf, GatedProductsAreThoseOfTheTwoMatrices) {
  const DType type = GetParam();
  constexpr int64_t kRows = 96;
  ThreadPool pool(2);
  for (const int64_t cols : {int64_t{256}, kLongCols}) {
    const FileMatrix gate(type, kRows, cols, 5);
    const FileMatrix up(type, kRows, cols, 6);
    const FileMatrix narrow(type, 80, cols, 6);
    const FileMatrix other(type == DType::q8_0 ? DType::q4_0 : DType::q8_0, kRows, cols, 6);
    EXPECT_EQ(PackedMatrix::can_pair(gate.view, up.view), !is_float(type));
    EXPECT_FALSE(PackedMatrix::can_pair(narrow.view, narrow.view));
    EXPECT_FALSE(PackedMatrix::can_pair(gate.view, other.view));
    EXPECT_FALSE(PackedMatrix::can_pair(gate.view, narrow.view));
    if (is_float(type)) {
      continue;
    }
    const FileMatrix next(DType::q8_0, 40, kRows, 8);
    const FileMatrix next_floats(DType::f32, 40, kRows, 8);
    for (const Isa isa : test::runnable_isas()) {
      const PackedMatrix pair = PackedMatrix::pack_pair(gate.view, up.view, isa, pool);
      std::array<PackedMatrix, 2> downs = {PackedMatrix::pack(next.view, isa, pool),
                                           PackedMatrix::pack(next_floats.view, isa, pool)};
      EXPECT_EQ(pair.bytes(), 2 * PackedMatrix::packed_bytes(type, kRows, cols, isa));
      for (const int64_t n : {1, 3, 8, 13}) {
        const std::vector<float> x = random_input(n * cols, static_cast<unsigned>(n));
        std::vector<float> want = product(pool, PackedMatrix::pack(gate.view, isa, pool), x, n);
        const std::vector<float> b = product(pool, PackedMatrix::pack(up.view, isa, pool), x, n);
        cpu::swiglu(isa, want.data(), b.data(), n * kRows, want.data());
        for (const PackedMatrix& down : downs) {
          Guarded<float> h(n * kRows);
          Guarded<float> other_sums(n * kRows);
          Activations in;
          Activations hidden;
          in.reserve(n, cols);
          hidden.reserve(n, kRows);
          in.set(x.data(), n, cols, cols);
          hidden.set_in_parts(h.data(), n, kRows, kRows, down);
          gated_matmul(pool, in, pair, h.data(), other_sums.data(), hidden);
          EXPECT_TRUE(h.intact() && other_sums.intact());
          std::vector<float> y(static_cast<size_t>(n * 40));
          const MatmulTask task{&down, y.data(), 40, false};
          matmul(pool, hidden, {&task, 1});
          EXPECT_EQ(y, product(pool, down, want, n)) << isa_name(isa) << " " << n;
        }
      }
    }
  }
}

TEST(Matmul, ExtremeInputsGiveZerosOrPoisonButNothingElse) {
  constexpr int64_t kCols = 64;
  ThreadPool pool(1);
  const FileMatrix file(DType::q8_0, 16, kCols, 1);
  for (const Isa isa : test::runnable_isas()) {
    const PackedMatrix w = PackedMatrix::pack(file.view, isa, pool);
    std::vector<float> x(5 * kCols, 0.0F);
    x[1 * kCols + 40] = std::numeric_limits<float>::quiet_NaN();
    x[2 * kCols + 3] = -std::numeric_limits<float>::infinity();
    x[3 * kCols + 3] = std::numeric_limits<float>::denorm_min();
    x[4 * kCols + 9] = std::numeric_limits<float>::max();
    const std::vector<float> y = product(pool, w, x, 5);
    for (size_t r = 0; r < 16; ++r) {
      EXPECT_EQ(y[r], 0.0F);
      EXPECT_FALSE(std::isfinite(y[16 + r]));
      EXPECT_FALSE(std::isfinite(y[32 + r]));
      EXPECT_NEAR(y[48 + r], 0.0F, 1e-30F);
      EXPECT_TRUE(std::isfinite(y[64 + r]));
    }
  }
}

// Rows that fill tiles, some of whose lines can be written past the caches, and rows that do not.
TEST(Matmul, MaximaAreThoseOfTheProductThatTheyComeWith) {
  constexpr int64_t kCols = 64;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  ThreadPool pool(2);
  for (const int64_t rows : {5, 48, 300, 1024}) {
    const FileMatrix file(DType::q8_0, rows, kCols, 2);
    for (const Isa isa : test::runnable_isas()) {
      const PackedMatrix w = PackedMatrix::pack(file.view, isa, pool);
      for (const int64_t n : {1, 3, 17}) {
        std::vector<float> x = random_input(n * kCols, 3);
        if (n > 1) {
          x[static_cast<size_t>(kCols) + 7] = std::numeric_limits<float>::quiet_NaN();
        }
        const std::vector<float> want = product(pool, w, x, n);
        Activations in;
        in.reserve(n, kCols);
        in.set(x.data(), n, kCols, kCols);
        const int64_t each = (rows + cpu::kMaximaRows - 1) / cpu::kMaximaRows;
        for (const int64_t stride : {rows, (rows + 15) / 16 * 16 + 16}) {
          Guarded<float> y(n * stride);
          Guarded<float> maxima(n * each);
          y.poison();
          maxima.poison();
          const MatmulTask task{&w, y.data(), stride, false, maxima.data()};
          matmul(pool, in, {&task, 1});
          for (int64_t t = 0; t < n; ++t) {
            for (int64_t i = 0; i < each; ++i) {
              float top = -kInf;
              bool bad = false;
              for (int64_t r = i * cpu::kMaximaRows; r < std::min(rows, (i + 1) * cpu::kMaximaRows); ++r) {
                const float got = y[t * stride + r];
                const float expected = want[static_cast<size_t>(t * rows + r)];
                EXPECT_TRUE(got == expected || (std::isnan(got) && std::isnan(expected))) << r;
                bad = bad || !(got < kInf);
                top = std::max(top, got);
              }
              const float got = maxima[t * each + i];
              EXPECT_TRUE(bad ? std::isnan(got) : got == top)
                  << cpu::isa_name(isa) << " rows " << rows << " token " << t << " block " << i;
            }
          }
          EXPECT_TRUE(y.intact() && maxima.intact());
        }
      }
    }
  }
}

// What is asked for ahead is no input; kernels of several tokens go through all of it and not beyond.
TEST(Matmul, AsksAheadToTheEndAndNoFurther) {
  constexpr int64_t kCols = 512;
  constexpr int64_t kRows = 128;  // 128 groups of 32 columns and 16 rows
  constexpr int64_t kBytes = 100 * cpu::kAheadBytes;
  const std::vector<uint8_t> later(kBytes + 100);
  ThreadPool pool(1);
  for (const DType type : {DType::q4_k, DType::q6_k, DType::q8_0}) {
    const FileMatrix file(type, kRows, kCols, 4);
    const PackedMatrix w = PackedMatrix::pack(file.view, cpu::best_isa(), pool);
    for (const int64_t n : {1, 8, 13}) {
      const std::vector<float> x = random_input(n * kCols, 9);
      Activations in;
      in.reserve(n, kCols);
      in.set(x.data(), n, kCols, kCols);
      cpu::Ahead ahead(1);
      ahead.add(0, later.data(), 100);  // less than kernels take at a time
      ahead.add(0, later.data(), kBytes + 100);
      const cpu::Ahead::Part* part = ahead.part(0);
      ASSERT_NE(part, nullptr);
      EXPECT_EQ(part->end, later.data() + kBytes);
      std::vector<float> y(static_cast<size_t>(n * kRows));
      const MatmulTask task{&w, y.data(), kRows, false};
      matmul(pool, in, {&task, 1}, &ahead);
      EXPECT_EQ(y, product(pool, w, x, n)) << n;
      const bool asks = cpu::best_isa() == Isa::avx512_vnni && n >= cpu::kAheadTokens;
      EXPECT_EQ(part->at, asks ? part->end : later.data()) << n;
      EXPECT_EQ(ahead.part(0), asks ? nullptr : part) << n;
    }
  }
}

TEST(Matmul, PackedIsAsSmallAsTheFile) {
  const auto ratio = [](DType type) {
    return static_cast<double>(PackedMatrix::packed_bytes(type, 1024, 1024, cpu::best_isa())) /
           static_cast<double>(row_bytes(type, 1024) * 1024);
  };
  for (const DType type : kTypes) {
    // Q3_K and IQ4_XS keep their 6-bit scales in bytes.
    EXPECT_LE(ratio(type), type == DType::q3_k     ? 1.04
                           : type == DType::iq4_xs ? 1.02
                                                   : 1.0)
        << dtype_info(type).name;
  }
}

}  // namespace
}  // namespace fl
