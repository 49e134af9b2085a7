#include "report/svg.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "report/format.h"

namespace fl::report {
namespace {

constexpr int kRampColours = 6;
constexpr double kFarOutside = 1e5;  // of any view box

// One decimal is finer than a screen's pixel; no "-0".
std::string number(double value) {
  if (!std::isfinite(value)) {
    return "0";
  }
  value = std::clamp(value, -kFarOutside, kFarOutside);
  std::string text = fmt::format("{:.1f}", std::fabs(value) < 0.05 ? 0.0 : value);
  return text.ends_with(".0") ? text.substr(0, text.size() - 2) : text;
}

}  // namespace

Svg::Svg(double width, double height, std::string_view label) {
  out_ = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-label="{}">)",
      number(width), number(height), escape_html(label));
}

void Svg::line(Point from, Point to, std::string_view css) {
  out_ += fmt::format(R"(<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>)", number(from.x), number(from.y),
                      number(to.x), number(to.y), css);
}

void Svg::points(const std::vector<Point>& list) {
  for (const Point& point : list) {
    out_ += fmt::format("{},{} ", number(point.x), number(point.y));
  }
}

void Svg::polyline(const std::vector<Point>& list, std::string_view css) {
  out_ += fmt::format(R"(<polyline class="{}" points=")", css);
  points(list);
  out_ += R"("/>)";
}

void Svg::polygon(const std::vector<Point>& list, std::string_view css) {
  out_ += fmt::format(R"(<polygon class="{}" points=")", css);
  points(list);
  out_ += R"("/>)";
}

void Svg::rect(Point corner, double width, double height, std::string_view css, double radius) {
  out_ += fmt::format(R"(<rect x="{}" y="{}" width="{}" height="{}" class="{}")", number(corner.x),
                      number(corner.y), number(std::max(0.0, width)), number(std::max(0.0, height)), css);
  out_ += radius > 0 ? fmt::format(R"( rx="{}"/>)", number(radius)) : "/>";
}

void Svg::circle(Point centre, double radius, std::string_view css) {
  out_ += fmt::format(R"(<circle cx="{}" cy="{}" r="{}" class="{}"/>)", number(centre.x), number(centre.y),
                      number(radius), css);
}

void Svg::text(Point at, std::string_view text, std::string_view css, Anchor anchor) {
  const char* where = anchor == Anchor::start    ? ""
                      : anchor == Anchor::middle ? " text-anchor=\"middle\""
                                                 : " text-anchor=\"end\"";
  out_ += fmt::format(R"(<text x="{}" y="{}" class="{}"{}>{}</text>)", number(at.x), number(at.y), css, where,
                      escape_html(one_line(text)));
}

void Svg::open(std::string_view tip) {
  out_ += fmt::format(R"(<g class="m"><title>{}</title>)", escape_html(tip));
}

void Svg::close() {
  out_ += "</g>";
}

std::string Svg::end() {
  out_ += "</svg>";
  return std::move(out_);
}

Scale Scale::linear(double low, double high, double from, double to) {
  Scale scale;
  scale.low_ = low;
  scale.high_ = high > low ? high : low + 1;
  scale.from_ = from;
  scale.to_ = to;
  return scale;
}

Scale Scale::logarithmic(double low, double high, double from, double to) {
  Scale scale = linear(std::log(low), std::log(high), from, to);
  scale.log_ = true;
  return scale;
}

double Scale::operator()(double value) const {
  const double at = log_ ? std::log(value) : value;
  return from_ + (at - low_) / (high_ - low_) * (to_ - from_);
}

std::vector<double> ticks_from_zero(double max, int n, bool binary) {
  if (!(max > 0) || !(max < 1e300)) {
    return {0, 1};
  }
  double step = binary ? std::exp2(std::ceil(std::log2(max / n))) : 0;
  if (!binary) {
    const double power = std::pow(10, std::floor(std::log10(max / n)));
    for (const double factor : {1.0, 2.0, 2.5, 5.0, 10.0}) {
      step = factor * power;
      if (step * n >= max * 0.999999) {
        break;
      }
    }
  }
  std::vector<double> ticks{0};
  while (ticks.back() < max * 0.999999) {
    ticks.push_back(step * static_cast<double>(ticks.size()));
  }
  return ticks;
}

std::vector<double> log_ticks(double low, double high, bool binary) {
  constexpr size_t kMostTicks = 7;
  constexpr double kLargest = 1e300;  // so that no step beyond it overflows
  if (!(low > 0) || !(high >= low) || !(high < kLargest)) {
    return {};
  }
  std::vector<double> factors{1};
  if (!binary && high / low < 8) {
    factors = {1, 1.5, 2, 3, 4, 5, 7};
  } else if (!binary && high / low < 300) {
    factors = {1, 2, 5};
  }
  std::vector<double> ticks;
  const double base = binary ? 2 : 10;
  const double first = std::floor(std::log(low) / std::log(base));
  for (double power = first; std::pow(base, power) <= high * 1.000001; ++power) {
    for (const double factor : factors) {
      const double value = factor * std::pow(base, power);
      if (value >= low * 0.999999 && value <= high * 1.000001) {
        ticks.push_back(value);
      }
    }
  }
  // Powers come close over a wide range: every other one, as often as needed.
  while (ticks.size() > kMostTicks) {
    for (size_t i = 0; i < ticks.size(); ++i) {
      ticks.erase(ticks.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  return ticks;
}

std::vector<double> spread_labels(const std::vector<double>& wanted, double gap, double low, double high) {
  std::vector<size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  // Runs of labels that touch share their mean shift: the classic pooling of neighbours.
  struct Pool {
    double sum = 0;  // of wanted positions, each minus its offset in the pool
    double n = 0;
    double start() const { return sum / n; }
  };
  std::vector<Pool> pools;
  for (size_t index : order) {
    pools.push_back({wanted[index], 1});
    while (pools.size() > 1) {
      Pool& last = pools.back();
      Pool& before = pools[pools.size() - 2];
      if (before.start() + before.n * gap <= last.start()) {
        break;
      }
      before.sum += last.sum - before.n * gap * last.n;
      before.n += last.n;
      pools.pop_back();
    }
  }
  std::vector<double> placed(wanted.size());
  size_t at = 0;
  for (const Pool& pool : pools) {
    double position = std::min(pool.start(), high - (pool.n - 1) * gap);
    position = std::max(position, low);
    for (int i = 0; i < static_cast<int>(pool.n); ++i) {
      placed[order[at++]] = position + i * gap;
    }
  }
  return placed;
}

int ramp(size_t i, size_t count) {
  if (count <= 1) {
    return kRampColours / 3;
  }
  const auto share = static_cast<double>(i) / static_cast<double>(count - 1);
  return static_cast<int>(std::lround(share * (kRampColours - 1)));
}

}  // namespace fl::report
