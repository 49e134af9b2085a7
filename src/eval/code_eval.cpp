#include "eval/code_eval.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "eval/extract.h"

namespace fl::eval {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kOutcomes[] = {"ok", "truncated", "error", "timeout", "cancelled"};
constexpr std::string_view kVerdicts[] = {"passed",       "wrong",  "raised",  "timeout",
                                          "output_limit", "killed", "harness", "not_run"};

nlohmann::json request_body(const Task& task, const CodeOptions& options, int32_t sample) {
  nlohmann::json body{{"model", options.model},
                      {"max_tokens", options.max_tokens},
                      {"temperature", options.temperature},
                      {"top_p", options.top_p},
                      {"seed", options.seed + static_cast<uint32_t>(sample)},
                      {"stream", true},
                      {"stream_options", {{"include_usage", true}}}};
  if (options.mode == Mode::chat) {
    body["messages"] = {{{"role", "user"}, {"content", chat_question(task)}}};
    if (options.thinking != Thinking::server_default) {
      body["chat_template_kwargs"] = {{"enable_thinking", options.thinking == Thinking::on}};
    }
  } else {
    body["prompt"] = task.prompt;
    body["stop"] = {"\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\n#"};
  }
  return body;
}

void run_program(const Task& task, const Sandbox& sandbox, Answer& answer) {
  Job job;
  job.source = answer.program;
  job.prompt = task.prompt;
  job.test = task.test;
  job.entry_point = task.entry_point;
  const Verdict verdict = sandbox.run(job);
  answer.verdict = verdict.kind;
  answer.detail = verdict.detail;
  answer.output = verdict.output;
}

Answer make_answer(const Task& task, const CodeOptions& options, const Sandbox* sandbox, int32_t sample) {
  client::CompletionOptions request;
  request.limits.total_seconds = options.timeout_seconds;
  request.limits.silence_seconds = options.timeout_seconds;
  request.limits.cancel = options.cancel;
  const char* path = options.mode == Mode::chat ? "/v1/chat/completions" : "/v1/completions";
  const client::Completion completion =
      client::complete(options.endpoint, path, request_body(task, options, sample), request);
  Answer answer;
  answer.task = task.id;
  answer.sample = sample;
  answer.outcome = completion.outcome;
  answer.error = completion.error;
  answer.text = completion.content;
  answer.reasoning = completion.reasoning;
  answer.n_tokens = completion.usage.completion_tokens;
  answer.seconds = completion.total;
  if (completion.outcome != client::Outcome::ok) {
    return answer;
  }
  const std::optional<std::string> program = options.mode == Mode::chat
                                                 ? program_from_chat(task, completion.content)
                                                 : program_from_completion(task, completion.content);
  answer.extracted = program.has_value();
  if (program) {
    answer.program = *program;
    if (sandbox != nullptr) {
      run_program(task, *sandbox, answer);
    }
  }
  return answer;
}

// Work items taken by several threads, results handed over one at a time.
void in_parallel(size_t n_items, int32_t n_threads, const std::function<bool(size_t)>& work) {
  std::atomic<size_t> next = 0;
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < std::max(n_threads, 1); ++i) {
    threads.emplace_back([&] {
      for (size_t item = next++; item < n_items && !stop; item = next++) {
        if (!work(item)) {
          stop = true;
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

template <size_t N>
size_t index_of(const std::string_view (&names)[N], const std::string& name) {
  return static_cast<size_t>(std::find(std::begin(names), std::end(names), name) - std::begin(names));
}

}  // namespace

std::string to_json_line(const Answer& answer) {
  const Json json{{"task", answer.task},
                  {"sample", answer.sample},
                  {"outcome", client::outcome_name(answer.outcome)},
                  {"error", answer.error},
                  {"extracted", answer.extracted},
                  {"verdict", verdict_name(answer.verdict)},
                  {"detail", answer.detail},
                  {"tokens", answer.n_tokens},
                  {"seconds", answer.seconds},
                  {"text", answer.text},
                  {"reasoning", answer.reasoning},
                  {"program", answer.program},
                  {"output", answer.output}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Answer> answer_from_json(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) {
    return fail(ErrorCode::bad_file, "an answer record is not a JSON object");
  }
  Answer answer;
  try {
    answer.task = json.at("task");
    answer.sample = json.at("sample");
    answer.error = json.at("error");
    answer.extracted = json.at("extracted");
    answer.detail = json.at("detail");
    answer.n_tokens = json.at("tokens");
    answer.seconds = json.at("seconds");
    answer.text = json.at("text");
    answer.reasoning = json.at("reasoning");
    answer.program = json.at("program");
    answer.output = json.at("output");
    const size_t outcome = index_of(kOutcomes, json.at("outcome"));
    const size_t verdict = index_of(kVerdicts, json.at("verdict"));
    if (outcome == std::size(kOutcomes) || verdict == std::size(kVerdicts)) {
      return fail(ErrorCode::bad_file, "an answer record has an unknown outcome or verdict");
    }
    answer.outcome = static_cast<client::Outcome>(outcome);
    answer.verdict = static_cast<VerdictKind>(verdict);
  } catch (const Json::exception& error) {
    return fail(ErrorCode::bad_file, fmt::format("an answer record: {}", error.what()));
  }
  return answer;
}

Score score(const std::vector<Answer>& answers) {
  Score score;
  std::map<std::string, std::pair<int64_t, int64_t>> by_task;  // samples, passed
  for (const Answer& answer : answers) {
    auto& [n, passed] = by_task[answer.task];
    ++n;
    ++score.n_samples;
    if (answer.outcome == client::Outcome::truncated) {
      ++score.truncated;
    } else if (answer.outcome != client::Outcome::ok) {
      ++score.failed;
    } else if (!answer.extracted) {
      ++score.no_code;
    } else if (answer.passed()) {
      ++passed;
      ++score.solved;
    } else if (answer.verdict == VerdictKind::wrong) {
      ++score.wrong;
    } else if (answer.verdict == VerdictKind::raised) {
      ++score.raised;
    } else if (answer.verdict == VerdictKind::timeout) {
      ++score.timeouts;
    } else if (answer.verdict == VerdictKind::harness) {
      ++score.harness;
    } else if (answer.verdict == VerdictKind::not_run) {
      ++score.not_run;
    } else {
      ++score.other;
    }
  }
  score.n_tasks = static_cast<int64_t>(by_task.size());
  std::vector<double> shares;
  shares.reserve(by_task.size());
  for (const auto& [task, counts] : by_task) {
    shares.push_back(pass_at_k(counts.first, counts.second, 1));
  }
  for (double share : shares) {
    score.pass_at_1 += share / static_cast<double>(shares.size());
  }
  score.interval = clustered_interval95(shares, score.n_samples);
  return score;
}

Result<std::vector<Answer>> run_code_eval(const TaskSet& tasks, const CodeOptions& options,
                                          const Sandbox* sandbox, const std::vector<Answer>& known,
                                          const std::function<Status(const Answer&)>& keep,
                                          const std::function<void(const Progress&)>& on_progress) {
  std::vector<Answer> answers = known;
  std::set<std::pair<std::string, int32_t>> done;
  Progress progress;
  progress.total = static_cast<int64_t>(tasks.tasks.size()) * options.n_samples;
  for (const Answer& answer : known) {
    done.emplace(answer.task, answer.sample);
    progress.done += 1;
    progress.passed += answer.passed() ? 1 : 0;
  }
  std::vector<std::pair<const Task*, int32_t>> work;
  for (int32_t sample = 0; sample < options.n_samples; ++sample) {
    for (const Task& task : tasks.tasks) {
      if (!done.contains({task.id, sample})) {
        work.emplace_back(&task, sample);
      }
    }
  }
  std::mutex mutex;
  std::optional<Error> stopped;
  int faults_in_a_row = 0;
  in_parallel(work.size(), options.n_parallel, [&](size_t item) {
    if (options.cancel != nullptr && options.cancel->load()) {
      return false;
    }
    const Answer answer = make_answer(*work[item].first, options, sandbox, work[item].second);
    if (answer.outcome == client::Outcome::cancelled) {
      return false;
    }
    const std::lock_guard lock(mutex);
    if (stopped) {
      return false;
    }
    if (const Status kept = keep(answer); !kept) {
      stopped = kept.error();
      return false;
    }
    answers.push_back(answer);
    progress.done += 1;
    progress.passed += answer.passed() ? 1 : 0;
    if (on_progress) {
      on_progress(progress);
    }
    const bool fault = answer.outcome == client::Outcome::error || answer.outcome == client::Outcome::timeout;
    faults_in_a_row = fault ? faults_in_a_row + 1 : 0;
    if (faults_in_a_row >= kMaxTransportErrors) {
      stopped = Error{ErrorCode::network, fmt::format("{} requests in a row failed; the last: {}",
                                                      faults_in_a_row, answer.error)};
      return false;
    }
    return true;
  });
  if (stopped) {
    return tl::unexpected<Error>(*stopped);
  }
  std::map<std::string, size_t> order;
  for (const Task& task : tasks.tasks) {
    order.emplace(task.id, order.size());
  }
  std::sort(answers.begin(), answers.end(), [&](const Answer& a, const Answer& b) {
    return std::pair(order[a.task], a.sample) < std::pair(order[b.task], b.sample);
  });
  return answers;
}

void run_answers(const TaskSet& tasks, std::vector<Answer>& answers, const Sandbox& sandbox,
                 int32_t n_parallel, const std::atomic<bool>* cancel,
                 const std::function<void(const Progress&)>& on_progress) {
  std::map<std::string_view, const Task*> by_id;
  for (const Task& task : tasks.tasks) {
    by_id.emplace(task.id, &task);
  }
  std::vector<Answer*> work;
  for (Answer& answer : answers) {
    if (answer.extracted && answer.verdict == VerdictKind::not_run && by_id.contains(answer.task)) {
      work.push_back(&answer);
    }
  }
  Progress progress;
  progress.total = static_cast<int64_t>(work.size());
  std::mutex mutex;
  in_parallel(work.size(), n_parallel, [&](size_t item) {
    if (cancel != nullptr && cancel->load()) {
      return false;
    }
    Answer& answer = *work[item];
    run_program(*by_id.at(answer.task), sandbox, answer);
    const std::lock_guard lock(mutex);
    ++progress.done;
    progress.passed += answer.passed() ? 1 : 0;
    if (on_progress) {
      on_progress(progress);
    }
    return true;
  });
}

SelfCheck self_check(const TaskSet& tasks, const Sandbox& sandbox, int32_t n_parallel,
                     const std::function<void(const Progress&)>& on_progress) {
  SelfCheck check;
  check.n_tasks = static_cast<int64_t>(tasks.tasks.size());
  Progress progress;
  progress.total = check.n_tasks * 2;
  std::mutex mutex;
  in_parallel(tasks.tasks.size() * 2, n_parallel, [&](size_t item) {
    const Task& task = tasks.tasks[item / 2];
    const bool broken = item % 2 == 1;
    Answer answer;
    answer.program = task.prompt + (broken ? "    return None\n" : task.solution);
    run_program(task, sandbox, answer);
    const std::lock_guard lock(mutex);
    ++progress.done;
    progress.passed += answer.passed() ? 1 : 0;
    if (answer.passed()) {
      (broken ? check.broken_passed : check.solutions_passed) += 1;
    }
    if (answer.passed() == broken) {
      check.surprises.push_back(fmt::format("{}: the {} is {}: {}", task.id,
                                            broken ? "broken stub" : "published solution",
                                            verdict_name(answer.verdict), answer.detail));
    }
    if (on_progress) {
      on_progress(progress);
    }
    return true;
  });
  return check;
}

}  // namespace fl::eval
