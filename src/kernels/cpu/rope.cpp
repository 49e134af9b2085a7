#include "kernels/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fl {
namespace {

/// YaRN: pairs that turn more than kBetaFast times over the original context keep their frequency, those that
/// turn less than kBetaSlow times are slowed by the factor, a linear ramp between.
constexpr double kBetaFast = 32.0;
constexpr double kBetaSlow = 1.0;

/// The (fractional) pair that turns `turns` times over `ctx` tokens.
double pair_of_turns(double turns, double ctx, double dims, double base) {
  return dims * std::log(ctx / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(base));
}

}  // namespace

RopeTable make_rope_table(int64_t pairs, float base, std::array<int32_t, 3> sections, float factor,
                          int32_t original_ctx) {
  RopeTable table;
  const auto dims = static_cast<double>(2 * pairs);
  double low = 0;
  double high = 0;
  if (factor > 1.0F) {
    low = std::max(std::floor(pair_of_turns(kBetaFast, original_ctx, dims, base)), 0.0);
    high = std::min(std::ceil(pair_of_turns(kBetaSlow, original_ctx, dims, base)), dims - 1.0);
    if (low == high) {
      high += 0.001;
    }
    table.magnitude = static_cast<float>(0.1 * std::log(static_cast<double>(factor)) + 1.0);
  }
  for (int64_t i = 0; i < pairs; ++i) {
    double frequency =
        std::pow(static_cast<double>(base), -static_cast<double>(i) / static_cast<double>(pairs));
    if (factor > 1.0F) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      frequency = frequency / factor * ramp + frequency * (1.0 - ramp);
    }
    table.frequency.push_back(static_cast<float>(frequency));
    const bool y = i % 3 == 1 && i < 3 * int64_t{sections[1]};
    const bool x = i % 3 == 2 && i < 3 * int64_t{sections[2]};
    table.axis.push_back(y ? 1 : (x ? 2 : 0));
  }
  return table;
}

}  // namespace fl

namespace fl::cpu {

void rope_angles(const RopeTable& table, std::array<int32_t, 3> position, float* cos_sin) {
  const int64_t pairs = table.pairs();
  for (int64_t i = 0; i < pairs; ++i) {
    const auto at = static_cast<size_t>(i);
    const float phi = static_cast<float>(position[table.axis[at]]) * table.frequency[at];
    cos_sin[i] = static_cast<float>(std::cos(static_cast<double>(phi)) * table.magnitude);
    cos_sin[pairs + i] = static_cast<float>(std::sin(static_cast<double>(phi)) * table.magnitude);
  }
}

}  // namespace fl::cpu
