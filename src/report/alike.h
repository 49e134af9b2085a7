// What two measurements of a cell say of each other, beside what the machine's conditions explain.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "report/states.h"

namespace fl::report {

/// The same cell, measured at two times.
struct Alike {
  std::vector<StateRates> states;
  size_t n_then = 0;  ///< repeats that were compared: not those beside which others were at work
  size_t n_now = 0;
  /// Of the speed, beside what the machine's conditions explain. nullopt: they cannot be told apart, since
  /// the machine was never alike at both times.
  std::optional<double> change;
  double error = 0;  ///< half of the 95 % interval
};

/// Repeats of one cell each.
using CellsRepeats = std::vector<std::vector<Repeat>>;

/// Logarithms of speeds by least squares: one level for each time, and a factor for each condition of the
/// machine during a repeat: the share of hand-overs within one real core, that of those far apart, the clock
/// (multiplications), what is read from the last cache and from memory, and how fast threads wake each other.
/// `beside`, measured at the same times as `now`, helps to know the factors, and so do `others`, of the same
/// program in other cells: one factor for all cells, a level for each. Without yardsticks on either side
/// there are no factors, and none for what not all repeats have. `reads_memory` is of the states.
Alike compare_alike(std::span<const Repeat> then, std::span<const Repeat> now, bool reads_memory,
                    std::span<const Repeat> beside = {}, const CellsRepeats& others = {});

}  // namespace fl::report
