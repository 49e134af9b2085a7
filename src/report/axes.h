// Frames and axes that the plots share.
#pragma once

#include <string>
#include <vector>

#include "report/svg.h"

namespace fl::report {

/// The view box and the area inside that holds data.
struct Frame {
  double width = 0;
  double height = 0;
  double left = 0;
  double right = 0;
  double top = 0;
  double bottom = 0;
};

/// Horizontal grid lines, their values, and the unit on top.
void draw_y_axis(Svg& svg, const Frame& frame, const Scale& y, const std::vector<double>& ticks,
                 const std::string& unit);
/// Ticks below the frame and what they are; `tokens` prints them as format_tokens().
void draw_x_axis(Svg& svg, const Frame& frame, const Scale& x, const std::vector<double>& ticks,
                 const std::string& what, bool tokens);

std::string format_tick(double value);
/// "200 ms", "5 s"
std::string format_tick_seconds(double seconds);

}  // namespace fl::report
