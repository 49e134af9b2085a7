#include "report/quality.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "eval/code_eval.h"
#include "eval/sandbox/sandbox.h"
#include "eval/tasks.h"

namespace fl::report {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPoll = std::chrono::milliseconds(20);

eval::Thinking thinking_of(const std::string& word) {
  return word == "on"    ? eval::Thinking::on
         : word == "off" ? eval::Thinking::off
                         : eval::Thinking::server_default;
}

// Sets `stop` when the run is cancelled or the time is over.
class Deadline {
 public:
  Deadline(double seconds, const std::atomic<bool>* cancel, std::atomic<bool>& stop) {
    thread_ = std::thread([this, seconds, cancel, &stop] {
      const auto end = Clock::now() + std::chrono::duration<double>(seconds);
      for (; !done_; std::this_thread::sleep_for(kPoll)) {
        if (cancel->load() || (seconds > 0 && Clock::now() > end)) {
          stop = true;
        }
      }
    });
  }
  ~Deadline() {
    done_ = true;
    thread_.join();
  }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

void copy_score(const eval::Score& score, Quality& out) {
  out.n_samples = score.n_samples;
  out.n_solved = score.solved;
  out.pass_at_1 = score.pass_at_1;
  out.low = score.interval.low;
  out.high = score.interval.high;
  out.n_wrong = score.wrong;
  out.n_raised = score.raised;
  out.n_timeout = score.timeouts;
  out.n_other = score.other + score.harness;
  out.n_no_code = score.no_code;
  out.n_truncated = score.truncated;
  out.n_failed = score.failed;
  out.measured = score.n_samples > 0 && score.not_run == 0;
  out.valid = out.measured && score.valid();
  if (out.measured && !out.valid) {
    out.reason = fmt::format("{} of {} answers have no verdict because of the server or the sandbox",
                             score.failed + score.harness, score.n_samples);
  }
}

}  // namespace

Status check_tasks(const Options& options) {
  if (options.tasks == "none") {
    return {};
  }
  const auto tasks = eval::load_tasks(options.tasks);
  return tasks ? Status{} : Status(tl::unexpected(tasks.error()));
}

Result<Quality> measure_quality(const QualityJob& job) {
  Quality out;
  out.tasks = job.options->tasks.substr(0, job.options->tasks.find('='));
  out.mode = "chat";
  out.thinking = job.options->thinking;
  auto tasks = eval::load_tasks(job.options->tasks);
  if (!tasks) {
    out.reason = tasks.error().message;
    return out;
  }
  if (job.options->task_limit > 0 && static_cast<size_t>(job.options->task_limit) < tasks->tasks.size()) {
    tasks->tasks.resize(static_cast<size_t>(job.options->task_limit));
  }
  out.task_hash = "sha256:" + tasks->sha256;
  out.n_tasks = static_cast<int64_t>(tasks->tasks.size());
  const auto sandbox = eval::Sandbox::open();
  if (!sandbox) {
    out.reason = sandbox.error().message;
    return out;
  }
  if (!job.options->quick) {
    const auto n_threads = static_cast<int32_t>(std::max(1U, std::thread::hardware_concurrency()));
    const eval::SelfCheck check = eval::self_check(*tasks, *sandbox, n_threads, [](const eval::Progress&) {});
    if (!check.ok()) {
      out.reason =
          fmt::format("the tasks fail their own check: {}",
                      check.surprises.empty() ? std::string("no reason given") : check.surprises.front());
      return out;
    }
  }
  std::vector<eval::Answer> answers;
  for (const std::string& line : job.known) {
    if (auto answer = eval::answer_from_json(line)) {
      answers.push_back(std::move(*answer));
    }
  }
  std::atomic<bool> stop = false;
  eval::CodeOptions code;
  code.endpoint = job.endpoint;
  code.model = job.model;
  code.thinking = thinking_of(job.options->thinking);
  code.max_tokens = static_cast<int32_t>(job.options->task_tokens);
  code.n_parallel = static_cast<int32_t>(job.n_parallel);
  code.timeout_seconds = job.options->request_seconds;
  code.cancel = &stop;
  std::optional<Error> not_kept;
  const std::vector<eval::Answer> known = answers;
  const auto keep = [&](const eval::Answer& answer) -> Status {
    answers.push_back(answer);
    Status kept = job.keep(eval::to_json_line(answer));
    if (!kept) {
      not_kept = kept.error();
    }
    return kept;
  };
  const auto progress = [&](const eval::Progress& now) { job.on_progress(now.done, now.total); };
  std::optional<Error> failed;
  {
    job.on_progress(static_cast<int64_t>(known.size()), out.n_tasks);
    const Deadline deadline(job.seconds_left, job.cancel, stop);
    auto all = eval::run_code_eval(*tasks, code, &*sandbox, known, keep, progress);
    if (!all) {
      failed = all.error();
    }
  }
  if (not_kept) {
    return tl::unexpected(*not_kept);
  }
  if (job.cancel->load()) {
    return fail(ErrorCode::unavailable, "interrupted");
  }
  copy_score(eval::score(answers), out);
  if (failed) {
    out.valid = false;
    out.reason = failed->message;
  } else if (static_cast<int64_t>(answers.size()) < out.n_tasks) {
    out.reason = fmt::format("the budget ended after {} of {} tasks", answers.size(), out.n_tasks);
  }
  return out;
}

}  // namespace fl::report
