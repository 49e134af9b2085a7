// The coding score: ask an endpoint for each task, extract the program, run it in the sandbox, keep
// everything.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "client/completion.h"
#include "eval/sandbox/sandbox.h"
#include "eval/score.h"
#include "eval/tasks.h"

namespace fl::eval {

enum class Mode { chat, completion };
enum class Thinking { server_default, on, off };

struct CodeOptions {
  client::Endpoint endpoint;
  std::string model;  ///< name sent with each request
  Mode mode = Mode::chat;
  Thinking thinking = Thinking::server_default;
  int32_t n_samples = 1;
  double temperature = 0;
  double top_p = 1;
  uint32_t seed = 1;
  int32_t max_tokens = 4096;
  int32_t n_parallel = 1;
  double timeout_seconds = 600;  ///< of one answer
  const std::atomic<bool>* cancel = nullptr;
};

/// One sample of one task.
struct Answer {
  std::string task;
  int32_t sample = 0;
  client::Outcome outcome = client::Outcome::error;
  std::string error;  ///< of the request
  std::string text;   ///< the answer
  std::string reasoning;
  std::string program;  ///< empty: no code found
  bool extracted = false;
  VerdictKind verdict = VerdictKind::not_run;
  std::string detail;
  std::string output;
  int64_t n_tokens = -1;
  double seconds = 0;

  bool passed() const { return verdict == VerdictKind::passed; }
};

std::string to_json_line(const Answer& answer);
Result<Answer> answer_from_json(std::string_view line);

struct Score {
  int64_t n_tasks = 0;
  int64_t n_samples = 0;
  double pass_at_1 = 0;  ///< mean over tasks of the unbiased estimate
  int64_t solved = 0;    ///< samples that passed
  Interval interval;     ///< of pass@1, 95 %: Wilson over the effective number of samples
  int64_t wrong = 0, raised = 0, timeouts = 0;
  int64_t other = 0;      ///< killed, or printed too much
  int64_t harness = 0;    ///< the sandbox's own failures
  int64_t not_run = 0;    ///< an answer with code that nobody executed
  int64_t no_code = 0;    ///< an answer without code
  int64_t truncated = 0;  ///< the token limit came first: not a wrong answer
  int64_t failed = 0;     ///< request error or timeout
  /// More than 1 % of the samples without a verdict for reasons that are not the answer's: no valid score.
  bool valid() const { return n_samples > 0 && (failed + harness + not_run) * 100 <= n_samples; }
};

Score score(const std::vector<Answer>& answers);

struct Progress {
  int64_t done = 0;
  int64_t total = 0;
  int64_t passed = 0;
};

/// Answers not in `known` are made; `keep` is called for each, in the order in which they end, never from two
/// threads at once; its error ends the run. The result is sorted by task and sample. After
/// kMaxTransportErrors failures in a row the run stops with ErrorCode::network; what is kept stays. Without a
/// sandbox the answers are made and nothing is executed (VerdictKind::not_run). After `cancel` the result
/// has what was finished.
inline constexpr int kMaxTransportErrors = 5;
Result<std::vector<Answer>> run_code_eval(const TaskSet& tasks, const CodeOptions& options,
                                          const Sandbox* sandbox, const std::vector<Answer>& known,
                                          const std::function<Status(const Answer&)>& keep,
                                          const std::function<void(const Progress&)>& on_progress);

/// Executes the programs of answers that say not_run, in place. Answers to tasks that are not in the set
/// stay.
void run_answers(const TaskSet& tasks, std::vector<Answer>& answers, const Sandbox& sandbox,
                 int32_t n_parallel, const std::atomic<bool>* cancel,
                 const std::function<void(const Progress&)>& on_progress);

struct SelfCheck {
  int64_t n_tasks = 0;
  int64_t solutions_passed = 0;        ///< must be n_tasks
  int64_t broken_passed = 0;           ///< must be 0
  std::vector<std::string> surprises;  ///< "HumanEval/3: the solution is wrong: ..."
  bool ok() const { return solutions_passed == n_tasks && broken_passed == 0; }
};

/// Every published solution, and every stub whose body is `return None`, through the same sandbox and tests.
SelfCheck self_check(const TaskSet& tasks, const Sandbox& sandbox, int32_t n_parallel,
                     const std::function<void(const Progress&)>& on_progress);

}  // namespace fl::eval
