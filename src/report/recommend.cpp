// What to do with the machine, computed from the cells: the knee of the chats curve and what limits beyond
// it, the largest contexts, four profiles.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/profiles.h"
#include "report/statistics.h"

namespace fl::report {
namespace {

// A further chat pays when it adds at least this share of what one chat writes alone.
constexpr double kKneeGain = 0.25;
// A resource limits when it explains at least this share of a step.
constexpr double kLimitShare = 0.6;

bool measured(const Cell* cell) {
  return cell != nullptr && cell->status == "ok" && cell->decode_per_chat && cell->decode_total;
}

bool no_room(const Document& document, int64_t ctx, int64_t chats) {
  return std::any_of(document.configurations.begin(), document.configurations.end(),
                     [&](const Configuration& c) { return c.ctx == ctx && c.chats == chats && !c.started; });
}

// What explains the time of one step with all chats of `cell`.
void explain_limit(const Document& document, const Cell& cell, const Line& step, Knee& knee) {
  const double seconds = static_cast<double>(cell.chats) / cell.decode_total->mean;
  const Model& model = document.model;
  if (document.ceilings && model.ops_per_token && model.weight_bytes_per_step) {
    const double per_chat =
        static_cast<double>(model.kv_bytes_per_token.value_or(0)) * static_cast<double>(cell.depth_tokens) +
        2 * static_cast<double>(model.state_bytes_per_chat.value_or(0));
    const double bytes =
        static_cast<double>(*model.weight_bytes_per_step) + static_cast<double>(cell.chats) * per_chat;
    const double ops = static_cast<double>(*model.ops_per_token) * static_cast<double>(cell.chats);
    const double by_bytes = bytes / document.ceilings->bytes_per_second / seconds;
    const double by_ops = ops / document.ceilings->ops_per_second / seconds;
    // More than all of the bandwidth: the weights stay in the processor's caches.
    constexpr double kFromCache = 1.05;
    const bool cached = by_bytes > kFromCache;
    knee.text += fmt::format(
        "a step with {} {} takes {:.2f} ms, of which reading {:.2f} GB explains {:.0f} % and {:.2f} G "
        "operations {:.0f} %",
        cell.chats, cell.chats == 1 ? "chat" : "chats", 1e3 * seconds, bytes * 1e-9, 100 * by_bytes,
        ops * 1e-9, 100 * by_ops);
    if (!cached && by_bytes >= kLimitShare && by_bytes >= by_ops) {
      knee.limit = "bytes";
      knee.text += ": memory bandwidth limits";
    } else if (by_ops >= kLimitShare) {
      knee.limit = "operations";
      knee.text += ": arithmetic limits";
    } else {
      knee.limit = "launches";
      knee.text += cached
                       ? ": the weights stay in the processor's caches, and the work between the operations "
                         "limits (launches, sampling, the protocol)"
                       : ": the work between the operations limits (launches, sampling, the protocol)";
    }
    return;
  }
  knee.limit = "unknown";
  const double fixed = std::clamp(step.at_zero / seconds, 0.0, 1.0);
  knee.text += fmt::format(
      "of a step of {:.2f} ms with {} {} about {:.0f} % does not depend on the number of chats; the device's "
      "limits or "
      "the model's sizes are not known here, so the resource is not named",
      1e3 * seconds, cell.chats, cell.chats == 1 ? "chat" : "chats", 100 * fixed);
}

std::optional<Knee> knee_of(const Document& document, int64_t ctx, const std::string& depth) {
  std::vector<const Cell*> row;
  std::vector<double> chats;
  std::vector<double> steps;
  int64_t no_room_at = 0;
  for (const int64_t n : document.chats) {
    const Cell* cell = find_cell(document, ctx, n, depth);
    if (measured(cell)) {
      row.push_back(cell);
      chats.push_back(static_cast<double>(n));
      steps.push_back(static_cast<double>(n) / cell->decode_total->mean);
    } else if (no_room(document, ctx, n) && no_room_at == 0) {
      no_room_at = n;
    }
  }
  if (row.size() < 2) {
    return std::nullopt;
  }
  const double alone = row.front()->decode_total->mean / static_cast<double>(row.front()->chats);
  size_t at = 0;
  while (at + 1 < row.size()) {
    const double added = (row[at + 1]->decode_total->mean - row[at]->decode_total->mean) /
                         static_cast<double>(row[at + 1]->chats - row[at]->chats);
    if (added < kKneeGain * alone) {
      break;
    }
    ++at;
  }
  Knee out;
  out.ctx = ctx;
  out.depth = depth;
  out.chats = row[at]->chats;
  out.at_end = at + 1 == row.size();
  if (out.at_end && no_room_at > out.chats) {
    out.limit = "memory";
    out.text = fmt::format("the speed still rises at {} chats, and {} did not fit", out.chats, no_room_at);
    return out;
  }
  out.text =
      out.at_end
          ? fmt::format("the speed still rises at {} chats, the most that were measured; ", out.chats)
          : fmt::format("beyond {} {} a further one adds less than a quarter of what one writes alone; ",
                        out.chats, out.chats == 1 ? "chat" : "chats");
  // What limits beyond the knee shows at the next number of chats.
  explain_limit(document, *row[std::min(at + 1, row.size() - 1)], fit_line(chats, steps), out);
  return out;
}

std::optional<LargestContext> largest_of(const Document& document, int64_t chats) {
  const Cell* best = nullptr;
  const Cell* refused = nullptr;
  for (const int64_t ctx : document.ctx) {
    const Cell* deepest = nullptr;
    const Cell* not_run = nullptr;
    for (const std::string& depth : document.depths) {
      const Cell* cell = find_cell(document, ctx, chats, depth);
      if (cell != nullptr && cell->status == "ok") {
        deepest = cell;
      } else if (cell != nullptr && cell->status != "missing" && cell->reason_code != kCutBudget) {
        not_run = not_run == nullptr ? cell : not_run;
      }
    }
    if (deepest != nullptr) {
      best = deepest;
      refused = nullptr;
    } else if (refused == nullptr) {
      refused = not_run;
    }
  }
  if (best == nullptr) {
    return std::nullopt;
  }
  LargestContext out;
  out.chats = chats;
  out.ctx = best->ctx;
  out.at_end = refused == nullptr;
  out.text = fmt::format("{} tokens for {} {} ran, measured with {} tokens in each chat's window{}", out.ctx,
                         chats, chats == 1 ? "chat" : "chats", best->depth_tokens,
                         out.at_end ? "; larger ones were not measured"
                                    : fmt::format("; {} did not: {}", refused->ctx, refused->reason));
  return out;
}

}  // namespace

Recommendation recommend(const Document& document, const ChosenCells& chosen) {
  Recommendation out;
  for (const int64_t ctx : document.ctx) {
    for (const std::string& depth : document.depths) {
      if (auto knee = knee_of(document, ctx, depth)) {
        out.knees.push_back(std::move(*knee));
      }
    }
  }
  for (const int64_t chats : document.chats) {
    if (auto largest = largest_of(document, chats)) {
      out.largest.push_back(std::move(*largest));
    }
  }
  out.profiles = choose_profiles(document, out, chosen);
  return out;
}

}  // namespace fl::report
