#include "eval/sandbox/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

namespace fl::eval {
namespace {

constexpr int kFirstFreeFd = 64;  // our ends live above every number that a child may be given
constexpr int kExecFailed = 127;

tl::unexpected<Error> os_error(const char* what) {
  return fail(ErrorCode::io, fmt::format("{}: {}", what, std::strerror(errno)));
}

void limit(int resource, rlim_t soft, rlim_t hard) {
  const rlimit value{soft, hard};
  ::setrlimit(static_cast<__rlimit_resource>(resource), &value);
}

// In the child, after fork: no allocation, no locks.
[[noreturn]] void become(const ChildSpec& spec, char* const* argv, char* const* environment, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) {
    ::_exit(kExecFailed);
  }
  for (const auto& [ours, theirs] : spec.fds) {
    if (::dup2(ours, theirs) < 0) {
      ::_exit(kExecFailed);
    }
  }
  const Limits& limits = spec.limits;
  limit(RLIMIT_CPU, static_cast<rlim_t>(limits.cpu_seconds), static_cast<rlim_t>(limits.cpu_seconds) + 1);
  limit(RLIMIT_AS, limits.memory_bytes, limits.memory_bytes);
  limit(RLIMIT_DATA, limits.memory_bytes, limits.memory_bytes);
  limit(RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes);
  limit(RLIMIT_NOFILE, static_cast<rlim_t>(limits.open_files), static_cast<rlim_t>(limits.open_files));
  limit(RLIMIT_CORE, 0, 0);
  limit(RLIMIT_MEMLOCK, 0, 0);
  ::execve(argv[0], argv, environment);
  ::_exit(kExecFailed);
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) {
    ::close(fd_);
    fd_ = -1;
  }
}

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return os_error("pipe");
  }
  Pipe low{Fd(ends[0]), Fd(ends[1])};
  Pipe pipe{Fd(::fcntl(ends[0], F_DUPFD_CLOEXEC, kFirstFreeFd)),
            Fd(::fcntl(ends[1], F_DUPFD_CLOEXEC, kFirstFreeFd))};
  if (!pipe.read || !pipe.write) {
    return os_error("pipe");
  }
  return pipe;
}

Result<Fd> make_memory_file(std::string_view bytes) {
  const Fd low(::memfd_create("freelunch", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  Fd file(low ? ::fcntl(low.get(), F_DUPFD_CLOEXEC, kFirstFreeFd) : -1);
  if (!file) {
    return os_error("memfd_create");
  }
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(file.get(), bytes.data() + done, bytes.size() - done);
    if (n <= 0) {
      return os_error("write to memory file");
    }
    done += static_cast<size_t>(n);
  }
  if (::lseek(file.get(), 0, SEEK_SET) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    return os_error("seal memory file");
  }
  return file;
}

Result<Child> start_child(const ChildSpec& spec) {
  std::vector<char*> argv;
  for (const std::string& word : spec.argv) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  char* environment[] = {nullptr};
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return os_error("fork");
  }
  if (pid == 0) {
    become(spec, argv.data(), environment, parent);
  }
  Child child{pid, Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)))};
  if (!child.pidfd) {
    ::kill(pid, SIGKILL);
    wait_child(child);
    return os_error("pidfd_open");
  }
  return child;
}

int wait_child(Child& child) {
  int status = 0;
  while (::waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  child.pid = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace fl::eval
