// A server under test: started on loopback, waited for, ended by its process id. It dies with us, also when
// we are killed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "client/http.h"

namespace fl::client {

/// A port of 127.0.0.1 that was free a moment ago. Errors: address.
Result<uint16_t> free_port();

/// Splits a command line into words as a shell does with blanks, '…', "…" and \; nothing is expanded.
/// Errors: invalid_argument (a quote that does not end, no word).
Result<std::vector<std::string>> split_command(std::string_view line);
/// The inverse, for people to copy.
std::string join_command(const std::vector<std::string>& words);

class ServerProcess {
 public:
  static constexpr size_t kLogBytes = 64 * 1024;  ///< of the end of its stdout and stderr that are kept
  static constexpr double kGraceSeconds = 10;     ///< between SIGTERM and SIGKILL

  /// `words[0]` is found on PATH. Call it from a thread that outlives the server. Errors: not_found (the
  /// program cannot be run), io.
  static Result<ServerProcess> start(const std::vector<std::string>& words);
  ServerProcess(ServerProcess&&) noexcept;
  ServerProcess& operator=(ServerProcess&&) noexcept;
  ~ServerProcess();  ///< ends it

  /// Until /health answers 200 (or is unknown and /v1/models does). Errors: device, with the end of the log,
  /// when the process ended first (does_not_fit when its exit code says so); network after `seconds`;
  /// unavailable when cancelled.
  Status wait_ready(const Endpoint& endpoint, double seconds, const std::atomic<bool>* cancel);
  bool running();
  /// SIGTERM to its process group, SIGKILL after the grace.
  void end();

  pid_t pid() const;
  /// The end of what it wrote; at most `max_lines`.
  std::string log_tail(size_t max_lines) const;

 private:
  struct State;
  explicit ServerProcess(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace fl::client
