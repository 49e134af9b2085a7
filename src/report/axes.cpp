#include "report/axes.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "report/format.h"

namespace fl::report {

std::string format_tick(double value) {
  constexpr double kLargestWhole = 1e15;
  return value >= 10000 && value < kLargestWhole ? format_count(static_cast<int64_t>(value))
                                                 : fmt::format("{:.6g}", value);
}

std::string format_tick_seconds(double seconds) {
  if (seconds < 0.9995) {
    return fmt::format("{:.3g} ms", seconds * 1000);
  }
  return fmt::format("{:.4g} s", seconds);
}

void draw_y_axis(Svg& svg, const Frame& frame, const Scale& y, const std::vector<double>& ticks,
                 const std::string& unit) {
  for (double tick : ticks) {
    svg.line({frame.left, y(tick)}, {frame.right, y(tick)}, tick == 0 ? "base" : "grid");
    std::string text = format_tick(tick);
    svg.text({frame.left - 7, y(tick) + 4}, text, "ax", Anchor::end);
  }
  svg.text({frame.left, frame.top - 5}, unit, "ax");
}

void draw_x_axis(Svg& svg, const Frame& frame, const Scale& x, const std::vector<double>& ticks,
                 const std::string& what, bool tokens) {
  for (double tick : ticks) {
    svg.line({x(tick), frame.bottom}, {x(tick), frame.bottom + 4}, "base");
    svg.text(
        {x(tick), frame.bottom + 17},
        tokens ? format_tokens(static_cast<int64_t>(std::llround(std::min(tick, 1e18)))) : format_tick(tick),
        "ax", Anchor::middle);
  }
  svg.text({(frame.left + frame.right) / 2, frame.bottom + 35}, what, "ax", Anchor::middle);
}

}  // namespace fl::report
