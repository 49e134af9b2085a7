// Runs one generated Python program against the tests of its task, with the verdict outside the program's
// reach.
//
// Two interpreters, each in its own bubblewrap container (new user, pid, mount, net, ipc, uts and cgroup
// namespaces, an own read-only root with the interpreter and its libraries, 64 MiB of scratch memory, no
// network, no /proc), under resource limits and a system-call filter that knows no second process. The
// candidate gets the code and answers calls with plain data over a pipe; the checker gets the tests, and
// after they passed writes a 128-bit nonce that the candidate's process never holds. A pass is: that nonce,
// exit status 0 of the checker, no limit reached.
//
// The honest limit: the kernel is shared with the host.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "eval/sandbox/child.h"

namespace fl::eval {

enum class VerdictKind {
  passed,
  wrong,         ///< a test failed
  raised,        ///< the code raised, did not compile or has no such function
  timeout,       ///< CPU time, or five times that on the wall clock
  output_limit,  ///< printed more than kMaxOutputBytes
  killed,        ///< ended by a signal: memory, a forbidden call
  harness,       ///< our side failed; not the answer's fault
  not_run,       ///< nothing was executed (yet)
};
std::string_view verdict_name(VerdictKind kind);

struct Verdict {
  VerdictKind kind = VerdictKind::harness;
  std::string detail;
  std::string output;  ///< what the program printed, cut at kMaxKeptOutput
  double seconds = 0;  ///< wall clock
};

struct Job {
  std::string source;  ///< the whole program: prompt and answer
  std::string prompt;  ///< the task's stub, for the checker
  std::string test;    ///< defines check(candidate)
  std::string entry_point;
};

class Sandbox {
 public:
  static constexpr size_t kMaxOutputBytes = size_t{1} << 20;
  static constexpr size_t kMaxKeptOutput = 4000;
  static constexpr int kWallFactor = 5;

  /// Finds bubblewrap and Python, builds the filter, and proves it: a harmless program must pass and the
  /// start-up probes (network, files outside, a second process, a forbidden call) must be stopped.
  /// ErrorCode::sandbox names the mechanism that is missing and what to do. There is no weaker mode.
  static Result<Sandbox> open(Limits limits = {});

  /// Thread-safe. Never throws for what the program does.
  Verdict run(const Job& job) const;

  /// Mechanisms, kernel, interpreter and probes, for the result file.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  Sandbox() = default;
  Status find_interpreter();
  Status self_test();
  /// bubblewrap's command line around one of the two programs.
  std::vector<std::string> command(std::string_view program) const;

  std::string bwrap_;
  std::string python_;
  std::vector<std::string> read_only_;  ///< bound into the container
  std::string filter_;
  Limits limits_;
  std::string fingerprint_;
};

}  // namespace fl::eval
