// One server under measurement while it runs: started by us for a configuration, or found at a URL.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <optional>
#include <string>

#include "base/result.h"
#include "client/server_process.h"
#include "report/plan.h"
#include "report/records.h"

namespace fl::report {

struct Session {
  std::optional<client::ServerProcess> process;
  client::Endpoint endpoint;
  pid_t pid = -1;  ///< -1: not on this machine, or not to be seen
  std::string command;
  double startup_seconds = 0;
};

/// Replaces {ctx}, {window}, {chats}, {port} and {model} in every word of the template. Errors:
/// invalid_argument.
Result<std::vector<std::string>> expand_command(const std::string& command_template, const ConfigSize& size,
                                                uint16_t port, const std::string& model);

/// `more`: words that this start has beside those of every start.
/// Starts the server of kinds "model" and "command" and waits until it is ready. `session` has its command
/// also when that fails. Errors: those of ServerProcess.
Status open_session(const Options& options, const ConfigSize& size, const std::string& model,
                    const std::string& api_key, const std::vector<std::string>& more,
                    const std::atomic<bool>* cancel, Session& session);

}  // namespace fl::report
