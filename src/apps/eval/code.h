// `freelunch eval code`: the coding score of an endpoint.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "eval/code_eval.h"

namespace fl::apps::eval_code {

struct Options {
  std::string tasks = "builtin";
  int64_t limit = 0;  ///< 0: all
  std::string url;    ///< of a running server; empty: ours is started
  std::string model;  ///< GGUF for our server; empty: the demo model
  std::string api_key;
  std::string model_name;  ///< sent with each request; empty: the first that the server lists
  std::string mode = "chat";
  std::string thinking;  ///< "on", "off"; empty: the server's default
  int32_t n_samples = 1;
  double temperature = 0;
  double top_p = 1;
  uint32_t seed = 1;
  int32_t max_tokens = 4096;
  int32_t n_parallel = 1;
  int64_t ctx_size = 8192;  ///< of one chat of our server
  double timeout_seconds = 600;
  std::string out;  ///< folder for the answers; empty: they are not kept
  bool self_check = false;
  bool answers_only = false;
  bool score = false;
  bool json = false;
  bool quiet = false;
};

/// What was scored and how, for the result file and the terminal.
struct Outcome {
  std::string tasks;
  std::string tasks_sha256;
  int64_t n_tasks = 0;
  std::string url;
  std::string model_name;
  std::string server;   ///< command of our server; empty: it was running
  std::string sandbox;  ///< fingerprint; empty: nothing was executed
  std::optional<eval::SelfCheck> self_check;
  bool complete = true;  ///< every sample has an answer
  std::string stop_reason;
  eval::Score score;
  std::vector<eval::Answer> answers;
};

/// One JSON document, indented.
std::string to_json(const Outcome& outcome, const Options& options);
/// The same for people.
std::string to_text(const Outcome& outcome, const Options& options);

/// Prints the result and returns the exit code.
Result<int> run(const Options& options);

}  // namespace fl::apps::eval_code
