#include "kernels/causal_conv.h"

#include <gtest/gtest.h>

#include "tests/kernels/isas.h"
#include "tests/support/guarded.h"
#include "tests/support/tolerances.h"

namespace fl {
namespace {

using test::Guarded;

TEST(CausalConv, MatchesReferenceAndKeepsTheWindow) {
  std::mt19937 random(4);
  for (const cpu::Isa isa : test::runnable_isas()) {
    for (const int64_t kernel : {2, 3, 4, 8}) {
      for (const int64_t channels : {1, 16, 37, 64, 96}) {
        for (const int64_t n : {1, 2, 3, 4, 5, 70}) {
          Guarded<float> x(n * channels);
          Guarded<float> w(kernel * channels);
          Guarded<float> window((kernel - 1) * channels);
          x.fill(random, -3, 3);
          w.fill(random, -1, 1);
          window.fill(random, -3, 3);
          std::vector<double> want(static_cast<size_t>(n * channels));
          std::vector<double> window_want = test::to_double(window, window.size());
          ref::causal_conv_silu(test::to_double(x, x.size()).data(), test::to_double(w, w.size()).data(),
                                kernel, n, channels, window_want.data(), want.data());
          const int64_t middle = channels / 2;
          cpu::causal_conv_silu(isa, x.data(), channels, n, w.data(), window.data(), kernel, channels, 0,
                                middle);
          cpu::causal_conv_silu(isa, x.data(), channels, n, w.data(), window.data(), kernel, channels, middle,
                                channels);
          EXPECT_LT(test::relative_error(x, want, x.size()), test::kFloatReorder)
              << cpu::isa_name(isa) << " kernel " << kernel << " channels " << channels << " tokens " << n;
          for (int64_t i = 0; i < window.size(); ++i) {
            EXPECT_EQ(static_cast<double>(window[i]), window_want[static_cast<size_t>(i)]);
          }
          EXPECT_TRUE(x.intact() && window.intact());
        }
      }
    }
  }
}

// Any cut of a call gives the same bits.
TEST(CausalConv, CutsDoNotMatter) {
  std::mt19937 random(5);
  constexpr int64_t kChannels = 40;
  constexpr int64_t kTokens = 9;
  for (const cpu::Isa isa : test::runnable_isas()) {
    Guarded<float> x(kTokens * kChannels);
    Guarded<float> w(4 * kChannels);
    x.fill(random, -3, 3);
    w.fill(random, -1, 1);
    std::vector<float> whole(x.data(), x.data() + x.size());
    std::vector<float> window(3 * kChannels, 0.0F);
    cpu::causal_conv_silu(isa, whole.data(), kChannels, kTokens, w.data(), window.data(), 4, kChannels, 0,
                          kChannels);
    for (int64_t first = 1; first < kTokens; ++first) {
      std::vector<float> cut(x.data(), x.data() + x.size());
      std::vector<float> cut_window(3 * kChannels, 0.0F);
      cpu::causal_conv_silu(isa, cut.data(), kChannels, first, w.data(), cut_window.data(), 4, kChannels, 0,
                            kChannels);
      cpu::causal_conv_silu(isa, cut.data() + first * kChannels, kChannels, kTokens - first, w.data(),
                            cut_window.data(), 4, kChannels, 0, kChannels);
      EXPECT_EQ(cut, whole) << "cut after " << first;
      EXPECT_EQ(cut_window, window) << "cut after " << first;
    }
  }
}

}  // namespace
}  // namespace fl
