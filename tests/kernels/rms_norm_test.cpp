#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include "tests/kernels/isas.h"
#include "tests/support/guarded.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::Guarded;

TEST(RmsNorm, MatchesReference) {
  std::mt19937 random(1);
  for (const cpu::Isa isa : test::runnable_isas()) {
    for (const int64_t n : {1, 3, 16, 31, 64, 100, 256, 1024, 5120}) {
      Guarded<float> x(n);
      Guarded<float> z(n);
      Guarded<float> w(n);
      Guarded<float> y(n);
      x.fill(random, -3, 5);
      z.fill(random, -20, 20);
      w.fill(random, 0.5, 1.5);
      const auto xd = test::to_double(x, n);
      const auto zd = test::to_double(z, n);
      const auto wd = test::to_double(w, n);
      std::vector<double> want(static_cast<size_t>(n));

      ref::rms_norm(xd.data(), wd.data(), 1e-6, n, want.data());
      cpu::rms_norm(isa, x.data(), w.data(), 1e-6F, n, y.data());
      EXPECT_LT(test::relative_error(y, want, n), test::kFloatReorder) << cpu::isa_name(isa) << " n " << n;

      y.poison();
      ref::gated_rms_norm(xd.data(), zd.data(), wd.data(), 1e-6, n, want.data());
      cpu::gated_rms_norm(isa, x.data(), z.data(), w.data(), 1e-6F, n, y.data());
      EXPECT_LT(test::relative_error(y, want, n), test::kFloatReorder)
          << cpu::isa_name(isa) << " gated, n " << n;
      EXPECT_TRUE(y.intact() && x.intact());

      cpu::rms_norm(isa, x.data(), w.data(), 1e-6F, n, y.data());
      cpu::rms_norm(isa, x.data(), w.data(), 1e-6F, n, x.data());
      EXPECT_EQ(std::memcmp(x.data(), y.data(), static_cast<size_t>(n) * sizeof(float)), 0) << "in place";
    }
  }
}

TEST(RmsNorm, ZeroInputGivesZero) {
  for (const cpu::Isa isa : test::runnable_isas()) {
    const std::vector<float> x(37, 0.0F);
    const std::vector<float> w(37, 1.0F);
    std::vector<float> y(37, 1.0F);
    cpu::rms_norm(isa, x.data(), w.data(), 1e-6F, 37, y.data());
    EXPECT_EQ(y, x);
  }
}

}  // namespace
}  // namespace fl
