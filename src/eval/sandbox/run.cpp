// One program through the sandbox: start both interpreters, watch limits, decide.
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "eval/sandbox/harness.h"
#include "eval/sandbox/sandbox.h"

namespace fl::eval {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int kFilterFd = 9;
constexpr size_t kMaxVerdictBytes = 8192;

Result<std::string> make_nonce() {
  std::array<unsigned char, 16> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return fail(ErrorCode::io, "getrandom gave no bytes");
  }
  std::string text;
  for (unsigned char byte : bytes) {
    text += fmt::format("{:02x}", byte);
  }
  return text;
}

std::string as_job(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Appends what is there; false at the end of the stream.
bool drain(int fd, std::string& out, size_t& seen, size_t keep) {
  std::array<char, 65536> buffer;
  const ssize_t n = ::read(fd, buffer.data(), buffer.size());
  if (n <= 0) {
    return false;
  }
  seen += static_cast<size_t>(n);
  out.append(buffer.data(), std::min(static_cast<size_t>(n), keep - std::min(keep, out.size())));
  return true;
}

// The two interpreters of one job. Destroying it kills what is left.
struct Pair {
  Child candidate;
  Child checker;
  Pipe candidate_output;
  Pipe checker_output;
  Pipe verdict;

  ~Pair() {
    for (Child* child : {&candidate, &checker}) {
      if (child->pid > 0) {
        ::kill(child->pid, SIGKILL);  // bubblewrap's namespace dies with it
        wait_child(*child);
      }
    }
  }
};

Status start(Pair& pair, const Job& job, const std::string& nonce, const std::string& filter,
             const Limits& limits, std::vector<std::string> candidate_command,
             std::vector<std::string> checker_command) {
  FL_ASSIGN(Pipe calls, make_pipe());
  FL_ASSIGN(Pipe answers, make_pipe());
  FL_ASSIGN(pair.candidate_output, make_pipe());
  FL_ASSIGN(pair.checker_output, make_pipe());
  FL_ASSIGN(pair.verdict, make_pipe());
  const auto launch = [&](Child& child, std::vector<std::string> argv, const Json& job_json,
                          const Pipe& output, int out, int in, int verdict) -> Status {
    FL_ASSIGN(const Fd job_file, make_memory_file(as_job(job_json)));
    FL_ASSIGN(const Fd filter_file, make_memory_file(filter));
    ChildSpec spec;
    spec.argv = std::move(argv);
    spec.limits = limits;
    spec.fds = {{job_file.get(), kJobFd}, {output.write.get(), 1}, {output.write.get(), 2},
                {out, kCallOutFd},        {in, kCallInFd},         {filter_file.get(), kFilterFd}};
    if (verdict >= 0) {
      spec.fds.emplace_back(verdict, kVerdictFd);
    }
    FL_ASSIGN(child, start_child(spec));
    return {};
  };
  FL_TRY(launch(pair.candidate, std::move(candidate_command),
                {{"source", job.source}, {"entry_point", job.entry_point}}, pair.candidate_output,
                answers.write.get(), calls.read.get(), -1));
  FL_TRY(
      launch(pair.checker, std::move(checker_command),
             {{"prompt", job.prompt}, {"test", job.test}, {"entry_point", job.entry_point}, {"nonce", nonce}},
             pair.checker_output, calls.write.get(), answers.read.get(), pair.verdict.write.get()));
  pair.candidate_output.write.reset();
  pair.checker_output.write.reset();
  pair.verdict.write.reset();
  return {};
}

VerdictKind kind_of(std::string_view word) {
  if (word == "wrong") {
    return VerdictKind::wrong;
  }
  if (word == "raised" || word == "no_function" || word == "not_data") {
    return VerdictKind::raised;
  }
  return word == "ended" ? VerdictKind::killed : VerdictKind::harness;
}

// How a candidate that closed the pipe early came to its end.
void explain_end(Verdict& verdict, Child& candidate, double seconds_left) {
  constexpr int kBySignal = 128;
  pollfd wait{candidate.pidfd.get(), POLLIN, 0};
  if (::poll(&wait, 1, static_cast<int>(std::max(seconds_left, 0.0) * 1000)) <= 0) {
    verdict.kind = VerdictKind::timeout;
    verdict.detail = "closed its pipe and ran on";
    return;
  }
  const int code = wait_child(candidate);
  if (code == kBySignal + SIGXCPU || code == kBySignal + SIGKILL) {
    verdict.kind = VerdictKind::timeout;
    verdict.detail = "the CPU time limit";
  } else if (code > kBySignal) {
    verdict.detail = fmt::format("ended by signal {}", code - kBySignal);
  } else {
    verdict.kind = VerdictKind::wrong;
    verdict.detail = fmt::format("ended with exit status {} before it answered", code);
  }
}

}  // namespace

Verdict Sandbox::run(const Job& job) const {
  Verdict verdict;
  const Clock::time_point start_time = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start_time).count(); };
  const auto harness_fault = [&](const Error& error) {
    verdict.kind = VerdictKind::harness;
    verdict.detail = error.message;
    return verdict;
  };
  const Result<std::string> nonce = make_nonce();
  if (!nonce) {
    return harness_fault(nonce.error());
  }
  Pair pair;
  if (const Status status = start(pair, job, *nonce, filter_, limits_, command(candidate_program()),
                                  command(checker_program()));
      !status) {
    return harness_fault(status.error());
  }
  const double wall_limit = double(limits_.cpu_seconds) * kWallFactor;
  std::string said;
  std::string checker_text;
  size_t printed = 0;
  size_t checker_printed = 0;
  size_t verdict_bytes = 0;
  enum { kOutput, kCheckerOutput, kVerdict, kChecker, kCount };
  std::array<pollfd, kCount> wait{{{pair.candidate_output.read.get(), POLLIN, 0},
                                   {pair.checker_output.read.get(), POLLIN, 0},
                                   {pair.verdict.read.get(), POLLIN, 0},
                                   {pair.checker.pidfd.get(), POLLIN, 0}}};
  while (true) {
    const double left = wall_limit - elapsed();
    if (left <= 0) {
      verdict.kind = VerdictKind::timeout;
      verdict.detail = fmt::format("the wall-clock limit of {} s", wall_limit);
      break;
    }
    if (::poll(wait.data(), wait.size(), static_cast<int>(left * 1000) + 1) <= 0) {
      continue;
    }
    if (wait[kOutput].revents != 0 && !drain(wait[kOutput].fd, verdict.output, printed, kMaxKeptOutput)) {
      wait[kOutput].fd = -1;
    }
    if (wait[kCheckerOutput].revents != 0 &&
        !drain(wait[kCheckerOutput].fd, checker_text, checker_printed, kMaxKeptOutput)) {
      wait[kCheckerOutput].fd = -1;
    }
    if (wait[kVerdict].revents != 0 && !drain(wait[kVerdict].fd, said, verdict_bytes, kMaxVerdictBytes)) {
      wait[kVerdict].fd = -1;
    }
    if (printed + checker_printed > kMaxOutputBytes) {
      verdict.kind = VerdictKind::output_limit;
      verdict.detail = fmt::format("printed more than {} bytes", kMaxOutputBytes);
      break;
    }
    if (wait[kChecker].revents != 0 && wait[kVerdict].fd < 0) {
      const int code = wait_child(pair.checker);
      if (code == 0 && said == *nonce + "\n") {
        verdict.kind = VerdictKind::passed;
        break;
      }
      const Json json = Json::parse(said, nullptr, false);
      if (code != 0 || !json.is_object()) {
        verdict.kind =
            code == 128 + SIGXCPU || code == 128 + SIGKILL ? VerdictKind::timeout : VerdictKind::harness;
        verdict.detail = fmt::format("the checker ended with {}: {}", code, checker_text);
        break;
      }
      verdict.kind = kind_of(json.value("kind", "harness"));
      verdict.detail = json.value("detail", "");
      if (json.value("kind", "") == "ended") {
        explain_end(verdict, pair.candidate, wall_limit - elapsed());
      }
      break;
    }
  }
  verdict.seconds = elapsed();
  return verdict;
}

}  // namespace fl::eval
