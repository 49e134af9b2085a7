#include "eval/sandbox/seccomp.h"

#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include <fmt/format.h>

#include "eval/sandbox/child.h"

namespace fl::eval {
namespace {

// By name: a call that this architecture does not have is skipped.
constexpr std::array kAllowed{
    // memory
    "brk", "mmap", "munmap", "mprotect", "mremap", "madvise", "membarrier",
    // files, all inside the sandbox's own root
    "read", "write", "readv", "writev", "pread64", "pwrite64", "open", "openat", "close", "close_range",
    "lseek", "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat",
    "faccessat2", "readlink", "readlinkat", "getdents64", "getcwd", "chdir", "mkdir", "mkdirat", "rmdir",
    "unlink", "unlinkat", "rename", "renameat", "renameat2", "ftruncate", "truncate", "fsync", "fdatasync",
    "umask", "dup", "dup2", "dup3", "fcntl", "flock", "pipe", "pipe2", "utimensat",
    // waiting (wait4 is for the first process of the namespace, which runs under the same filter)
    "wait4", "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "eventfd2", "nanosleep", "clock_nanosleep", "futex", "sched_yield", "pause",
    // time, identity, limits
    "clock_gettime", "clock_getres", "gettimeofday", "time", "times", "getrusage", "getrlimit", "prlimit64",
    "setrlimit", "sysinfo", "uname", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid",
    "getresuid", "getresgid", "getgroups", "getpgrp", "getpgid", "getsid", "sched_getaffinity", "getcpu",
    "getrandom",
    // signals to itself
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "sigaltstack",
    "tgkill", "alarm", "setitimer", "getitimer", "restart_syscall",
    // start and end of the interpreter and its threads
    "execve", "arch_prctl", "set_tid_address", "set_robust_list", "get_robust_list", "rseq", "exit",
    "exit_group"};

constexpr std::array kFatal{"ptrace",
                            "process_vm_readv",
                            "process_vm_writev",
                            "bpf",
                            "perf_event_open",
                            "userfaultfd",
                            "keyctl",
                            "add_key",
                            "request_key",
                            "io_uring_setup",
                            "io_uring_enter",
                            "io_uring_register",
                            "mount",
                            "umount2",
                            "move_mount",
                            "open_tree",
                            "fsopen",
                            "fsmount",
                            "pivot_root",
                            "chroot",
                            "open_by_handle_at",
                            "name_to_handle_at",
                            "unshare",
                            "setns",
                            "kexec_load",
                            "kexec_file_load",
                            "init_module",
                            "finit_module",
                            "delete_module",
                            "reboot",
                            "swapon",
                            "swapoff",
                            "acct",
                            "settimeofday",
                            "clock_settime",
                            "clock_adjtime",
                            "adjtimex",
                            "iopl",
                            "ioperm",
                            "pidfd_getfd",
                            "process_madvise",
                            "kcmp"};

using Context = std::unique_ptr<void, decltype(&seccomp_release)>;

Status add_rules(scmp_filter_ctx context) {
  const auto add = [&](uint32_t action, const char* name) -> Status {
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || number < 0) {
      return {};
    }
    if (const int error = seccomp_rule_add(context, action, number, 0); error != 0) {
      return fail(ErrorCode::sandbox, fmt::format("seccomp rule for {}: error {}", name, -error));
    }
    return {};
  };
  for (const char* name : kAllowed) {
    FL_TRY(add(SCMP_ACT_ALLOW, name));
  }
  for (const char* name : kFatal) {
    FL_TRY(add(SCMP_ACT_KILL_PROCESS, name));
  }
  // clone3 passes its flags in memory, where no filter sees them: libc falls back to clone, whose flags say
  // "thread".
  FL_TRY(add(SCMP_ACT_ERRNO(ENOSYS), "clone3"));
  int error = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
  // Terminal questions that Python asks of its standard streams, and close-on-exec; never TIOCSTI.
  for (const unsigned long request : {TCGETS, TIOCGWINSZ, FIOCLEX, FIONCLEX, FIONBIO}) {
    error |= seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, request));
  }
  if (error != 0) {
    return fail(ErrorCode::sandbox, "seccomp: a rule with arguments was refused");
  }
  return {};
}

}  // namespace

Result<std::string> make_seccomp_filter() {
  const Context context(seccomp_init(SCMP_ACT_ERRNO(EPERM)), seccomp_release);
  if (!context) {
    return fail(ErrorCode::sandbox, "libseccomp does not start on this kernel");
  }
  FL_TRY(add_rules(context.get()));
  const Fd file(::memfd_create("freelunch-seccomp", MFD_CLOEXEC));
  if (!file || seccomp_export_bpf(context.get(), file.get()) != 0) {
    return fail(ErrorCode::sandbox, "the seccomp filter could not be compiled");
  }
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  std::string bytes(static_cast<size_t>(size), '\0');
  if (::pread(file.get(), bytes.data(), bytes.size(), 0) != size) {
    return fail(ErrorCode::sandbox, "the seccomp filter could not be read back");
  }
  return bytes;
}

}  // namespace fl::eval
