#include "report/alike.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "report/machine.h"
#include "report/statistics.h"

namespace fl::report {
namespace {

// The scatter that is assumed of a cell counts as so many degrees of freedom beside that of its own repeats:
// where it is that of other cells, and where there are none.
constexpr double kOthersFreedom = 6;
constexpr double kAssumedScatter = 0.03;
constexpr double kAssumedFreedom = 2;
// Times the usual hand-over: below, both threads lie on one real core; above, far from each other.
constexpr double kOneCore = 0.6;
constexpr double kFarApart = 2;
// A condition of the machine that varies less than this over all repeats explains nothing.
constexpr double kLeastVariation = 1e-3;

bool has_yardsticks(std::span<const Repeat> repeats) {
  return std::any_of(repeats.begin(), repeats.end(), [](const Repeat& each) { return !each.beside.empty(); });
}

std::vector<double> handovers_of(const Repeat& repeat) {
  std::vector<double> out = repeat.handovers;
  for (const Yardstick& reading : repeat.beside) {
    out.push_back(reading.handover_seconds);
  }
  return out;
}

bool has_glances(const Repeat& repeat) {
  return repeat.multiplies && repeat.cached;
}

bool has_wakeups(const Repeat& repeat) {
  return std::all_of(repeat.beside.begin(), repeat.beside.end(),
                     [](const Yardstick& reading) { return reading.wakeups_per_second.has_value(); });
}

// The logarithm of the median: just behind a batch a server's threads may still be awake, and in the way.
double usual_wakeups(const Repeat& repeat) {
  std::vector<double> all = repeat.wakeups.value_or(std::vector<double>{});
  for (const Yardstick& reading : repeat.beside) {
    all.push_back(reading.wakeups_per_second.value_or(0));
  }
  return all.empty() ? 0 : std::log(std::max(median(std::move(all)), 1.0));
}

double usual_handover(std::span<const std::span<const Repeat>> times) {
  std::vector<double> all;
  for (const std::span<const Repeat> repeats : times) {
    for (const Repeat& repeat : repeats) {
      const std::vector<double> handovers = handovers_of(repeat);
      all.insert(all.end(), handovers.begin(), handovers.end());
    }
  }
  return all.empty() ? 0 : median(std::move(all));
}

double mean_log(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) {
    sum += std::log(std::max(value, 1.0));
  }
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

std::vector<double> values_of(const std::vector<Yardstick>& readings, double Yardstick::*member) {
  std::vector<double> out;
  out.reserve(readings.size());
  for (const Yardstick& reading : readings) {
    out.push_back(reading.*member);
  }
  return out;
}

// What the repeats that are compared have all.
struct Known {
  bool glances = false;  // between their batches; otherwise the clock is that before and after
  bool wakeups = false;

  bool of(const Repeat& repeat) const {
    return (!glances || has_glances(repeat)) && (!wakeups || has_wakeups(repeat));
  }
};

// What the yardstick says of the machine during a repeat: shares of it, and logarithms.
std::vector<double> conditions_of(const Repeat& repeat, double usual, const Known& known) {
  const std::vector<double> handovers = handovers_of(repeat);
  const auto share = [&](auto&& is) {
    return static_cast<double>(std::count_if(handovers.begin(), handovers.end(), is)) /
           static_cast<double>(handovers.size());
  };
  return {share([&](double seconds) { return seconds < kOneCore * usual; }),
          share([&](double seconds) { return seconds > kFarApart * usual; }),
          mean_log(known.glances ? *repeat.multiplies
                                 : values_of(repeat.beside, &Yardstick::multiplies_per_second)),
          known.glances ? mean_log(*repeat.cached) : 0,
          mean_log(values_of(repeat.beside, &Yardstick::read_bytes_per_second)),
          known.wakeups ? usual_wakeups(repeat) : 0};
}

// Repeats as rows of the fit. Columns: one, "beside", the conditions, "now".
struct Table {
  std::vector<std::vector<double>> rows;
  std::vector<double> logarithms;
  std::vector<std::pair<size_t, int64_t>> starts;  // of the server: its group's number, and its own

  void add(std::vector<double> row, const Repeat& repeat, size_t group) {
    rows.push_back(std::move(row));
    logarithms.push_back(std::log(repeat.decode_total));
    starts.emplace_back(group, repeat.start.value_or(-repeat.repeat));
  }
};

// Of columns [from, to), and of the logarithms, over the rows from `first` on.
void take_out_means(Table& table, size_t first, size_t from, size_t to, bool logarithms) {
  const auto n = static_cast<double>(table.rows.size() - first);
  for (size_t column = from; column < to; ++column) {
    double mean = 0;
    for (size_t r = first; r < table.rows.size(); ++r) {
      mean += table.rows[r][column] / n;
    }
    for (size_t r = first; r < table.rows.size(); ++r) {
      table.rows[r][column] -= mean;
    }
  }
  if (!logarithms) {
    return;
  }
  double mean = 0;
  for (size_t r = first; r < table.rows.size(); ++r) {
    mean += table.logarithms[r] / n;
  }
  for (size_t r = first; r < table.rows.size(); ++r) {
    table.logarithms[r] -= mean;
  }
}

// A column that hardly varies becomes 0.
void leave_out_constants(Table& table) {
  const auto n = static_cast<double>(table.rows.size());
  for (size_t column = 1; column < table.rows.front().size(); ++column) {
    double squares = 0;
    for (const std::vector<double>& row : table.rows) {
      squares += row[column] * row[column];
    }
    for (std::vector<double>& row : table.rows) {
      row[column] = squares < kLeastVariation * kLeastVariation * n ? 0 : row[column];
    }
  }
}

// By how much the variance of a mean of the first `n_own` values is larger than of as many independent ones,
// since those of one start of a server resemble each other: 1 + (m - 1) rho (Kish 1965) with m of them and
// their correlation, which all values tell.
double alike_in_a_start(const Table& table, const std::vector<double>& left, size_t n_own) {
  double products = 0;
  double n_pairs = 0;
  double n_own_pairs = 0;
  double squares = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    squares += left[i] * left[i];
    for (size_t k = i + 1; k < left.size(); ++k) {
      if (table.starts[i] == table.starts[k]) {
        products += left[i] * left[k];
        ++n_pairs;
        n_own_pairs += k < n_own ? 1 : 0;
      }
    }
  }
  if (n_pairs == 0 || squares <= 0) {
    return 1;
  }
  const double correlation = products / n_pairs / (squares / static_cast<double>(left.size()));
  // The pairs of a start, both ways, by its values: the mean of m - 1.
  return 1 + std::max(0.0, 2 * n_own_pairs / static_cast<double>(n_own) * correlation);
}

}  // namespace

Alike compare_alike(std::span<const Repeat> then, std::span<const Repeat> now, bool reads_memory,
                    std::span<const Repeat> beside, const CellsRepeats& others) {
  Alike out;
  out.states = rates_by_state(then, now, reads_memory);
  const std::array<std::span<const Repeat>, 3> times{then, now, beside};
  const bool known = has_yardsticks(then) && has_yardsticks(now);
  const double usual = known ? usual_handover(times) : 0;
  const auto all_have = [&](bool (*has)(const Repeat&)) {
    return std::all_of(times.begin(), times.end(), [&](std::span<const Repeat> repeats) {
      return std::all_of(repeats.begin(), repeats.end(), has);
    });
  };
  const Known readings{all_have(has_glances), all_have(has_wakeups)};
  const auto counts = [&](const Repeat& repeat) {
    const bool busy = known && (repeat.beside.empty() || repeat.foreign_cpu > kMaxForeignCpu);
    return !busy && repeat.decode_total > 0;
  };
  const auto row_of = [&](const Repeat& repeat, double level, size_t time) {
    // What the conditions explain alone is not the program's: the time comes last.
    std::vector<double> row{level, time == 2 ? level : 0.0};
    if (known) {
      const std::vector<double> conditions = conditions_of(repeat, usual, readings);
      row.insert(row.end(), conditions.begin(), conditions.end());
    }
    row.push_back(time == 1 ? level : 0);
    return row;
  };
  Table table;
  for (size_t time = 0; time < times.size(); ++time) {
    for (const Repeat& repeat : times[time]) {
      if (counts(repeat)) {
        table.add(row_of(repeat, 1, time), repeat, time);
        out.n_then += time == 0 ? 1 : 0;
        out.n_now += time == 1 ? 1 : 0;
      }
    }
  }
  if (out.n_then == 0 || out.n_now == 0) {
    return out;
  }
  const size_t n_own = table.rows.size();
  const size_t n_columns = table.rows.front().size();
  take_out_means(table, 0, 1, n_columns, false);
  double n_others = 0;
  for (size_t cell = 0; known && cell < others.size(); ++cell) {
    const size_t first = table.rows.size();
    for (const Repeat& repeat : others[cell]) {
      if (counts(repeat) && readings.of(repeat)) {
        table.add(row_of(repeat, 0, 0), repeat, times.size() + cell);
      }
    }
    if (table.rows.size() > first) {
      take_out_means(table, first, 2, n_columns - 1, true);  // a level of its own
      ++n_others;
    }
  }
  leave_out_constants(table);
  const Fit fit = fit_columns(table.rows, table.logarithms);
  const double fit_freedom = fit.freedom - n_others;
  if (!std::isfinite(fit.variances.back()) || fit_freedom < 0) {
    return out;
  }
  double assumed = kAssumedScatter * kAssumedScatter;
  double freedom = kAssumedFreedom + fit_freedom;
  double squares = fit.squares;
  if (n_others > 0 && fit_freedom > 0) {
    assumed = fit.squares / fit_freedom;
    squares = 0;
    for (size_t r = 0; r < n_own; ++r) {
      squares += fit.left[r] * fit.left[r];
    }
    // One level for each time.
    freedom = kOthersFreedom + std::max(0.0, static_cast<double>(n_own) - static_cast<double>(times.size()));
  }
  const double n_assumed = n_others > 0 ? kOthersFreedom : kAssumedFreedom;
  const double scatter = (n_assumed * assumed + squares) / freedom;
  out.change = std::exp(fit.factors.back()) - 1;
  out.error =
      student(freedom) * std::sqrt(scatter * fit.variances.back() * alike_in_a_start(table, fit.left, n_own));
  return out;
}

}  // namespace fl::report
