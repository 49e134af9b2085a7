#include "eval/sandbox/sandbox.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "eval/sandbox/harness.h"
#include "eval/sandbox/seccomp.h"

namespace fl::eval {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPython = "/usr/bin/python3";
constexpr int kFilterFd = 9;
constexpr size_t kScratchBytes = size_t{64} << 20;
constexpr const char* kUser = "65534";  // nobody

// A program of our own, not generated: its standard output, or an error.
Result<std::string> output_of(std::vector<std::string> argv) {
  FL_ASSIGN(Pipe pipe, make_pipe());
  ChildSpec spec;
  spec.argv = std::move(argv);
  spec.fds = {{pipe.write.get(), 1}};
  FL_ASSIGN(Child child, start_child(spec));
  pipe.write.reset();
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t n = ::read(pipe.read.get(), buffer.data(), buffer.size()); n > 0;
       n = ::read(pipe.read.get(), buffer.data(), buffer.size())) {
    text.append(buffer.data(), static_cast<size_t>(n));
  }
  if (const int code = wait_child(child); code != 0) {
    return fail(ErrorCode::sandbox, fmt::format("{} ended with {}", spec.argv[0], code));
  }
  return text;
}

std::string find_program(const char* name) {
  for (const char* dir : {"/usr/bin/", "/usr/local/bin/", "/bin/"}) {
    if (::access((std::string(dir) + name).c_str(), X_OK) == 0) {
      return std::string(dir) + name;
    }
  }
  return {};
}

struct Probe {
  const char* name;
  const char* body;  ///< of a function that returns True when the sandbox let it through
};

// The start-up probes; tests/eval/sandbox_test.cpp runs the full list.
constexpr std::array kProbes{
    Probe{"network",
          "    import socket\n    socket.socket(socket.AF_INET, socket.SOCK_STREAM)\n    return True\n"},
    Probe{"a second process",
          "    import os\n    pid = os.fork()\n    if pid == 0:\n        os._exit(0)\n    return True\n"},
    Probe{"reading the host's files", "    return len(open('/etc/passwd').read()) > 0\n"},
    Probe{"writing outside the scratch folder",
          "    open('/usr/lib/probe', 'w').write('x')\n    return True\n"},
    Probe{"the host's processes", "    import os\n    return len(os.listdir('/proc')) > 0\n"}};

Job probe_job(const std::string& body) {
  Job job;
  job.entry_point = "probe";
  job.prompt = "def probe():\n    \"\"\"Start-up probe.\"\"\"\n";
  job.source = "def probe():\n" + body;
  job.test = "def check(candidate):\n    assert candidate() is True\n";
  return job;
}

}  // namespace

std::string_view verdict_name(VerdictKind kind) {
  switch (kind) {
    case VerdictKind::passed:
      return "passed";
    case VerdictKind::wrong:
      return "wrong";
    case VerdictKind::raised:
      return "raised";
    case VerdictKind::timeout:
      return "timeout";
    case VerdictKind::output_limit:
      return "output_limit";
    case VerdictKind::killed:
      return "killed";
    case VerdictKind::harness:
      return "harness";
    case VerdictKind::not_run:
      return "not_run";
  }
  return "harness";
}

Result<Sandbox> Sandbox::open(Limits limits) {
  Sandbox sandbox;
  sandbox.limits_ = limits;
  sandbox.bwrap_ = find_program("bwrap");
  if (sandbox.bwrap_.empty()) {
    return fail(ErrorCode::sandbox,
                "the sandbox needs bubblewrap, which is not installed (Debian package 'bubblewrap'); "
                "generated code runs in it or not at all");
  }
  FL_TRY(sandbox.find_interpreter());
  FL_ASSIGN(sandbox.filter_, make_seccomp_filter());
  FL_TRY(sandbox.self_test());
  return sandbox;
}

Status Sandbox::find_interpreter() {
  if (::access(kPython, X_OK) != 0) {
    return fail(ErrorCode::sandbox,
                fmt::format("running Python answers needs {}, which is not there (Debian package 'python3')",
                            kPython));
  }
  FL_ASSIGN(const std::string text,
            output_of({kPython, "-S", "-c",
                       "import os, sys, sysconfig\n"
                       "print(os.path.realpath(sys.executable), sysconfig.get_path('stdlib'),"
                       " sysconfig.get_config_var('MULTIARCH'), sys.version.split()[0], sep='\\n')"}));
  std::array<std::string, 4> lines;
  size_t at = 0;
  for (std::string& line : lines) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) {
      return fail(ErrorCode::sandbox, fmt::format("{} does not say where its library lies", kPython));
    }
    line = text.substr(at, end - at);
    at = end + 1;
  }
  python_ = lines[0];
  read_only_ = {python_, lines[1], "/usr/lib/" + lines[2]};
  utsname kernel{};
  ::uname(&kernel);
  fingerprint_ = fmt::format(
      "bubblewrap namespaces (user pid mount net ipc uts cgroup), seccomp allow-list, rlimits; "
      "Linux {} {}; Python {}; CPU {} s, memory {} MiB",
      kernel.release, kernel.machine, lines[3], limits_.cpu_seconds, limits_.memory_bytes >> 20);
  return {};
}

std::vector<std::string> Sandbox::command(std::string_view program) const {
  std::vector<std::string> argv{bwrap_,
                                "--unshare-all",
                                "--unshare-user",
                                "--uid",
                                kUser,
                                "--gid",
                                kUser,
                                "--die-with-parent",
                                "--new-session",
                                "--cap-drop",
                                "ALL",
                                "--clearenv",
                                "--setenv",
                                "PYTHONHASHSEED",
                                "0",
                                "--setenv",
                                "LC_ALL",
                                "C.UTF-8",
                                "--setenv",
                                "HOME",
                                "/scratch",
                                "--setenv",
                                "PATH",
                                "/usr/bin"};
  const auto add = [&](std::initializer_list<std::string> words) { argv.insert(argv.end(), words); };
  for (const std::string& path : read_only_) {
    add({"--ro-bind", path, path});
  }
  for (const char* path : {"/lib", "/lib64"}) {
    std::error_code ignored;
    if (fs::is_symlink(path, ignored)) {
      add({"--symlink", fs::read_symlink(path, ignored).string(), path});
    } else if (fs::exists(path, ignored)) {
      add({"--ro-bind", path, path});
    }
  }
  if (fs::exists("/usr/lib64")) {
    add({"--ro-bind", "/usr/lib64", "/usr/lib64"});
  }
  add({"--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/zero", "/dev/zero", "--dev-bind",
       "/dev/urandom", "/dev/urandom"});
  add({"--size", std::to_string(kScratchBytes), "--tmpfs", "/scratch", "--remount-ro", "/", "--chdir",
       "/scratch"});
  add({"--seccomp", std::to_string(kFilterFd), "--", python_, "-P", "-s", "-S", "-B", "-X", "utf8", "-c",
       std::string(program)});
  return argv;
}

Status Sandbox::self_test() {
  const Verdict harmless = run(probe_job("    return True\n"));
  if (harmless.kind != VerdictKind::passed) {
    // The first line that was said: bubblewrap names the mechanism.
    const std::string& said = harmless.output.empty() ? harmless.detail : harmless.output;
    return fail(
        ErrorCode::sandbox,
        fmt::format("the sandbox does not start here: {}. Unprivileged user namespaces, mounts inside them "
                    "and seccomp are needed; in a container allow them, or keep the answers with "
                    "--answers-only and score them on another machine",
                    said.substr(0, said.find('\n'))));
  }
  for (const Probe& probe : kProbes) {
    const Verdict verdict = run(probe_job(probe.body));
    if (verdict.kind == VerdictKind::passed || verdict.kind == VerdictKind::harness) {
      return fail(ErrorCode::sandbox,
                  fmt::format("the sandbox does not hold here: the probe '{}' gave '{}'; nothing is run",
                              probe.name, verdict_name(verdict.kind)));
    }
    fingerprint_ += fmt::format("; {} stopped", probe.name);
  }
  return {};
}

}  // namespace fl::eval
