// Memory by what holds it, and the distribution of the time between tokens.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "report/axes.h"
#include "report/format.h"
#include "report/plots.h"
#include "report/svg.h"
#include "report/tables.h"

namespace fl::report {
namespace {

constexpr double kLabelGap = 14;

struct Part {
  std::string name;
  int64_t bytes = 0;
  int colour = 0;  ///< of the classes p0 to p7
};

constexpr int kRestColour = 5;

// What stays the same lies at the bottom in grey, what grows with chats and context above it in colour.
// Servers name their parts in their own words: the telling ones decide.
std::pair<int, int> place_of(std::string_view name) {
  struct Kind {
    std::string_view word;
    int rank;
    int colour;
  };
  constexpr std::array kKinds{Kind{"weights", 0, 0},    Kind{"model", 0, 0},  Kind{"state", 2, 2},
                              Kind{"recurrent", 2, 2},  Kind{"kv", 3, 1},     Kind{"cache", 3, 1},
                              Kind{"activation", 4, 3}, Kind{"buffer", 4, 3}, Kind{"compute", 4, 3},
                              Kind{"logits", 5, 4}};
  if (name == "rest" || name == "in use") {
    return {9, name == "rest" ? kRestColour : 0};
  }
  for (const Kind& kind : kKinds) {
    if (name == kind.word) {
      return {kind.rank, kind.colour};
    }
  }
  for (const Kind& kind : kKinds) {
    if (name.find(kind.word) != std::string_view::npos) {
      return kind.rank == 0 ? std::pair{1, 6} : std::pair{kind.rank, kind.colour};
    }
  }
  return {6, 7};
}

// Bottom first: what the server states, and what was seen beyond that.
std::vector<Part> parts_of(const Memory& memory) {
  std::vector<Part> parts;
  const std::vector<MemoryPart> stated = stated_parts(memory);
  parts.reserve(stated.size() + 1);
  for (const MemoryPart& part : stated) {
    parts.push_back({part.name, part.bytes, 0});
  }
  const int64_t seen = std::clamp<int64_t>(memory.bytes.value_or(0), 0, kMostBytes);
  if (const int64_t rest = seen - sum_of(stated); rest > 0) {
    parts.push_back({parts.empty() ? "in use" : "rest", rest, 0});
  }
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return place_of(a.name).first < place_of(b.name).first;
  });
  for (Part& part : parts) {
    part.colour = place_of(part.name).second;
  }
  return parts;
}

int64_t total_of(const std::vector<Part>& parts) {
  int64_t total = 0;
  for (const Part& part : parts) {
    total += part.bytes;
  }
  return total;
}

struct Unit {
  const char* name;
  double bytes;
};

Unit unit_for(double max) {
  return max >= 0x1p30 ? Unit{"GiB", 0x1p30} : Unit{"MiB", 0x1p20};
}

std::string memory_tip(const Configuration& each, const std::vector<Part>& parts) {
  std::string tip = fmt::format("{}, {}", format_chats(each.chats), format_tokens(each.ctx));
  if (parts.empty()) {
    return fmt::format("{}\n{}", tip, one_line(each.error.empty() ? each.memory.reason : each.error));
  }
  tip += fmt::format("\n{}", format_bytes(total_of(parts)));
  for (const Part& part : parts) {
    tip += fmt::format("\n{}: {}", part.name, format_bytes(part.bytes));
  }
  return tip;
}

// Only when memory was read from the device, and close enough to see the bars beside it.
std::optional<double> capacity_of(const Document& document, double max) {
  constexpr double kFarAway = 1.7;
  if (document.machine.gpus.size() != 1) {
    return {};
  }
  const auto bytes = static_cast<double>(std::min(document.machine.gpus.front().memory_bytes, kMostBytes));
  const bool device =
      std::any_of(document.configurations.begin(), document.configurations.end(),
                  [](const Configuration& each) { return each.memory.basis.starts_with("device"); });
  return device && bytes >= max && bytes < kFarAway * max ? std::optional(bytes) : std::nullopt;
}

struct Ridge {
  const Cell* cell;
  std::string label;
  int colour;
};

// The largest context with the most histograms.
std::vector<Ridge> ridges_of(const Document& document, int64_t& ctx) {
  std::vector<Ridge> best;
  for (int64_t candidate : document.ctx) {
    std::vector<Ridge> ridges;
    for (const std::string& depth : document.depths) {
      for (size_t s = 0; s < document.chats.size(); ++s) {
        const Cell* cell = find_cell(document, candidate, document.chats[s], depth);
        if (cell != nullptr && cell->gap_histogram && cell->gap &&
            cell->gap_histogram->edges.size() == cell->gap_histogram->counts.size() + 1) {
          ridges.push_back({cell, fmt::format("{}, {}", format_chats(cell->chats), one_line(depth)),
                            ramp(s, document.chats.size())});
        }
      }
    }
    if (!ridges.empty() && ridges.size() >= best.size()) {
      best = std::move(ridges);
      ctx = candidate;
    }
  }
  return best;
}

// The histogram gathers everything below its first edge there: the axis begins at it, or at the median.
double low_end(const Cell& cell) {
  return std::min(cell.gap_histogram->edges.front(), cell.gap->p50);
}

void draw_ridge(Svg& svg, const Ridge& ridge, const Scale& x, double base, double height,
                const Frame& frame) {
  const Histogram& histogram = *ridge.cell->gap_histogram;
  // Density per unit of the logarithmic axis, so that bins of any width compare.
  std::vector<double> density;
  double top = 0;
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    const bool usable = histogram.edges[i] > 0 && histogram.edges[i + 1] > histogram.edges[i];
    density.push_back(usable ? static_cast<double>(histogram.counts[i]) /
                                   std::log(histogram.edges[i + 1] / histogram.edges[i])
                             : 0);
    top = std::max(top, density.back());
  }
  std::vector<Point> outline;
  const auto inside = [&](double value) { return std::clamp(x(value), frame.left, frame.right); };
  for (size_t i = 0; i < density.size(); ++i) {
    if (density[i] <= 0) {
      continue;
    }
    const Point from{inside(histogram.edges[i]), base - height * density[i] / top};
    const Point to{inside(histogram.edges[i + 1]), from.y};
    if (i == 0 || density[i - 1] <= 0) {
      outline.push_back({from.x, base});
    }
    outline.insert(outline.end(), {from, to});
    if (i + 1 == density.size() || density[i + 1] <= 0) {
      outline.push_back({to.x, base});
    }
  }
  const Distribution& gap = *ridge.cell->gap;
  svg.open(fmt::format("{}\np50 {}, p95 {}, p99 {}\n{} to {}, n = {}",
                       place_name(ridge.cell->ctx, ridge.cell->chats, ridge.cell->depth),
                       format_seconds(gap.p50), format_seconds(gap.p95), format_seconds(gap.p99),
                       format_seconds(gap.min), format_seconds(gap.max), format_count(gap.n)));
  svg.rect({frame.left, base - height}, frame.right - frame.left, height, "hit");
  if (!outline.empty()) {
    svg.polygon(outline, fmt::format("seg area c{} f{}", ridge.colour, ridge.colour));
  }
  if (gap.p50 > 0) {
    svg.line({x(gap.p50), base}, {x(gap.p99), base}, fmt::format("ln c{}", ridge.colour));
    svg.circle({x(gap.p50), base}, 3.6, fmt::format("dot f{}", ridge.colour));
    svg.line({x(gap.p99), base - 5}, {x(gap.p99), base + 5}, fmt::format("ln c{}", ridge.colour));
  }
  svg.close();
  svg.text({frame.left - 10, base - 2}, ridge.label, "ax", Anchor::end);
  svg.text({frame.right + 8, base - 2}, format_seconds(gap.p50), fmt::format("lab f{}", ridge.colour));
}

}  // namespace

Plot memory_against_context(const Document& document) {
  Plot plot{"memory-plot",
            "Memory against context",
            "By what holds it; the bars of one context are its numbers of chats. A cross did not start.",
            {}};
  double max = 0;
  for (const Configuration& each : document.configurations) {
    max = std::max(max, static_cast<double>(total_of(parts_of(each.memory))));
  }
  if (max <= 0) {
    return plot;
  }
  const std::optional<double> capacity = capacity_of(document, max);
  const Unit unit = unit_for(max);
  constexpr int kKeyColumns = 26;  // of a part's name beside the bars
  const Frame frame{480, 320, 38, 314, 18, 266};
  Svg svg(frame.width, frame.height, "Memory of each configuration, stacked by what holds it");
  const std::vector<double> ticks = ticks_from_zero(std::max(max, capacity.value_or(0)) / unit.bytes, 6);
  const Scale y = Scale::linear(0, ticks.back(), frame.bottom, frame.top);
  draw_y_axis(svg, frame, y, ticks, unit.name);
  const auto n_ctx = static_cast<double>(std::max<size_t>(document.ctx.size(), 1));
  const auto n_chats = static_cast<double>(std::max<size_t>(document.chats.size(), 1));
  const double group = (frame.right - frame.left) / n_ctx;
  const double pitch = group * 0.84 / n_chats;
  for (size_t g = 0; g < document.ctx.size(); ++g) {
    const double left = frame.left + group * (static_cast<double>(g) + 0.08);
    svg.text({left + group * 0.42, frame.bottom + 32}, format_tokens(document.ctx[g]), "ax", Anchor::middle);
    for (const Configuration& each : document.configurations) {
      const auto found = std::find(document.chats.begin(), document.chats.end(), each.chats);
      if (each.ctx != document.ctx[g] || found == document.chats.end()) {
        continue;
      }
      const double x = left + pitch * static_cast<double>(found - document.chats.begin());
      const std::vector<Part> parts = parts_of(each.memory);
      svg.open(memory_tip(each, parts));
      double base = frame.bottom;
      for (const Part& part : parts) {
        const double height = frame.bottom - y(static_cast<double>(part.bytes) / unit.bytes);
        svg.rect({x + 0.75, base - height}, pitch - 1.5, height, fmt::format("seg p{}", part.colour));
        base -= height;
      }
      if (parts.empty()) {
        svg.rect({x, frame.top}, pitch, frame.bottom - frame.top, "hit");
        svg.text({x + pitch / 2, frame.bottom - 6}, "\xC3\x97", "cross", Anchor::middle);
      }
      svg.close();
      if (pitch >= 9) {
        svg.text({x + pitch / 2, frame.bottom + 15}, fmt::format("{}", each.chats), "ax", Anchor::middle);
      }
    }
  }
  svg.text({frame.left - 7, frame.bottom + 15}, "chats", "ax", Anchor::end);
  if (capacity) {
    const double at = y(*capacity / unit.bytes);
    svg.line({frame.left, at}, {frame.right, at}, "cap");
    svg.text({frame.right, at - 5},
             fmt::format("the card: {}", format_bytes(static_cast<int64_t>(*capacity))), "captext",
             Anchor::end);
  }
  // The key stands where the eye is after the last bar that has parts.
  for (auto each = document.configurations.rbegin(); each != document.configurations.rend(); ++each) {
    const std::vector<Part> parts = parts_of(each->memory);
    if (parts.empty()) {
      continue;
    }
    std::vector<double> wanted;
    double base = frame.bottom;
    for (const Part& part : parts) {
      const double height = frame.bottom - y(static_cast<double>(part.bytes) / unit.bytes);
      wanted.push_back(base - height / 2);
      base -= height;
    }
    const std::vector<double> placed = spread_labels(wanted, kLabelGap, frame.top + 6, frame.bottom - 4);
    for (size_t i = 0; i < parts.size(); ++i) {
      svg.rect({frame.right + 8, placed[i] - 4}, 8, 8, fmt::format("p{}", parts[i].colour), 2);
      svg.text({frame.right + 20, placed[i] + 4},
               fit(parts[i].name, std::min(columns(parts[i].name), kKeyColumns)), "ax");
    }
    break;
  }
  plot.panels.push_back({"", svg.end()});
  return plot;
}

Plot latency_distribution(const Document& document) {
  Plot plot{"latency", "Time between tokens", "", {}};
  int64_t ctx = 0;
  const std::vector<Ridge> ridges = ridges_of(document, ctx);
  double low = INFINITY;
  double high = 0;
  for (const Ridge& ridge : ridges) {
    low = std::min(low, low_end(*ridge.cell));
    high = std::max(high, ridge.cell->gap->max);
  }
  if (ridges.empty() || low <= 0 || !std::isfinite(low) || high <= 0) {
    return plot;
  }
  plot.reading = fmt::format(
      "How often each wait was seen at {}, on a logarithmic axis. The point is the median, the stroke "
      "reaches to p99.",
      format_tokens(ctx));
  low /= 1.25;
  high *= 1.25;
  constexpr double kRidge = 34;
  const double height = 20 + kRidge * static_cast<double>(ridges.size());
  const Frame frame{480, height + 46, 96, 420, 12, height};
  Svg svg(frame.width, frame.height,
          fmt::format("Distributions of the time between tokens at {}", format_tokens(ctx)));
  const Scale x = Scale::logarithmic(low, high, frame.left, frame.right);
  for (double tick : log_ticks(low, high)) {
    svg.line({x(tick), frame.top}, {x(tick), frame.bottom}, "grid");
    svg.text({x(tick), frame.bottom + 17}, format_tick_seconds(tick), "ax", Anchor::middle);
  }
  svg.text({(frame.left + frame.right) / 2, frame.bottom + 35}, "between two pieces of an answer", "ax",
           Anchor::middle);
  for (size_t i = 0; i < ridges.size(); ++i) {
    const double base = 12 + kRidge * static_cast<double>(i + 1);
    svg.line({frame.left, base}, {frame.right, base}, "grid");
    draw_ridge(svg, ridges[i], x, base, kRidge - 9, frame);
  }
  plot.panels.push_back({"", svg.end()});
  return plot;
}

}  // namespace fl::report
