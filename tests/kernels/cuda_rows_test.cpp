// Norms, embedding rows and gathers on the device.
#include "core/quants.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/rms_norm.h"
#include "tests/support/cases.h"
#include "tests/support/guarded.h"
#include "tests/support/guarded_activations.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::DeviceActivations;
using test::DeviceArray;
using test::random_floats;

class CudaRows : public test::DeviceTest {};

TEST_F(CudaRows, NormsAgreeWithTheReference) {
  std::mt19937 random(1);
  for (const int32_t n_tokens : test::cases({1, 3, 64, 65}, {3, 65})) {
    for (const int32_t n : {16, 64, 96, 200, 256, 1000, 5120}) {
      const std::vector<float> x = random_floats(random, int64_t{n_tokens} * n, -3.0F, 3.0F);
      const std::vector<float> w = random_floats(random, n, 0.1F, 2.0F);
      DeviceArray<float> d_x(x);
      DeviceArray<float> d_w(w);
      DeviceActivations out(n_tokens, n);
      cuda::rms_norm({}, d_x.data(), n, d_w.data(), 1e-6F, out.value());
      const std::vector<float> got = out.download();
      EXPECT_TRUE(out.intact());
      const int32_t padded = cuda::padded_cols(n);
      for (int32_t t = 0; t < n_tokens; ++t) {
        std::vector<double> want(static_cast<size_t>(padded), 0.0);
        const auto row = test::to_double(std::vector<float>(x.begin() + t * n, x.begin() + (t + 1) * n), n);
        ref::rms_norm(row.data(), test::to_double(w, n).data(), 1e-6, n, want.data());
        const std::vector<float> got_row(got.begin() + t * padded, got.begin() + (t + 1) * padded);
        EXPECT_LT(test::relative_error(got_row, want, padded), test::kHalfActivations)
            << n << " columns, token " << t;
        for (int32_t c = n; c < padded; ++c) {
          EXPECT_EQ(got_row[static_cast<size_t>(c)], 0.0F) << "padding column " << c;
        }
      }
    }
  }
}

TEST_F(CudaRows, EmbeddingRowsAreTheFilesValues) {
  std::mt19937 random(2);
  constexpr int32_t kTable = 37;
  for (const DType type :
       {DType::f32, DType::f16, DType::bf16, DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0,
        DType::q2_k, DType::q3_k, DType::q4_k, DType::q5_k, DType::q6_k, DType::iq4_nl, DType::iq4_xs}) {
    for (const int32_t cols : test::cases({256, 5120}, {256})) {
      const uint64_t row = row_bytes(type, static_cast<uint64_t>(cols));
      std::vector<std::byte> table(row * kTable);
      const std::vector<float> values = random_floats(random, int64_t{kTable} * cols, -1.0F, 1.0F);
      for (int32_t r = 0; r < kTable; ++r) {
        const std::vector<float> one(values.begin() + r * cols, values.begin() + (r + 1) * cols);
        quantize_row(type, one, {}, table.data() + static_cast<uint64_t>(r) * row);
      }
      cuda::PinnedBuffer host(table.size());
      std::copy(table.begin(), table.end(), host.data());
      // Two tokens come from the step before: of its rows 1 and 0; row 0 had none.
      const std::vector<int32_t> ids{0, 36, -1, 17, -1};
      DeviceArray<int32_t> d_ids(ids);
      DeviceArray<int32_t> feedback(std::vector<int32_t>{-1, -1, 1, -1, 0});
      DeviceArray<int32_t> sampled(std::vector<int32_t>{-1, 5});
      DeviceArray<float> out(int64_t{5} * cols);
      cuda::embed({}, {host.data(), type, kTable, cols}, {d_ids.data(), feedback.data(), sampled.data()}, 5,
                  out.data());
      const std::vector<float> got = out.download();
      EXPECT_TRUE(out.intact());
      const std::vector<int32_t> expected{0, 36, 5, 17, 0};
      for (size_t i = 0; i < expected.size(); ++i) {
        std::vector<float> want(static_cast<size_t>(cols));
        dequantize_row(type, table.data() + static_cast<uint64_t>(expected[i]) * row, want);
        const std::vector<float> got_row(got.begin() + static_cast<int64_t>(i) * cols,
                                         got.begin() + static_cast<int64_t>(i + 1) * cols);
        EXPECT_LT(test::relative_error(got_row, want, cols), test::kFloatReorder)
            << dtype_info(type).name << ", " << cols << " columns, token " << i;
      }
    }
  }
}

TEST_F(CudaRows, GathersRows) {
  std::mt19937 random(3);
  const std::vector<float> x = random_floats(random, 10 * 64, -1.0F, 1.0F);
  DeviceArray<float> d_x(x);
  DeviceArray<int32_t> index(std::vector<int32_t>{9, 0, 0, 4});
  DeviceArray<float> out(4 * 64);
  cuda::gather_rows({}, d_x.data(), index.data(), 4, 64, out.data());
  const std::vector<float> got = out.download();
  EXPECT_TRUE(out.intact());
  for (const auto& [to, from] : {std::pair{0, 9}, {1, 0}, {2, 0}, {3, 4}}) {
    EXPECT_TRUE(std::equal(got.begin() + to * 64, got.begin() + (to + 1) * 64, x.begin() + from * 64));
  }
}

}  // namespace
}  // namespace fl
