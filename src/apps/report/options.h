// The flags of `freelunch report`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "report/records.h"

namespace fl::apps::report {

struct Flags {
  std::string model;  ///< GGUF file; empty with no URL: the demo model
  std::string url;
  std::string server_command;
  std::string server_args;
  std::string api_key;
  std::string model_name;
  std::string ctx;
  std::string chats;
  std::string depth;
  std::string tasks;
  bool tasks_given = false;
  int64_t task_limit = 0;
  int64_t task_tokens = 0;
  std::string thinking = "default";
  std::string budget;
  bool quick = false;
  int64_t repeats = 3;
  double sample_seconds = 1;
  int64_t tokens = 0;
  int64_t prompt_tokens = 0;
  double start_timeout = 600;
  double request_timeout = 600;
  double bandwidth = 0;  ///< GB/s
  double peak_ops = 0;   ///< T operations/s
  std::string out = "freelunch-report";
  bool fresh = false;
  std::string check_profile;
  std::string from = "freelunch-report/report.json";
  std::vector<std::string> compare;
  bool history = false;
  int64_t history_limit = 20;
  std::string history_db;
  bool no_history = false;
  bool no_paths = false;
  bool card = false;
  bool json = false;
  bool quiet = false;
};

/// "16k,32768" in tokens, ascending, each once; a k is 1024. Errors: invalid_argument.
Result<std::vector<int64_t>> parse_tokens(const std::string& list);
/// "90", "90s", "20m", "1.5h"; "none" is 0. Errors: invalid_argument.
Result<double> parse_duration(const std::string& text);

/// The flags as the options of a run: lists read, defaults of --quick filled in, the server's command spelled
/// out
/// (`program` is this program). Without --ctx the contexts are parts of `ctx_train` (0: not known), at most
/// 128k. Errors: invalid_argument.
Result<fl::report::Options> run_options(const Flags& flags, const std::string& program, int64_t ctx_train);

}  // namespace fl::apps::report
