#include "kernels/rope.h"

#include <gtest/gtest.h>

#include "tests/kernels/isas.h"
#include "tests/support/guarded.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::Guarded;

TEST(Rope, FrequenciesAndAxesOfTheFamily) {
  const RopeTable table = make_rope_table(32, 1e7F, {11, 11, 10}, 1.0F, 0);
  ASSERT_EQ(table.pairs(), 32);
  EXPECT_FLOAT_EQ(table.frequency[0], 1.0F);
  EXPECT_NEAR(table.frequency[1], 0.60429639, 1e-7);
  EXPECT_NEAR(table.frequency[2], 0.36517413, 1e-7);
  EXPECT_NEAR(table.frequency[15], 5.2329911e-4, 1e-10);
  EXPECT_NEAR(table.frequency[31], 1.6548171e-7, 1e-13);
  std::string letters;
  for (const uint8_t axis : table.axis) {
    letters += "thw"[axis];
  }
  EXPECT_EQ(letters, "thwthwthwthwthwthwthwthwthwthwth");
  EXPECT_EQ(table.magnitude, 1.0F);
}

TEST(Rope, YarnKeepsFastPairsAndSlowsSlowOnes) {
  const RopeTable plain = make_rope_table(32, 1e7F, {11, 11, 10}, 1.0F, 0);
  const RopeTable yarn = make_rope_table(32, 1e7F, {11, 11, 10}, 4.0F, 262144);
  EXPECT_EQ(yarn.frequency[0], plain.frequency[0]);
  EXPECT_FLOAT_EQ(yarn.frequency[31], plain.frequency[31] / 4);
  EXPECT_FLOAT_EQ(yarn.magnitude, static_cast<float>(0.1 * std::log(4.0) + 1.0));
  for (size_t i = 1; i < 32; ++i) {
    EXPECT_LE(yarn.frequency[i], plain.frequency[i]);
    EXPECT_LT(yarn.frequency[i], yarn.frequency[i - 1]);
  }
}

TEST(Rope, MatchesReference) {
  std::mt19937 random(3);
  for (const cpu::Isa isa : test::runnable_isas()) {
    for (const int64_t pairs : {1, 4, 8, 16, 21, 32}) {
      const auto third = static_cast<int32_t>(pairs / 3);
      const RopeTable table =
          make_rope_table(pairs, 1e7F, {static_cast<int32_t>(pairs) - 2 * third, third, third}, 1.0F, 0);
      for (const int32_t p : {0, 1, 63, 4095, 262143}) {
        const std::array<int32_t, 3> position{p, p / 2, p / 3};
        const int64_t head_dim = 2 * pairs + 5;  // the rest must stay
        Guarded<float> head(head_dim);
        Guarded<float> angles(2 * pairs);
        head.fill(random, -2, 2);
        std::vector<double> want = test::to_double(head, head_dim);
        ref::rope(table, position, want.data());
        cpu::rope_angles(table, position, angles.data());
        cpu::rope(isa, angles.data(), pairs, head.data());
        EXPECT_LT(test::relative_error(head, want, head_dim), test::kFloatReorder)
            << cpu::isa_name(isa) << " pairs " << pairs;
        for (int64_t i = 2 * pairs; i < head_dim; ++i) {
          EXPECT_EQ(static_cast<double>(head[i]), want[static_cast<size_t>(i)]);
        }
        EXPECT_TRUE(head.intact() && angles.intact());
      }
    }
  }
}

}  // namespace
}  // namespace fl
