// The two Python programs that run inside the sandbox, one process each.
#pragma once

#include <string_view>

namespace fl::eval {

// Numbers of the descriptors that both programs get.
inline constexpr int kJobFd = 0;      ///< JSON, read to its end
inline constexpr int kCallOutFd = 3;  ///< candidate: answers out; checker: calls out
inline constexpr int kCallInFd = 4;   ///< candidate: calls in; checker: answers in
inline constexpr int kVerdictFd = 5;  ///< checker only

/// Runs the generated code; answers calls with plain data. Knows neither the tests nor the nonce.
/// Job: {"source": text, "entry_point": name}.
std::string_view candidate_program();

/// Runs the task's tests against the candidate behind the pipe; after they passed it writes the nonce to
/// kVerdictFd, else one JSON line {"kind": "wrong"|"raised"|"not_data"|"no_function"|"ended"|"harness",
/// "detail": text}. Job: {"prompt": text, "test": text, "entry_point": name, "nonce": text}.
std::string_view checker_program();

}  // namespace fl::eval
