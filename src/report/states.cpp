#include "report/states.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "report/format.h"
#include "report/machine.h"
#include "report/statistics.h"

namespace fl::report {
namespace {

// Readings of one state lie closer together than these ratios of neighbours. Seen on two virtual cores:
// within a state hand-overs vary by a tenth, and states lie a factor of four apart.
constexpr double kHandoverGap = 1.3;
constexpr double kMultiplyGap = 1.15;
constexpr double kReadGap = 1.1;
// Of a run's repeats, which a state has to be worth a word.
constexpr double kLeastStateShare = 0.05;

// Sorts, and cuts where neighbours are farther apart than `gap`.
std::vector<std::vector<Yardstick>> groups_of(std::vector<Yardstick> readings, double gap,
                                              double Yardstick::*member) {
  std::sort(readings.begin(), readings.end(),
            [member](const Yardstick& a, const Yardstick& b) { return a.*member < b.*member; });
  std::vector<std::vector<Yardstick>> out;
  for (const Yardstick& reading : readings) {
    if (out.empty() || reading.*member > gap * out.back().back().*member) {
      out.emplace_back();
    }
    out.back().push_back(reading);
  }
  return out;
}

MachineState state_around(const std::vector<Yardstick>& readings) {
  const auto by = [&](double Yardstick::*member) {
    const auto [least, most] =
        std::minmax_element(readings.begin(), readings.end(),
                            [member](const auto& a, const auto& b) { return a.*member < b.*member; });
    return std::pair((*least).*member, (*most).*member);
  };
  MachineState out;
  std::tie(out.least_handover, out.most_handover) = by(&Yardstick::handover_seconds);
  std::tie(out.least_multiplies, out.most_multiplies) = by(&Yardstick::multiplies_per_second);
  std::tie(out.least_read, out.most_read) = by(&Yardstick::read_bytes_per_second);
  return out;
}

void add_readings(std::vector<Yardstick>& into, std::span<const Repeat> repeats) {
  for (const Repeat& repeat : repeats) {
    into.insert(into.end(), repeat.beside.begin(), repeat.beside.end());
  }
}

// "0.03 us: 3050 tok/s (2), 0.16 us: 2160 tok/s (1)"; "" when they met one state only.
std::string states_text(const std::vector<Repeat>& repeats, bool reads_memory) {
  const std::vector<StateRates> states = rates_by_state(repeats, repeats, reads_memory);
  std::string out;
  for (const StateRates& state : states) {
    out += fmt::format("{}{}: {} tok/s ({})", out.empty() ? "" : ", ", state.text,
                       format_rate(stat_of(state.then).mean), state.then.size());
  }
  return states.size() > 1 ? out : "";
}

}  // namespace

bool MachineState::has(const Yardstick& reading) const {
  return reading.handover_seconds >= least_handover && reading.handover_seconds <= most_handover &&
         reading.multiplies_per_second >= least_multiplies &&
         reading.multiplies_per_second <= most_multiplies && reading.read_bytes_per_second >= least_read &&
         reading.read_bytes_per_second <= most_read;
}

bool MachineState::has_handover(double seconds) const {
  return seconds * kHandoverGap >= least_handover && seconds <= kHandoverGap * most_handover;
}

std::vector<MachineState> states_of(std::span<const Yardstick> readings, bool reads_memory) {
  std::vector<std::vector<Yardstick>> groups{{readings.begin(), readings.end()}};
  const auto cut = [&](double gap, double Yardstick::*member) {
    std::vector<std::vector<Yardstick>> finer;
    for (std::vector<Yardstick>& group : groups) {
      for (std::vector<Yardstick>& part : groups_of(std::move(group), gap, member)) {
        finer.push_back(std::move(part));
      }
    }
    groups = std::move(finer);
  };
  cut(kHandoverGap, &Yardstick::handover_seconds);
  cut(kMultiplyGap, &Yardstick::multiplies_per_second);
  if (reads_memory) {
    cut(kReadGap, &Yardstick::read_bytes_per_second);
  }
  std::vector<MachineState> out;
  out.reserve(groups.size());
  for (const std::vector<Yardstick>& group : groups) {
    out.push_back(state_around(group));
  }
  return out;
}

bool reads_memory(const Document& document) {
  const auto bytes =
      document.model.weight_bytes_per_step ? document.model.weight_bytes_per_step : document.model.file_bytes;
  return bytes && document.machine.cache_bytes && *bytes > *document.machine.cache_bytes;
}

std::optional<size_t> state_of(const std::vector<MachineState>& states, const Repeat& repeat) {
  if (repeat.beside.empty() || repeat.foreign_cpu > kMaxForeignCpu) {
    return std::nullopt;
  }
  for (size_t i = 0; i < states.size(); ++i) {
    const MachineState& state = states[i];
    if (std::all_of(repeat.beside.begin(), repeat.beside.end(),
                    [&](const Yardstick& reading) { return state.has(reading); }) &&
        std::all_of(repeat.handovers.begin(), repeat.handovers.end(),
                    [&](double seconds) { return state.has_handover(seconds); })) {
      return i;
    }
  }
  return std::nullopt;
}

std::string state_text(const std::vector<MachineState>& states, size_t i) {
  const MachineState& state = states[i];
  std::string out = fmt::format("{:.2f} us", 5e5 * (state.least_handover + state.most_handover));
  const auto overlap = [](double least, double most, double other_least, double other_most) {
    return other_least <= most && other_most >= least;
  };
  const auto same_handover = [&](const MachineState& other) {
    return overlap(state.least_handover, state.most_handover, other.least_handover, other.most_handover);
  };
  const auto same_clock = [&](const MachineState& other) {
    return same_handover(other) && overlap(state.least_multiplies, state.most_multiplies,
                                           other.least_multiplies, other.most_multiplies);
  };
  const auto n_alike = std::count_if(states.begin(), states.end(), same_clock);
  if (std::count_if(states.begin(), states.end(), same_handover) > n_alike) {
    out += fmt::format(", {:.1f} G mul/s", 5e-10 * (state.least_multiplies + state.most_multiplies));
  }
  if (n_alike > 1) {
    out += fmt::format(", {:.0f} GB/s", 5e-10 * (state.least_read + state.most_read));
  }
  return out;
}

std::vector<StateRates> rates_by_state(std::span<const Repeat> then, std::span<const Repeat> now,
                                       bool reads_memory) {
  std::vector<Yardstick> readings;
  add_readings(readings, then);
  const size_t n_then = readings.size();
  add_readings(readings, now);
  const bool known = n_then > 0 && readings.size() > n_then;
  const std::vector<MachineState> states =
      known ? states_of(readings, reads_memory) : std::vector<MachineState>(1);
  std::vector<StateRates> out;
  out.reserve(states.size());
  for (const MachineState& state : states) {
    out.push_back({state, "", {}, {}});
  }
  const auto sort = [&](std::span<const Repeat> repeats, std::vector<double> StateRates::*side) {
    for (const Repeat& repeat : repeats) {
      const std::optional<size_t> state = known ? state_of(states, repeat) : 0;
      if (state && repeat.decode_total > 0) {
        (out[*state].*side).push_back(repeat.decode_total);
      }
    }
  };
  sort(then, &StateRates::then);
  sort(now, &StateRates::now);
  // States that the machine only passed through have no repeats, and need no name.
  std::erase_if(out, [](const StateRates& state) { return state.then.empty() && state.now.empty(); });
  std::vector<MachineState> met;
  met.reserve(out.size());
  for (const StateRates& state : out) {
    met.push_back(state.state);
  }
  for (size_t i = 0; i < met.size() && known; ++i) {
    out[i].text = state_text(met, i);
  }
  return out;
}

void explain_spread(std::vector<Cell>& cells, bool reads_memory) {
  for (Cell& cell : cells) {
    const auto spread = std::find_if(cell.flags.begin(), cell.flags.end(),
                                     [](const Flag& flag) { return flag.code == "spread"; });
    if (spread == cell.flags.end() || !cell.repeats) {
      continue;
    }
    const std::string text = states_text(*cell.repeats, reads_memory);
    if (!text.empty()) {
      spread->text += "; by what a word took between the machine's cores: " + text;
    }
  }
}

std::string run_states_text(const Document& document) {
  std::vector<Repeat> all;
  for (const Cell& cell : document.cells) {
    if (cell.repeats) {
      all.insert(all.end(), cell.repeats->begin(), cell.repeats->end());
    }
  }
  std::vector<StateRates> states = rates_by_state(all, all, reads_memory(document));
  size_t n = 0;
  for (const StateRates& state : states) {
    n += state.then.size();
  }
  std::erase_if(states, [n](const StateRates& state) {
    return static_cast<double>(state.then.size()) < kLeastStateShare * static_cast<double>(n);
  });
  std::string out;
  for (const StateRates& state : states) {
    out += fmt::format("{}{} beside {:.0f} %", out.empty() ? "" : ", ", state.text,
                       100 * static_cast<double>(state.then.size()) / static_cast<double>(n));
  }
  return states.size() > 1 ? out : "";
}

}  // namespace fl::report
