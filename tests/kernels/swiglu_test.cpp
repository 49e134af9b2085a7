#include "kernels/swiglu.h"

#include <gtest/gtest.h>

#include "tests/kernels/isas.h"
#include "tests/support/guarded.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::Guarded;

TEST(Swiglu, MatchesReference) {
  std::mt19937 random(2);
  for (const cpu::Isa isa : test::runnable_isas()) {
    for (const int64_t n : {1, 7, 16, 33, 1024, 3584}) {
      for (const float range : {1.0F, 10.0F, 80.0F}) {
        Guarded<float> gate(n);
        Guarded<float> up(n);
        Guarded<float> y(n);
        gate.fill(random, -range, range);
        up.fill(random, -3, 3);
        std::vector<double> want(static_cast<size_t>(n));
        ref::swiglu(test::to_double(gate, n).data(), test::to_double(up, n).data(), n, want.data());
        cpu::swiglu(isa, gate.data(), up.data(), n, y.data());
        EXPECT_LT(test::relative_error(y, want, n), test::kFloatReorder) << cpu::isa_name(isa) << " n " << n;
        EXPECT_TRUE(y.intact());
      }
    }
  }
}

// The exponential saturates instead of overflowing, element by element, and NaN is not hidden.
TEST(Swiglu, ExtremeGates) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> gate{0.0F,   -0.0F, 1e-30F, -87.0F, -90.0F,
                                -1e30F, 90.0F, 1e30F,  kInf,   std::nanf("")};
  const std::vector<float> up(gate.size(), 1.0F);
  for (const cpu::Isa isa : test::runnable_isas()) {
    std::vector<float> y(gate.size(), -1.0F);
    cpu::swiglu(isa, gate.data(), up.data(), static_cast<int64_t>(gate.size()), y.data());
    EXPECT_EQ(y[0], 0.0F);
    EXPECT_EQ(y[1], 0.0F);
    EXPECT_FLOAT_EQ(y[2], 5e-31F);
    EXPECT_LE(std::abs(y[3]), 1.5e-36F);
    EXPECT_LE(std::abs(y[4]), 1e-36F);
    EXPECT_LE(std::abs(y[5]), 1e-7F);
    EXPECT_EQ(y[6], 90.0F);
    EXPECT_EQ(y[7], 1e30F);
    EXPECT_EQ(y[8], kInf);
    EXPECT_TRUE(std::isnan(y[9]));
  }
}

}  // namespace
}  // namespace fl
