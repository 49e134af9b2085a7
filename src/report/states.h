// The states of a machine that changes while it is measured, as the yardstick beside each repeat shows them,
// and what two measurements say when only repeats in the same state are compared.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "report/document.h"

namespace fl::report {

/// Readings of the yardstick that belong together.
struct MachineState {
  double least_handover = 0;  ///< seconds
  double most_handover = 0;
  double least_multiplies = 0;  ///< a second
  double most_multiplies = 0;
  double least_read = 0;  ///< bytes a second
  double most_read = 0;

  bool has(const Yardstick& reading) const;
  bool has_handover(double seconds) const;  ///< or nearly so
};

/// Memory bandwidth is a state of its own only where `reads_memory`: a model that lies in the caches does not
/// wait for it. Ordered by hand-over, multiplications (the clock) and reading.
std::vector<MachineState> states_of(std::span<const Yardstick> readings, bool reads_memory);
/// Does a step of this model read more than the last cache keeps?
bool reads_memory(const Document& document);
/// The state before, after and throughout a repeat; nullopt: the machine changed meanwhile, it was not
/// measured, or other programs used more of it than kMaxForeignCpu.
std::optional<size_t> state_of(const std::vector<MachineState>& states, const Repeat& repeat);
/// "0.16 us" and what else tells it from other states: "0.16 us, 36 GB/s".
std::string state_text(const std::vector<MachineState>& states, size_t i);

/// The same cell, measured at two times.
struct Alike {
  struct State {
    MachineState state;
    std::string text;
    std::vector<double> then;  ///< tokens/s of the repeats in it
    std::vector<double> now;
  };
  std::vector<State> states;
  size_t n_then = 0;  ///< repeats that were compared: not those beside which others were at work
  size_t n_now = 0;
  /// Of the speed, beside what the machine's conditions explain. nullopt: they cannot be told apart, since
  /// the machine was never alike at both times.
  std::optional<double> change;
  double error = 0;  ///< half of the 95 % interval
};
/// Logarithms of speeds by least squares: one level for each time, and a factor for each condition of the
/// machine during a repeat: the share of hand-overs within one real core, that of those far apart, the clock
/// (multiplications) and what is read from the last cache and from memory. `beside`, measured at the same
/// times as `now`, helps to know the factors. Without yardsticks on either side there are none.
/// `reads_memory` is of the states.
Alike compare_alike(std::span<const Repeat> then, std::span<const Repeat> now, bool reads_memory,
                    std::span<const Repeat> beside = {});

/// Adds to the flag "spread" of cells whose repeats met several states what each of them wrote.
void explain_spread(std::vector<Cell>& cells, bool reads_memory);
/// Of the whole run, when it saw several states in at least a twentieth of its repeats each; "" otherwise.
std::string run_states_text(const Document& document);

}  // namespace fl::report
