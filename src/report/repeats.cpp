// What the parts of a repeat are together, and whether the machine stayed the same over the run.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/statistics.h"

namespace fl::report {
namespace {

// Farther apart than this, the machine was not the same at both times.
constexpr double kMaxDrift = 0.05;

std::vector<double> values_of(const std::map<int64_t, HarmonicMean>& repeats) {
  std::vector<double> out;
  for (const auto& [n, mean] : repeats) {
    if (const auto value = mean.value()) {
      out.push_back(*value);
    }
  }
  return out;
}

}  // namespace

std::vector<double> repeat_rates(const std::vector<Record>& records, int64_t ctx, int64_t chats,
                                 std::string_view depth) {
  std::map<int64_t, HarmonicMean> repeats;
  for (const Record& record : records) {
    const auto* batch = std::get_if<Batch>(&record);
    if (batch != nullptr && batch->kind == "measure" && batch->ctx == ctx && batch->chats == chats &&
        batch->depth == depth && batch->decode_total) {
      repeats[batch->repeat].add(*batch->decode_total);
    }
  }
  return values_of(repeats);
}

int64_t count_walks(const std::vector<const Batch*>& batches) {
  struct Place {
    size_t last = 0;  // run of batches of one configuration
    int64_t walks = 0;
    int64_t repeat = 0;
    bool several = false;
  };
  std::map<std::tuple<int64_t, int64_t, std::string>, Place> places;
  std::pair<int64_t, int64_t> current{};
  size_t n_runs = 0;
  for (const Batch* batch : batches) {
    if (batch->kind != "measure") {
      continue;
    }
    if (n_runs == 0 || std::pair{batch->ctx, batch->chats} != current) {
      current = {batch->ctx, batch->chats};
      ++n_runs;
    }
    Place& place = places[{batch->ctx, batch->chats, batch->depth}];
    place.several = place.several || (place.walks > 0 && batch->repeat != place.repeat);
    place.walks += place.last != n_runs ? 1 : 0;
    place.last = n_runs;
    place.repeat = batch->repeat;
  }
  int64_t least = 0;
  for (const auto& [key, place] : places) {
    if (place.several) {
      least = least == 0 ? place.walks : std::min(least, place.walks);
    }
  }
  return least;
}

Repeat repeat_of(int64_t n, double rate, double foreign_cpu, const std::vector<Yardstick>& beside,
                 const std::vector<Glance>& glances, int64_t start) {
  Repeat out{n, rate, foreign_cpu, {}, beside};
  out.start = start;
  for (const Glance& glance : glances) {
    out.handovers.push_back(glance.handover_seconds);
    if (!out.multiplies) {
      out.multiplies.emplace();
      out.cached.emplace();
    }
    out.multiplies->push_back(glance.multiplies_per_second);
    out.cached->push_back(glance.cached_bytes_per_second);
    if (glance.wakeups_per_second) {
      if (!out.wakeups) {
        out.wakeups.emplace();
      }
      out.wakeups->push_back(*glance.wakeups_per_second);
    }
  }
  return out;
}

void describe_repeats(Plan& plan, int64_t walks, int64_t n_visits) {
  if (walks > 0) {
    plan.walks = walks;
    plan.decisions.push_back(
        walks > 1
            ? fmt::format("interleaved: the repeats of every cell come from {} walks through the matrix",
                          walks)
            : "the repeats of a cell follow one another within a configuration: there was no time to walk "
              "the matrix several times");
  }
  if (n_visits > 0) {
    plan.decisions.push_back(fmt::format(
        "the profiles' cells were chosen by the repeats of the walks and measured again at the end, in "
        "{} {}",
        n_visits, n_visits == 1 ? "visit" : "visits"));
  }
}

std::optional<Drift> drift_of(const std::vector<Record>& records) {
  std::map<int64_t, std::map<int64_t, HarmonicMean>> anchors;
  Drift out;
  for (const Record& record : records) {
    const auto* batch = std::get_if<Batch>(&record);
    if (batch != nullptr && batch->kind == "anchor" && batch->decode_total) {
      out.cell = fmt::format("{}x{} {}", batch->ctx, batch->chats, batch->depth);
      anchors[batch->anchor][batch->repeat].add(*batch->decode_total);
      out.first = stat_of(repeat_rates(records, batch->ctx, batch->chats, batch->depth));
    }
  }
  if (anchors.empty() || out.first.n == 0) {
    return std::nullopt;
  }
  for (const auto& [after, repeats] : anchors) {
    DriftPoint point;
    point.after = after;
    point.again = stat_of(values_of(repeats));
    point.change = point.again.median / out.first.median - 1;
    point.moved = std::abs(point.change) > kMaxDrift;
    out.points.push_back(point);
  }
  return out;
}

}  // namespace fl::report
