#include "core/quants.h"

#include <bit>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "core/half.h"

namespace fl {
namespace {

// Published test vectors: bytes b[i] = (37 i + 11) mod 256, then d = 1.0 and min = 0.5 as fp16 where present.
struct Vector {
  DType type;
  int d;    ///< offset of d
  int min;  ///< offset of m or dmin, -1: none
  double first, second, before_half, half, last, sum, weighted;
};

const Vector kVectors[] = {
    {DType::q4_0, 0, -1, -3, 2, -8, -3, 0, -21, -518},
    {DType::q4_1, 0, 2, 15.5, 4.5, 10.5, 9.5, 12.5, 261, 4247},
    {DType::q5_0, 0, -1, 9, -2, -12, 14, 1, 15, 112},
    {DType::q5_1, 0, 2, 19.5, 24.5, 30.5, 19.5, 5.5, 521, 8165},
    {DType::q8_0, 0, -1, 85, 122, -128, -91, -48, -176, -8080},
    {DType::q2_k, 80, 82, 33, 0, 42, 7.5, 4.5, 2059, 243130},
    {DType::q3_k, 108, -1, 81, -108, 72, 2, 42, 958, 177145},
    {DType::q4_k, 0, 2, 315.5, -25.5, 81, 423, 48.5, 54440, 7572840},
    {DType::q5_k, 0, 2, 811.5, -25.5, -3, 1047, 108.5, 116216, 16027448},
    {DType::q6_k, 208, -1, -1431, 1696, 1500, -351, -60, 4612, 784420},
    {DType::iq4_nl, 0, -1, -35, 25, -127, -35, 1, -257, -6919},
    {DType::iq4_xs, 0, -1, 65, -1, 196, -585, -16, -11005, -2091134},
};

class BlockVectors : public testing::TestWithParam<Vector> {};

TEST_P(BlockVectors, Dequantize) {
  const Vector& vector = GetParam();
  const DTypeInfo& info = dtype_info(vector.type);
  std::vector<std::byte> block(info.block_bytes);
  for (size_t i = 0; i < block.size(); ++i) {
    block[i] = static_cast<std::byte>(37 * i + 11);
  }
  const auto put_half = [&](int at, uint16_t half) {
    block[static_cast<size_t>(at)] = static_cast<std::byte>(half & 0xFF);
    block[static_cast<size_t>(at) + 1] = static_cast<std::byte>(half >> 8);
  };
  put_half(vector.d, 0x3C00);
  if (vector.min >= 0) {
    put_half(vector.min, 0x3800);
  }
  std::vector<float> values(info.block_elems);
  dequantize_row(vector.type, block.data(), values);
  double sum = 0;
  double weighted = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    sum += values[i];
    weighted += double(i + 1) * values[i];
  }
  const size_t n = values.size();
  EXPECT_EQ(values[0], vector.first);
  EXPECT_EQ(values[1], vector.second);
  EXPECT_EQ(values[n / 2 - 1], vector.before_half);
  EXPECT_EQ(values[n / 2], vector.half);
  EXPECT_EQ(values[n - 1], vector.last);
  EXPECT_EQ(sum, vector.sum);
  EXPECT_EQ(weighted, vector.weighted);
}

INSTANTIATE_TEST_SUITE_P(All, BlockVectors, testing::ValuesIn(kVectors),
                         [](const auto& vector) { return std::string(dtype_info(vector.param.type).name); });

TEST(Half, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const bool nan = (half & 0x7C00U) == 0x7C00U && (half & 0x3FFU) != 0;
    if (nan) {
      EXPECT_TRUE(std::isnan(f16_to_float(half)));
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(f16_to_float(half)))));
    } else {
      EXPECT_EQ(float_to_f16(f16_to_float(half)), half);
    }
    if (!std::isnan(bf16_to_float(half))) {
      EXPECT_EQ(float_to_bf16(bf16_to_float(half)), half);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(float_to_f16(1.0F + 0x1p-11F), 0x3C00);             // a tie, to even
  EXPECT_EQ(float_to_f16(1.0F + 0x1p-10F + 0x1p-11F), 0x3C02);  // a tie, to even
  EXPECT_EQ(float_to_f16(1.0F + 0x1p-11F + 0x1p-20F), 0x3C01);
  EXPECT_EQ(float_to_f16(65519.0F), 0x7BFF);
  EXPECT_EQ(float_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_f16(0x1p-25F), 0x0000);
  EXPECT_EQ(float_to_f16(0x1.8p-25F), 0x0001);
  EXPECT_EQ(float_to_f16(-0.0F), 0x8000);
  EXPECT_EQ(float_to_bf16(1.0F + 0x1p-8F), 0x3F80);
  EXPECT_EQ(float_to_bf16(std::nanf("")) & 0x7FC0, 0x7FC0);
}

TEST(DTypes, NamesAndIds) {
  EXPECT_EQ(dtype_from_name("q4_k"), DType::q4_k);
  EXPECT_EQ(dtype_from_id(23), DType::iq4_xs);
  EXPECT_FALSE(dtype_from_id(16));
  EXPECT_EQ(ggml_type_name(16), "IQ2_XXS");
  EXPECT_FALSE(ggml_type_name(99));
  EXPECT_EQ(row_bytes(DType::q6_k, 512), 420U);
}

}  // namespace
}  // namespace fl
