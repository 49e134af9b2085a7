// Speed: the heat map, against chats, against what fills the window, and the wait before the first token.
#include "report/plots.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <tuple>

#include <fmt/format.h>

#include "report/axes.h"
#include "report/format.h"
#include "report/statistics.h"
#include "report/svg.h"
#include "report/tables.h"

namespace fl::report {
namespace {

constexpr int kHeatColours = 9;
constexpr double kLabelGap = 14;

std::string cell_tip(const Cell& cell) {
  std::string tip = place_name(cell.ctx, cell.chats, cell.depth);
  if (cell.decode_total) {
    tip += fmt::format("\n{} tok/s together", format_rate(cell.decode_total->mean));
    tip +=
        cell.decode_total->n > 1 ? fmt::format(" \xC2\xB1{}", format_percent(cell.decode_total->cv, 1)) : "";
  }
  if (cell.decode_per_chat) {
    tip += fmt::format("\n{} tok/s each", format_rate(cell.decode_per_chat->mean));
  }
  if (cell.ttft) {
    tip += fmt::format("\nfirst token {}", format_seconds(cell.ttft->p50));
  }
  if (cell.decode_total) {
    tip += fmt::format("\n{} tokens in each window, n = {}", format_count(cell.depth_tokens), cell.n_repeats);
  }
  if (cell.status != "ok") {
    tip += fmt::format("\n{}: {}", one_line(cell.status), one_line(cell.reason));
  }
  for (const Flag& flag : cell.flags) {
    tip += fmt::format("\n* {}", one_line(flag.text));
  }
  return tip;
}

bool is_drawable(const PromptPoint& prompt) {
  return prompt.prompt_tokens > 0 && prompt.ttft_seconds > 0 && std::isfinite(prompt.ttft_seconds);
}

struct HeatValue {
  std::optional<double> value;
  std::string text;
  std::string detail;
  std::string tip;
  bool flagged = false;
};

// Rows are contexts, columns numbers of chats.
std::string draw_heat(const Document& document, const std::string& label, double low, double high,
                      const std::function<HeatValue(int64_t, int64_t)>& value_at) {
  constexpr double kWidth = 460;
  constexpr double kLeft = 44;
  constexpr double kTop = 22;
  constexpr double kRow = 42;
  constexpr double kGap = 2;
  const auto n_columns = static_cast<double>(std::max<size_t>(document.chats.size(), 1));
  const double column = (kWidth - kLeft) / n_columns;
  Svg svg(kWidth, kTop + kRow * static_cast<double>(document.ctx.size()), label);
  for (size_t c = 0; c < document.chats.size(); ++c) {
    svg.text({kLeft + (static_cast<double>(c) + 0.5) * column, 13}, format_chats(document.chats[c]), "ax",
             Anchor::middle);
  }
  for (size_t r = 0; r < document.ctx.size(); ++r) {
    const double y = kTop + static_cast<double>(r) * kRow;
    svg.text({kLeft - 9, y + kRow / 2 + 4}, format_tokens(document.ctx[r]), "ax", Anchor::end);
    for (size_t c = 0; c < document.chats.size(); ++c) {
      const double x = kLeft + static_cast<double>(c) * column;
      const HeatValue value = value_at(document.ctx[r], document.chats[c]);
      const Point middle{x + column / 2, y + kRow / 2};
      svg.open(value.tip);
      if (!value.value || !std::isfinite(*value.value)) {
        svg.rect({x + kGap / 2, y + kGap / 2}, column - kGap, kRow - kGap, "empty", 3);
        svg.text({middle.x, middle.y + 4}, "\xE2\x80\x94", "none", Anchor::middle);
      } else {
        const double share = high > low ? std::clamp((*value.value - low) / (high - low), 0.0, 1.0) : 0.5;
        const int colour = std::clamp(static_cast<int>(share * kHeatColours), 0, kHeatColours - 1);
        svg.rect({x + kGap / 2, y + kGap / 2}, column - kGap, kRow - kGap, fmt::format("seg h{}", colour), 3);
        const std::string on = fmt::format("on{}", colour);
        svg.text({middle.x, middle.y + (value.detail.empty() ? 5 : 0)}, value.text, "hv " + on,
                 Anchor::middle);
        if (!value.detail.empty() && column >= 56) {
          svg.text({middle.x, middle.y + 14}, value.detail, "hs " + on, Anchor::middle);
        }
        if (value.flagged) {
          const double right = x + column - kGap / 2;
          svg.polygon({{right - 10, y + kGap / 2}, {right, y + kGap / 2}, {right, y + kGap / 2 + 10}},
                      "flagged");
        }
      }
      svg.close();
    }
  }
  return svg.end();
}

void range_of(double value, double& low, double& high) {
  low = std::min(low, value);
  high = std::max(high, value);
}

// A value's label at the end of a line, moved apart from its neighbours, with a thin leader when it moved.
struct EndLabel {
  Point at;
  std::string text;
  int colour;
};

void draw_end_labels(Svg& svg, const std::vector<EndLabel>& labels, double x, const Frame& frame) {
  std::vector<double> wanted;
  wanted.reserve(labels.size());
  for (const EndLabel& label : labels) {
    wanted.push_back(label.at.y);
  }
  const std::vector<double> placed = spread_labels(wanted, kLabelGap, frame.top, frame.bottom);
  for (size_t i = 0; i < labels.size(); ++i) {
    if (std::fabs(placed[i] - wanted[i]) > kLabelGap / 3 || x - labels[i].at.x > 14) {
      svg.polyline({{labels[i].at.x + 5, labels[i].at.y}, {x - 8, placed[i]}, {x - 3, placed[i]}}, "lead");
    }
    svg.text({x, placed[i] + 4}, labels[i].text, fmt::format("lab f{}", labels[i].colour));
  }
}

// One standard deviation up and down, inside the frame.
void draw_error(Svg& svg, const Frame& frame, Point at, double upper, double lower, int colour) {
  upper = std::max(upper, frame.top);
  lower = std::min(lower, frame.bottom);
  if (lower - upper > 3) {
    svg.line({at.x, upper}, {at.x, lower}, fmt::format("err c{}", colour));
  }
}

std::string speed_panel(const Document& document, const std::string& depth, double max) {
  const Frame frame{340, 270, 36, 288, 14, 230};
  Svg svg(frame.width, frame.height,
          fmt::format("Tokens per second of all chats against the number of chats, {}", depth_name(depth)));
  const std::vector<double> ticks = ticks_from_zero(max, 5);
  const Scale y = Scale::linear(0, ticks.back(), frame.bottom, frame.top);
  draw_y_axis(svg, frame, y, ticks, "tok/s");
  const auto x_of = [&](size_t i) {
    const double n = static_cast<double>(document.chats.size());
    return frame.left + 14 +
           (frame.right - frame.left - 28) * (n > 1 ? static_cast<double>(i) / (n - 1) : 0.5);
  };
  for (size_t i = 0; i < document.chats.size(); ++i) {
    svg.text({x_of(i), frame.bottom + 17}, fmt::format("{}", document.chats[i]), "ax", Anchor::middle);
  }
  svg.text({(frame.left + frame.right) / 2, frame.bottom + 34}, "chats at once", "ax", Anchor::middle);
  std::vector<EndLabel> labels;
  for (size_t s = 0; s < document.ctx.size(); ++s) {
    const int colour = ramp(s, document.ctx.size());
    std::vector<Point> line;
    std::vector<const Cell*> cells;
    for (size_t i = 0; i < document.chats.size(); ++i) {
      const Cell* cell = find_cell(document, document.ctx[s], document.chats[i], depth);
      if (cell != nullptr && cell->decode_total) {
        line.push_back({x_of(i), y(cell->decode_total->mean)});
        cells.push_back(cell);
      }
    }
    if (line.empty()) {
      continue;
    }
    svg.polyline(line, fmt::format("ln c{}", colour));
    for (size_t i = 0; i < line.size(); ++i) {
      svg.open(cell_tip(*cells[i]));
      svg.circle(line[i], 9, "hit");
      draw_error(svg, frame, line[i], y(cells[i]->decode_total->mean + cells[i]->decode_total->sd),
                 y(cells[i]->decode_total->mean - cells[i]->decode_total->sd), colour);
      svg.circle(line[i], 3.6, fmt::format("dot f{}", colour));
      svg.close();
    }
    labels.push_back({line.back(), format_tokens(document.ctx[s]), colour});
  }
  draw_end_labels(svg, labels, frame.right + 8, frame);
  return svg.end();
}

}  // namespace

Plot heat_map(const Document& document) {
  Plot plot{"heat",
            "The matrix",
            "Tokens per second of all chats together, and of each; the stronger the colour, the more. "
            "A corner marks a cell that carries a warning.",
            {}};
  double low = INFINITY;
  double high = 0;
  for (const Cell& cell : document.cells) {
    if (cell.decode_total) {
      range_of(cell.decode_total->mean, low, high);
    }
  }
  if (high <= 0) {
    return plot;
  }
  for (const std::string& depth : document.depths) {
    const std::string name = depth_name(depth);
    plot.panels.push_back(
        {"Speed, " + name, draw_heat(document, "Heat map of tokens per second, " + name, low, high,
                                     [&](int64_t ctx, int64_t chats) {
                                       HeatValue value;
                                       const Cell* cell = find_cell(document, ctx, chats, depth);
                                       value.tip = cell == nullptr
                                                       ? place_name(ctx, chats, depth) + "\nnot measured"
                                                       : cell_tip(*cell);
                                       if (cell != nullptr && cell->decode_total) {
                                         value.value = cell->decode_total->mean;
                                         value.text = format_rate(cell->decode_total->mean);
                                         value.detail =
                                             chats > 1 && cell->decode_per_chat
                                                 ? format_rate(cell->decode_per_chat->mean) + " each"
                                                 : "";
                                         value.flagged = !cell->flags.empty();
                                       }
                                       return value;
                                     })});
  }
  low = INFINITY;
  high = 0;
  for (const Configuration& each : document.configurations) {
    if (each.memory.bytes) {
      range_of(static_cast<double>(*each.memory.bytes), low, high);
    }
  }
  if (high > 0) {
    plot.panels.push_back(
        {"Memory", draw_heat(document, "Heat map of memory", low, high, [&](int64_t ctx, int64_t chats) {
           HeatValue value;
           value.tip = fmt::format("{}, {}", format_chats(chats), format_tokens(ctx));
           for (const Configuration& each : document.configurations) {
             if (each.ctx != ctx || each.chats != chats) {
               continue;
             }
             if (each.memory.bytes) {
               value.value = static_cast<double>(*each.memory.bytes);
               value.text = format_bytes(*each.memory.bytes);
               value.tip += "\n" + value.text;
             } else {
               value.tip +=
                   fmt::format("\n{}", one_line(each.error.empty() ? each.memory.reason : each.error));
             }
           }
           return value;
         })});
  }
  return plot;
}

Plot speed_against_chats(const Document& document) {
  Plot plot{"chats",
            "Speed against chats",
            "All chats together; a line for each context. A straight rise would be a free second chat.",
            {}};
  double max = 0;
  for (const Cell& cell : document.cells) {
    max = cell.decode_total ? std::max(max, cell.decode_total->mean + cell.decode_total->sd) : max;
  }
  if (max > 0) {
    for (const std::string& depth : document.depths) {
      plot.panels.push_back({depth_name(depth), speed_panel(document, depth, max)});
    }
  }
  return plot;
}

Plot speed_against_depth(const Document& document) {
  Plot plot{"depth",
            "Speed against the filled window",
            "Each chat's own speed. Lines follow the largest context, pale points are the others.",
            {}};
  double max_rate = 0;
  double max_depth = 0;
  for (const Cell& cell : document.cells) {
    if (cell.decode_per_chat) {
      max_rate = std::max(max_rate, cell.decode_per_chat->mean + cell.decode_per_chat->sd);
      max_depth = std::max(max_depth, static_cast<double>(cell.depth_tokens));
    }
  }
  if (max_rate <= 0 || max_depth <= 0) {
    return plot;
  }
  const Frame frame{480, 320, 38, 416, 14, 278};
  Svg svg(frame.width, frame.height, "Tokens per second of each chat against the tokens in its window");
  const std::vector<double> ticks = ticks_from_zero(max_rate, 5);
  const Scale y = Scale::linear(0, ticks.back(), frame.bottom, frame.top);
  draw_y_axis(svg, frame, y, ticks, "tok/s each");
  const std::vector<double> x_ticks = ticks_from_zero(max_depth, 5, true);
  const Scale x = Scale::linear(0, x_ticks.back(), frame.left + 6, frame.right);
  draw_x_axis(svg, frame, x, x_ticks, "tokens in the window", true);
  std::vector<EndLabel> labels;
  for (size_t s = 0; s < document.chats.size(); ++s) {
    const int64_t chats = document.chats[s];
    const int colour = ramp(s, document.chats.size());
    int64_t largest = 0;
    for (const Cell& cell : document.cells) {
      largest = cell.chats == chats && cell.decode_per_chat ? std::max(largest, cell.ctx) : largest;
    }
    std::vector<const Cell*> followed;
    for (const Cell& cell : document.cells) {
      if (cell.chats != chats || !cell.decode_per_chat) {
        continue;
      }
      if (cell.ctx == largest) {
        followed.push_back(&cell);
        continue;
      }
      svg.open(cell_tip(cell));
      svg.circle({x(static_cast<double>(cell.depth_tokens)), y(cell.decode_per_chat->mean)}, 3,
                 fmt::format("dot quiet f{}", colour));
      svg.close();
    }
    std::stable_sort(followed.begin(), followed.end(),
                     [](const Cell* a, const Cell* b) { return a->depth_tokens < b->depth_tokens; });
    std::vector<Point> line;
    line.reserve(followed.size());
    for (const Cell* cell : followed) {
      line.push_back({x(static_cast<double>(cell->depth_tokens)), y(cell->decode_per_chat->mean)});
    }
    if (line.empty()) {
      continue;
    }
    svg.polyline(line, fmt::format("ln c{}", colour));
    for (size_t i = 0; i < line.size(); ++i) {
      const Stat& rate = *followed[i]->decode_per_chat;
      svg.open(cell_tip(*followed[i]));
      svg.circle(line[i], 9, "hit");
      draw_error(svg, frame, line[i], y(rate.mean + rate.sd), y(rate.mean - rate.sd), colour);
      svg.circle(line[i], 3.6, fmt::format("dot f{}", colour));
      svg.close();
    }
    labels.push_back({line.back(), format_chats(chats), colour});
  }
  for (const EndLabel& label : labels) {
    svg.text({label.at.x + 9, label.at.y + 4}, label.text, fmt::format("lab f{}", label.colour));
  }
  plot.panels.push_back({"", svg.end()});
  return plot;
}

namespace {

// Prompts of one configuration whose lengths are within a tenth are one point: their medians.
struct PromptGroup {
  int64_t ctx = 0;
  int64_t chats = 0;
  std::vector<double> tokens;
  std::vector<double> seconds;
  std::vector<double> rates;
};

std::vector<PromptGroup> grouped(const Document& document, int64_t chats) {
  constexpr double kSameLength = 1.1;
  std::vector<const PromptPoint*> points;
  for (const PromptPoint& prompt : document.prompts) {
    if (prompt.chats == chats && is_drawable(prompt)) {
      points.push_back(&prompt);
    }
  }
  std::sort(points.begin(), points.end(), [](const PromptPoint* a, const PromptPoint* b) {
    return std::tie(a->ctx, a->prompt_tokens) < std::tie(b->ctx, b->prompt_tokens);
  });
  std::vector<PromptGroup> groups;
  for (const PromptPoint* point : points) {
    const auto tokens = static_cast<double>(point->prompt_tokens);
    if (groups.empty() || groups.back().ctx != point->ctx ||
        tokens > kSameLength * groups.back().tokens.front()) {
      groups.push_back({point->ctx, chats, {}, {}, {}});
    }
    groups.back().tokens.push_back(tokens);
    groups.back().seconds.push_back(point->ttft_seconds);
    groups.back().rates.push_back(point->tokens_per_second);
  }
  return groups;
}

}  // namespace

Plot ttft_against_prompt(const Document& document) {
  Plot plot{
      "ttft",
      "Wait before the first token, against the prompt",
      "Prompts of which nothing was cached, medians of those with one length; both axes are logarithmic.",
      {}};
  double low = INFINITY;
  double high = 0;
  double fast = INFINITY;
  double slow = 0;
  for (const PromptPoint& prompt : document.prompts) {
    if (is_drawable(prompt)) {
      range_of(static_cast<double>(prompt.prompt_tokens), low, high);
      range_of(prompt.ttft_seconds, fast, slow);
    }
  }
  if (high <= 0) {
    return plot;
  }
  const Frame frame{480, 320, 52, 410, 14, 278};
  Svg svg(frame.width, frame.height, "Seconds to the first token against the tokens of the prompt");
  const double margin = high > low ? 1.15 : 2;
  const Scale x = Scale::logarithmic(low / margin, high * margin, frame.left + 6, frame.right);
  const Scale y = Scale::logarithmic(fast / 1.4, slow * 1.4, frame.bottom, frame.top);
  const std::vector<double> y_ticks = log_ticks(fast / 1.4, slow * 1.4);
  for (double tick : y_ticks) {
    svg.line({frame.left, y(tick)}, {frame.right, y(tick)}, "grid");
    svg.text({frame.left - 7, y(tick) + 4}, format_tick_seconds(tick), "ax", Anchor::end);
  }
  svg.line({frame.left, frame.bottom}, {frame.right, frame.bottom}, "base");
  draw_x_axis(svg, frame, x, log_ticks(low / margin, high * margin, true), "tokens of the prompt", true);
  std::vector<EndLabel> labels;
  // Points of several chats fall together: the later ones are smaller and lie on top, as rings do.
  for (size_t s = document.chats.size(); s-- > 0;) {
    const int colour = ramp(s, document.chats.size());
    const double radius = 3.5 + std::min(3.0, 1.25 * static_cast<double>(s));
    std::optional<EndLabel> last;
    for (const PromptGroup& group : grouped(document, document.chats[s])) {
      const double tokens = median(group.tokens);
      const double seconds = median(group.seconds);
      const Point at{x(tokens), y(seconds)};
      svg.open(fmt::format(
          "{} tokens, {}, {}\nfirst token after {}{}\n{} tok/s read", format_count(std::llround(tokens)),
          format_chats(group.chats), format_tokens(group.ctx), format_seconds(seconds),
          group.seconds.size() > 1 ? fmt::format(" (median of {} prompts)", group.seconds.size())
                                   : std::string(),
          format_rate(median(group.rates))));
      svg.circle(at, 9, "hit");
      svg.circle(at, radius, fmt::format("dot f{}", colour));
      svg.close();
      if (!last || at.x > last->at.x) {
        last = EndLabel{at, format_chats(group.chats), colour};
      }
    }
    if (last) {
      labels.push_back(*last);
    }
  }
  draw_end_labels(svg, labels, frame.right + 10, frame);
  plot.panels.push_back({"", svg.end()});
  return plot;
}

}  // namespace fl::report
