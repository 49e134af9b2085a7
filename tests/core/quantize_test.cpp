#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/quants.h"
#include "tests/support/qualities.h"

namespace fl {
namespace {

double rms_error(DType type, const std::vector<float>& x, std::span<const float> importance = {}) {
  std::vector<std::byte> blocks(row_bytes(type, x.size()));
  quantize_row(type, x, importance, blocks.data());
  std::vector<float> back(x.size());
  dequantize_row(type, blocks.data(), back);
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_TRUE(std::isfinite(back[i]));
    const double weight = importance.empty() ? 1 : importance[i];
    error += weight * (double(back[i]) - x[i]) * (double(back[i]) - x[i]);
    norm += weight * double(x[i]) * x[i];
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

std::vector<float> gaussian(size_t n, float scale, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(n);
  for (float& value : x) {
    value = normal(random);
  }
  return x;
}

using test::kQualities;

class Encoders : public testing::TestWithParam<test::Quality> {};

TEST_P(Encoders, StayWithinTheirError) {
  for (const float scale : {1e-3F, 0.02F, 1.0F, 100.0F}) {
    EXPECT_LE(rms_error(GetParam().type, gaussian(4096, scale, 7)), GetParam().rms) << scale;
  }
}

TEST_P(Encoders, HandleEveryKindOfBlock) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float value : {0.0F, 1.0F, -1.0F, 1e-30F, 3e4F}) {
    const std::vector<float> constant(256, value);
    const double error = rms_error(GetParam().type, constant);
    EXPECT_LE(error, std::fabs(value) < 1e-20 ? 1 : 0.02) << value;
  }
  std::vector<float> strange = gaussian(256, 1, 3);
  strange[0] = std::nanf("");
  strange[1] = inf;
  strange[2] = -inf;
  if (GetParam().type != DType::f32 && GetParam().type != DType::f16 && GetParam().type != DType::bf16) {
    std::vector<std::byte> blocks(row_bytes(GetParam().type, 256));
    quantize_row(GetParam().type, strange, {}, blocks.data());
    std::vector<float> back(256);
    dequantize_row(GetParam().type, blocks.data(), back);
    for (float value : back) {
      EXPECT_TRUE(std::isfinite(value) && std::fabs(value) < 10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Encoders, testing::ValuesIn(kQualities), [](const auto& quality) {
  return std::string(dtype_info(quality.param.type).name);
});

TEST(Encoders, AnImportanceMovesTheErrorAway) {
  const std::vector<float> x = gaussian(4096, 1, 11);
  std::vector<float> importance(x.size(), 1e-3F);
  for (size_t i = 0; i < x.size(); i += 16) {
    importance[i] = 1;
  }
  for (const DType type : {DType::q2_k, DType::q3_k, DType::q4_k, DType::iq4_xs}) {
    std::vector<std::byte> plain(row_bytes(type, x.size()));
    quantize_row(type, x, {}, plain.data());
    std::vector<float> back(x.size());
    dequantize_row(type, plain.data(), back);
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += importance[i] * (double(back[i]) - x[i]) * (double(back[i]) - x[i]);
      norm += importance[i] * double(x[i]) * x[i];
    }
    EXPECT_LT(rms_error(type, x, importance), 0.9 * std::sqrt(error / norm)) << dtype_info(type).name;
  }
}

}  // namespace
}  // namespace fl
