#include "client/server_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include <fmt/format.h>

namespace fl::client {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr int kLogPollMs = 50;
constexpr size_t kErrorLogLines = 8;
constexpr int kExitDoesNotFit = 4;  // freelunch's documented exit code
constexpr int kExitNotRun = 127;

}  // namespace

Result<uint16_t> free_port() {
  const int probe = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool ok = probe >= 0 && ::bind(probe, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                  ::getsockname(probe, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  const int error = errno;
  if (probe >= 0) {
    ::close(probe);
  }
  if (!ok) {
    return fail(ErrorCode::address, fmt::format("no free port on 127.0.0.1: {}", std::strerror(error)));
  }
  return ntohs(address.sin_port);
}

Result<std::vector<std::string>> split_command(std::string_view line) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else if (c == '\\' && quote == '"' && i + 1 < line.size()) {
        word += line[++i];
      } else {
        word += c;
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      in_word = true;
    } else if (c == '\\' && i + 1 < line.size()) {
      word += line[++i];
      in_word = true;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (in_word) {
        words.push_back(std::move(word));
        word.clear();
        in_word = false;
      }
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote != 0) {
    return fail(ErrorCode::invalid_argument, fmt::format("a closing {} is missing in: {}", quote, line));
  }
  if (in_word) {
    words.push_back(std::move(word));
  }
  if (words.empty()) {
    return fail(ErrorCode::invalid_argument, "a command is expected, found an empty line");
  }
  return words;
}

std::string join_command(const std::vector<std::string>& words) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:=,@%{}";
  std::string out;
  for (const std::string& word : words) {
    if (!out.empty()) {
      out += ' ';
    }
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) {
      out += word;
      continue;
    }
    out += '\'';
    for (const char c : word) {
      out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    out += '\'';
  }
  return out;
}

struct ServerProcess::State {
  pid_t pid = -1;
  int log_fd = -1;
  std::optional<int> wait_status;  // set when it was reaped
  mutable std::mutex mutex;
  std::string log;
  std::atomic<bool> stop_reading = false;
  std::thread reader;

  void read_log() {
    std::array<char, 4096> buffer;
    // A daemon that the server left behind may hold the pipe open: the end of the file is not waited for.
    while (true) {
      pollfd readable{log_fd, POLLIN, 0};
      if (::poll(&readable, 1, kLogPollMs) <= 0) {
        if (stop_reading) {
          return;
        }
        continue;
      }
      const ssize_t n = ::read(log_fd, buffer.data(), buffer.size());
      if (n == 0 || (n < 0 && errno != EINTR)) {
        return;
      }
      if (n < 0) {
        continue;
      }
      const std::lock_guard lock(mutex);
      log.append(buffer.data(), static_cast<size_t>(n));
      if (log.size() > 2 * kLogBytes) {
        log.erase(0, log.size() - kLogBytes);
      }
    }
  }

  bool reap(bool block) {
    if (wait_status) {
      return true;
    }
    int status = 0;
    const pid_t done = ::waitpid(pid, &status, block ? 0 : WNOHANG);
    if (done == pid) {
      wait_status = status;
      return true;
    }
    return false;
  }
};

ServerProcess::ServerProcess(std::unique_ptr<State> state) : state_(std::move(state)) {}
ServerProcess::ServerProcess(ServerProcess&&) noexcept = default;

ServerProcess& ServerProcess::operator=(ServerProcess&& other) noexcept {
  if (this != &other) {
    end();
    state_ = std::move(other.state_);
  }
  return *this;
}

ServerProcess::~ServerProcess() {
  end();
}

Result<ServerProcess> ServerProcess::start(const std::vector<std::string>& words) {
  FL_CHECK(!words.empty(), "a command has a program");
  std::array<int, 2> log{};
  std::array<int, 2> exec_error{};
  if (::pipe2(log.data(), O_CLOEXEC) != 0) {
    return fail(ErrorCode::io, fmt::format("no pipe: {}", std::strerror(errno)));
  }
  if (::pipe2(exec_error.data(), O_CLOEXEC) != 0) {
    const int error = errno;
    ::close(log[0]);
    ::close(log[1]);
    return fail(ErrorCode::io, fmt::format("no pipe: {}", std::strerror(error)));
  }
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (const std::string& word : words) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    // Only async-signal-safe calls from here. A group of its own: Ctrl-C in the terminal is ours to handle.
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      ::_exit(kExitNotRun);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGINT, SIG_DFL);
    ::signal(SIGTERM, SIG_DFL);
    ::signal(SIGPIPE, SIG_DFL);
    ::signal(SIGXFSZ, SIG_DFL);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, STDIN_FILENO);
    ::dup2(log[1], STDOUT_FILENO);
    ::dup2(log[1], STDERR_FILENO);
    ::execvp(argv[0], argv.data());
    const int error = errno;
    if (::write(exec_error[1], &error, sizeof error) < 0) {
      ::_exit(kExitNotRun);
    }
    ::_exit(kExitNotRun);
  }
  const int fork_error = errno;
  ::close(log[1]);
  ::close(exec_error[1]);
  if (pid < 0) {
    ::close(log[0]);
    ::close(exec_error[0]);
    return fail(ErrorCode::io, fmt::format("cannot start a process: {}", std::strerror(fork_error)));
  }
  int error = 0;
  ssize_t n = 0;
  do {
    n = ::read(exec_error[0], &error, sizeof error);
  } while (n < 0 && errno == EINTR);
  ::close(exec_error[0]);
  auto state = std::make_unique<State>();
  state->pid = pid;
  state->log_fd = log[0];
  if (n > 0) {
    state->reap(true);
    ::close(log[0]);
    return fail(ErrorCode::not_found, fmt::format("cannot run '{}': {}", words[0], std::strerror(error)));
  }
  state->reader = std::thread([raw = state.get()] { raw->read_log(); });
  return ServerProcess(std::move(state));
}

Status ServerProcess::wait_ready(const Endpoint& endpoint, double seconds, const std::atomic<bool>* cancel) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  Limits limits;
  limits.connect_seconds = 2;
  limits.total_seconds = 5;
  limits.cancel = cancel;
  while (true) {
    if (!running()) {
      const int status = *state_->wait_status;
      const bool exited = WIFEXITED(status);
      const std::string how = exited ? fmt::format("with exit code {}", WEXITSTATUS(status))
                                     : fmt::format("by signal {}", WTERMSIG(status));
      const bool no_room = exited && WEXITSTATUS(status) == kExitDoesNotFit;
      return fail(no_room ? ErrorCode::does_not_fit : ErrorCode::device,
                  fmt::format("the server ended {} before it was ready: {}", how, log_tail(kErrorLogLines)));
    }
    if (cancel != nullptr && cancel->load()) {
      return fail(ErrorCode::unavailable, "interrupted while the server was starting");
    }
    const HttpResult health = http_get(endpoint, "/health", limits);
    if (health.response.status == 200) {
      return {};
    }
    if (health.response.status == 404 && http_get(endpoint, "/v1/models", limits).response.status == 200) {
      return {};
    }
    if (Clock::now() > deadline) {
      return fail(ErrorCode::network, fmt::format("the server at {} was not ready after {:.0f} s: {}",
                                                  endpoint.url, seconds, log_tail(kErrorLogLines)));
    }
    std::this_thread::sleep_for(kPoll);
  }
}

bool ServerProcess::running() {
  return state_ != nullptr && !state_->reap(false);
}

void ServerProcess::end() {
  if (state_ == nullptr) {
    return;
  }
  // While the leader is not reaped its group's number cannot belong to anybody else.
  if (!state_->wait_status) {
    ::kill(-state_->pid, SIGTERM);
    const auto deadline = Clock::now() + std::chrono::duration<double>(kGraceSeconds);
    while (!state_->reap(false)) {
      if (Clock::now() > deadline) {
        ::kill(-state_->pid, SIGKILL);
        state_->reap(true);
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  ::kill(-state_->pid, SIGKILL);  // what is left of its group
  state_->stop_reading = true;
  state_->reader.join();
  ::close(state_->log_fd);
  state_.reset();
}

pid_t ServerProcess::pid() const {
  return state_ != nullptr ? state_->pid : -1;
}

std::string ServerProcess::log_tail(size_t max_lines) const {
  if (state_ == nullptr) {
    return {};
  }
  const std::lock_guard lock(state_->mutex);
  std::string_view log = state_->log;
  while (!log.empty() && log.back() == '\n') {
    log.remove_suffix(1);
  }
  size_t at = log.size();
  for (size_t i = 0; i < max_lines && at != std::string_view::npos && at > 0; ++i) {
    at = log.rfind('\n', at - 1);
  }
  return std::string(at == std::string_view::npos || at == 0 ? log : log.substr(at + 1));
}

}  // namespace fl::client
