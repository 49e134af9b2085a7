// Coding tasks in HumanEval's form: one JSON object a line.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace fl::eval {

struct Task {
  std::string id;      ///< "HumanEval/0"
  std::string prompt;  ///< the stub: imports, signature, docstring
  std::string entry_point;
  std::string solution;  ///< the body that passes
  std::string test;      ///< defines check(candidate)
};

struct TaskSet {
  std::string name;    ///< "builtin", "humaneval"
  std::string sha256;  ///< of the uncompressed file
  std::vector<Task> tasks;
};

/// SHA-256 of HumanEval.jsonl (164 tasks) as OpenAI published it in 2021, uncompressed.
inline constexpr const char* kHumanEvalSha256 =
    "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2";
inline constexpr size_t kMaxTaskFileBytes = size_t{64} << 20;

/// `what`: "builtin", or "humaneval=FILE" (.jsonl or .jsonl.gz; checked against kHumanEvalSha256), or
/// "file=FILE" (any file of the same form). Errors: not_found (says where to get HumanEval), bad_file (line
/// and field; a wrong hash with both values), invalid_argument.
Result<TaskSet> load_tasks(const std::string& what);

/// The directory of the built-in tasks: FREELUNCH_DATA, else data/ beside the program's installation or in
/// the source tree.
Result<std::filesystem::path> data_dir();

}  // namespace fl::eval
