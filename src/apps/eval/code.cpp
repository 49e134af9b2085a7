// The run of `freelunch eval code`: tasks, sandbox, endpoint, answers, score.
#include "apps/eval/code.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/progress.h"
#include "base/journal.h"
#include "client/server_process.h"
#include "eval/sandbox/sandbox.h"
#include "eval/tasks.h"

namespace fl::apps::eval_code {
namespace {

namespace fs = std::filesystem;
using eval::Answer;
using Json = nlohmann::ordered_json;

constexpr double kServerReadySeconds = 600;
constexpr const char* kJournalName = "answers.journal";
constexpr const char* kAnswersName = "answers.jsonl";
constexpr const char* kResultName = "eval.json";

eval::Mode mode_of(const Options& options) {
  return options.mode == "completion" ? eval::Mode::completion : eval::Mode::chat;
}

eval::Thinking thinking_of(const Options& options) {
  if (options.thinking.empty()) {
    return eval::Thinking::server_default;
  }
  return options.thinking == "on" ? eval::Thinking::on : eval::Thinking::off;
}

int32_t sandbox_threads() {
  return static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency()));
}

Status write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) {
    return fail(ErrorCode::io, fmt::format("cannot write '{}'", path.string()));
  }
  return {};
}

// The kept answers as plain lines, for reading, and for scoring elsewhere.
Status write_results(const Outcome& outcome, const Options& options) {
  if (options.out.empty()) {
    return {};
  }
  std::string lines;
  for (const Answer& answer : outcome.answers) {
    lines += to_json_line(answer) + "\n";
  }
  FL_TRY(write_file(fs::path(options.out) / kAnswersName, lines));
  return write_file(fs::path(options.out) / kResultName, to_json(outcome, options));
}

Result<std::vector<Answer>> read_answers(const fs::path& path) {
  std::ifstream file(path);
  if (!file) {
    return fail(ErrorCode::not_found, fmt::format("no kept answers in '{}'", path.string()));
  }
  std::vector<Answer> answers;
  size_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    auto answer = eval::answer_from_json(line);
    if (!answer) {
      return fail(answer.error(), fmt::format("'{}', line {}", path.string(), number));
    }
    answers.push_back(std::move(*answer));
  }
  return answers;
}

// The name that goes with each request; it also shows early that nobody is there.
Result<std::string> first_model(const client::Endpoint& endpoint) {
  client::Limits limits;
  limits.total_seconds = 30;
  limits.cancel = Interrupt::flag();
  const client::HttpResult got = client::http_get(endpoint, "/v1/models", limits);
  if (got.fault != client::TransportFault::none) {
    return fail(ErrorCode::network, got.error);
  }
  if (got.response.status != 200) {
    return fail(ErrorCode::network, fmt::format("{}/v1/models: expected status 200, found {}", endpoint.url,
                                                got.response.status));
  }
  const Json json = Json::parse(got.response.body, nullptr, false);
  const Json::json_pointer first("/data/0/id");
  if (json.is_discarded() || !json.contains(first) || !json.at(first).is_string()) {
    return fail(ErrorCode::network,
                fmt::format("{}/v1/models does not list a model; name one with --model-name", endpoint.url));
  }
  return json.at(first).get<std::string>();
}

// What makes two runs comparable; a journal with another one is refused.
std::string manifest(const Options& options, const Outcome& outcome) {
  const Json json{
      {"freelunch", "eval code"},           {"tasks", outcome.tasks}, {"sha256", outcome.tasks_sha256},
      {"model", outcome.model_name},        {"mode", options.mode},   {"thinking", options.thinking},
      {"temperature", options.temperature}, {"top_p", options.top_p}, {"seed", options.seed},
      {"max_tokens", options.max_tokens}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The last record of each sample. Requests that failed are asked again.
Result<std::vector<Answer>> known_answers(const std::vector<std::string>& records, const eval::TaskSet& tasks,
                                          int32_t n_samples) {
  std::map<std::pair<std::string, int32_t>, Answer> last;
  for (const std::string& record : records) {
    FL_ASSIGN(Answer answer, eval::answer_from_json(record));
    const std::pair key{answer.task, answer.sample};
    last.insert_or_assign(key, std::move(answer));
  }
  std::vector<Answer> known;
  for (const eval::Task& task : tasks.tasks) {
    for (int32_t sample = 0; sample < n_samples; ++sample) {
      const auto found = last.find({task.id, sample});
      if (found != last.end() && (found->second.outcome == client::Outcome::ok ||
                                  found->second.outcome == client::Outcome::truncated)) {
        known.push_back(std::move(found->second));
      }
    }
  }
  return known;
}

// Shows a loop of the eval room as a progress line.
class Line {
 public:
  Line(const char* what, int64_t total, bool quiet) : progress_(what, static_cast<uint64_t>(total), quiet) {}
  void operator()(const eval::Progress& now) {
    progress_.set(static_cast<uint64_t>(now.done),
                  fmt::format("{} of {}, {} passed", now.done, now.total, now.passed));
  }

 private:
  Progress progress_;
};

eval::SelfCheck check_tasks(const eval::TaskSet& tasks, const eval::Sandbox& sandbox, bool quiet) {
  Line line("checking the tasks", static_cast<int64_t>(tasks.tasks.size()) * 2, quiet);
  return eval::self_check(tasks, sandbox, sandbox_threads(), std::ref(line));
}

struct Target {
  std::optional<client::ServerProcess> process;
  client::Endpoint endpoint;
};

Result<Target> open_target(const Options& options, Outcome& outcome) {
  Target target;
  if (!options.url.empty()) {
    FL_ASSIGN(target.endpoint, client::parse_endpoint(options.url, options.api_key));
  } else {
    FL_ASSIGN(const uint16_t port, client::free_port());
    FL_ASSIGN(target.endpoint, client::parse_endpoint(fmt::format("http://127.0.0.1:{}", port), ""));
    std::error_code error;
    std::vector<std::string> words{fs::read_symlink("/proc/self/exe", error).string(), "serve"};
    if (!options.model.empty()) {
      words.insert(words.end(), {"--model", options.model});
    }
    words.insert(words.end(), {"--host", "127.0.0.1", "--port", std::to_string(port), "--parallel",
                               std::to_string(options.n_parallel), "--ctx-size",
                               std::to_string(options.ctx_size * options.n_parallel)});
    outcome.server = client::join_command(words);
    if (!options.quiet) {
      fmt::print(stderr, "starting {}\n", outcome.server);
    }
    FL_ASSIGN(target.process, client::ServerProcess::start(words));
    FL_TRY(target.process->wait_ready(target.endpoint, kServerReadySeconds, Interrupt::flag()));
  }
  outcome.url = target.endpoint.url;
  if (options.model_name.empty()) {
    FL_ASSIGN(outcome.model_name, first_model(target.endpoint));
  } else {
    outcome.model_name = options.model_name;
  }
  return target;
}

// Asks for what is not known yet. An error of the endpoint leaves a partial result with its reason.
Status ask(const Options& options, const eval::TaskSet& tasks, const Target& target,
           const eval::Sandbox* sandbox, Outcome& outcome, std::optional<Error>& stopped) {
  std::optional<Journal> journal;
  std::vector<Answer> known;
  if (!options.out.empty()) {
    std::error_code error;
    fs::create_directories(options.out, error);
    if (error) {
      return fail(ErrorCode::io,
                  fmt::format("cannot make the folder '{}': {}", options.out, error.message()));
    }
    std::vector<std::string> records;
    FL_ASSIGN(journal,
              Journal::open(fs::path(options.out) / kJournalName, manifest(options, outcome), records));
    FL_ASSIGN(known, known_answers(records, tasks, options.n_samples));
    if (!known.empty() && !options.quiet) {
      fmt::print(stderr, "{} answers are kept in '{}' and not asked again\n", known.size(), options.out);
    }
  }
  if (sandbox != nullptr) {
    eval::run_answers(tasks, known, *sandbox, sandbox_threads(), Interrupt::flag(), {});
  }
  eval::CodeOptions code;
  code.endpoint = target.endpoint;
  code.model = outcome.model_name;
  code.mode = mode_of(options);
  code.thinking = thinking_of(options);
  code.n_samples = options.n_samples;
  code.temperature = options.temperature;
  code.top_p = options.top_p;
  code.seed = options.seed;
  code.max_tokens = options.max_tokens;
  code.n_parallel = options.n_parallel;
  code.timeout_seconds = options.timeout_seconds;
  code.cancel = Interrupt::flag();
  outcome.answers = known;
  Line line("asking", outcome.n_tasks * options.n_samples, options.quiet);
  const auto keep = [&](const Answer& answer) -> Status {
    outcome.answers.push_back(answer);
    return journal ? journal->append(to_json_line(answer)) : Status{};
  };
  auto answers = eval::run_code_eval(tasks, code, sandbox, known, keep, std::ref(line));
  if (answers) {
    outcome.answers = std::move(*answers);
  } else {
    stopped = answers.error();
  }
  return {};
}

int finish(Outcome& outcome, const Options& options, const std::optional<Error>& stopped) {
  outcome.score = eval::score(outcome.answers);
  const auto planned = outcome.n_tasks * options.n_samples;
  outcome.complete = static_cast<int64_t>(outcome.answers.size()) >= planned && !stopped;
  if (stopped) {
    outcome.stop_reason = stopped->message;
  } else if (!outcome.complete) {
    outcome.stop_reason = fmt::format("interrupted after {} of {} answers", outcome.answers.size(), planned);
  }
  const Status written = write_results(outcome, options);
  fmt::print("{}", options.json ? to_json(outcome, options) : to_text(outcome, options));
  if (!written) {
    return report_error("eval code", written.error());
  }
  if (stopped) {
    return report_error("eval code", *stopped);
  }
  if (const int code = Interrupt::exit_code(); code != kOk) {
    return code;
  }
  return options.answers_only || (outcome.complete && outcome.score.valid()) ? kOk : kIntegrity;
}

int self_check_only(const eval::TaskSet& tasks, const eval::Sandbox& sandbox, Outcome& outcome,
                    const Options& options) {
  outcome.self_check = check_tasks(tasks, sandbox, options.quiet);
  fmt::print("{}", options.json ? to_json(outcome, options) : to_text(outcome, options));
  return outcome.self_check->ok() ? kOk : kIntegrity;
}

// --score: the kept answers through the sandbox, without a server.
Result<int> score_kept(const eval::TaskSet& tasks, const eval::Sandbox& sandbox, Outcome& outcome,
                       const Options& options) {
  FL_ASSIGN(outcome.answers, read_answers(fs::path(options.out) / kAnswersName));
  std::erase_if(outcome.answers, [&](const Answer& answer) {
    return std::none_of(tasks.tasks.begin(), tasks.tasks.end(),
                        [&](const eval::Task& task) { return task.id == answer.task; });
  });
  if (outcome.answers.empty()) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("'{}' has no answer to a task of '{}'", options.out, outcome.tasks));
  }
  Line line("running", static_cast<int64_t>(outcome.answers.size()), options.quiet);
  eval::run_answers(tasks, outcome.answers, sandbox, sandbox_threads(), Interrupt::flag(), std::ref(line));
  return finish(outcome, options, {});
}

}  // namespace

Result<int> run(const Options& options) {
  const Interrupt interrupt;
  FL_ASSIGN(eval::TaskSet tasks, eval::load_tasks(options.tasks));
  if (options.limit > 0 && static_cast<size_t>(options.limit) < tasks.tasks.size()) {
    tasks.tasks.resize(static_cast<size_t>(options.limit));
  }
  Outcome outcome;
  outcome.tasks = tasks.name;
  outcome.tasks_sha256 = tasks.sha256;
  outcome.n_tasks = static_cast<int64_t>(tasks.tasks.size());
  std::optional<eval::Sandbox> sandbox;
  if (!options.answers_only) {
    FL_ASSIGN(sandbox, eval::Sandbox::open());
    outcome.sandbox = sandbox->fingerprint();
  }
  if (options.self_check) {
    return self_check_only(tasks, *sandbox, outcome, options);
  }
  if (options.score) {
    return score_kept(tasks, *sandbox, outcome, options);
  }
  FL_ASSIGN(const Target target, open_target(options, outcome));
  if (sandbox) {
    outcome.self_check = check_tasks(tasks, *sandbox, options.quiet);
    if (!outcome.self_check->ok()) {
      return fail(ErrorCode::integrity,
                  fmt::format("the tasks do not check themselves: {} of {} solutions pass, {} broken ones "
                              "pass; the first: {}",
                              outcome.self_check->solutions_passed, outcome.n_tasks,
                              outcome.self_check->broken_passed, outcome.self_check->surprises.front()));
    }
  }
  std::optional<Error> stopped;
  FL_TRY(ask(options, tasks, target, sandbox ? &*sandbox : nullptr, outcome, stopped));
  return finish(outcome, options, stopped);
}

}  // namespace fl::apps::eval_code
