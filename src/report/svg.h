// Drawing: an SVG of fixed size whose colours are classes of web/report/report.css, and scales for its axes.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fl::report {

struct Point {
  double x = 0;
  double y = 0;
};

enum class Anchor { start, middle, end };

/// Coordinates are pixels of the view box, y downwards. Text is escaped here.
class Svg {
 public:
  /// `label` says what is drawn, for those who do not see it.
  Svg(double width, double height, std::string_view label);

  void line(Point from, Point to, std::string_view css);
  void polyline(const std::vector<Point>& points, std::string_view css);
  void polygon(const std::vector<Point>& points, std::string_view css);
  void rect(Point corner, double width, double height, std::string_view css, double radius = 0);
  void circle(Point centre, double radius, std::string_view css);
  void text(Point at, std::string_view text, std::string_view css, Anchor anchor = Anchor::start);
  /// A mark with a text of its own (a title; with scripts a tip). Every open() needs a close().
  void open(std::string_view tip);
  void close();

  std::string end();

 private:
  void points(const std::vector<Point>& list);
  std::string out_;
};

/// From a range of values to a range of pixels.
class Scale {
 public:
  static Scale linear(double low, double high, double from, double to);
  /// low > 0.
  static Scale logarithmic(double low, double high, double from, double to);
  double operator()(double value) const;

 private:
  bool log_ = false;
  double low_ = 0, high_ = 1, from_ = 0, to_ = 1;
};

/// Round values from 0 to at least `max`: at most n + 1, steps of 1, 2, 2.5 or 5 times a power of ten. With
/// `binary` steps are powers of two.
std::vector<double> ticks_from_zero(double max, int n, bool binary = false);
/// At most seven round values inside [low, high], low > 0: powers of ten and what lies between them where
/// there is room, or powers of two.
std::vector<double> log_ticks(double low, double high, bool binary = false);

/// Moves positions apart so that neighbours are `gap` apart and all lie in [low, high], each as near to where
/// it was as a simple sweep finds. Order of the result is that of the input.
std::vector<double> spread_labels(const std::vector<double>& wanted, double gap, double low, double high);

/// Index of n colours (0 to 5) for the i-th of `count` ordered series: the ends of the ramp are used first.
int ramp(size_t i, size_t count);

}  // namespace fl::report
