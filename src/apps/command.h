// A sub-command of the program: one file each, listed in main.cpp.
#pragma once

#include <string_view>

#include "base/result.h"

namespace fl::apps {

/// Documented exit codes; stable, scripts rely on them.
enum ExitCode : int {
  kOk = 0,
  kFailure = 1,
  kUsage = 2,
  kModelUnusable = 3,
  kDoesNotFit = 4,
  kDevice = 5,
  kAddress = 6,
  kNetwork = 7,
  kSandbox = 8,
  kIntegrity = 9,
  kInterrupted = 130,
  kTerminated = 143,
};

struct Command {
  std::string_view name;
  std::string_view summary;  ///< one line for `freelunch --help`
  /// argv[0] is the command's name. Results to stdout, everything else to stderr.
  int (*run)(int argc, char** argv);
};

/// Prints "freelunch <command>: <message>" to stderr and returns the exit code of its kind.
int report_error(std::string_view command, const Error& error);

int run_serve(int argc, char** argv);
int run_bench(int argc, char** argv);
int run_prompt(int argc, char** argv);  // `freelunch run`
int run_chat(int argc, char** argv);
int run_inspect(int argc, char** argv);
int run_plan(int argc, char** argv);
int run_tokenize(int argc, char** argv);
int run_convert(int argc, char** argv);
int run_quantize(int argc, char** argv);
int run_synth(int argc, char** argv);
int run_report(int argc, char** argv);
int run_eval(int argc, char** argv);

}  // namespace fl::apps
