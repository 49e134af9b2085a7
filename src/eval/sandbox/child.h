// A child process with chosen descriptors and limits, and descriptors that close themselves.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace fl::eval {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

struct Pipe {
  Fd read;
  Fd write;
};
/// Both ends close-on-exec.
Result<Pipe> make_pipe();
/// A sealed file in memory that holds `bytes`, rewound.
Result<Fd> make_memory_file(std::string_view bytes);

struct Limits {
  long cpu_seconds = 10;                  ///< SIGXCPU; SIGKILL one second later
  size_t memory_bytes = size_t{1} << 30;  ///< address space
  size_t file_bytes = size_t{16} << 20;   ///< of one file written
  int open_files = 64;
};

struct ChildSpec {
  std::vector<std::string> argv;         ///< argv[0] is a path
  std::vector<std::pair<int, int>> fds;  ///< (ours, number in the child); all others are closed there
  Limits limits;
};

struct Child {
  pid_t pid = -1;
  Fd pidfd;  ///< readable when the process has ended
};

/// Only async-signal-safe calls between fork and exec, so that threads of the caller do no harm.
Result<Child> start_child(const ChildSpec& spec);

/// Reaps: the exit code, or 128 + the signal.
int wait_child(Child& child);

}  // namespace fl::eval
