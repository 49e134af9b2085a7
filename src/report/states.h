// The states of a machine that changes while it is measured, as the yardstick beside each repeat shows them.
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

/// Speeds of one cell beside one state, at two times.
struct StateRates {
  MachineState state;
  std::string text;
  std::vector<double> then;  ///< tokens/s of the repeats in it
  std::vector<double> now;
};
/// The repeats that were in one state throughout, by state. Without yardsticks on either side there is one
/// state, and it has no text.
std::vector<StateRates> rates_by_state(std::span<const Repeat> then, std::span<const Repeat> now,
                                       bool reads_memory);

/// Adds to the flag "spread" of cells whose repeats met several states what each of them wrote.
void explain_spread(std::vector<Cell>& cells, bool reads_memory);
/// Of the whole run, when it saw several states in at least a twentieth of its repeats each; "" otherwise.
std::string run_states_text(const Document& document);

}  // namespace fl::report
