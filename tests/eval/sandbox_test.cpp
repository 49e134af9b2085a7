// Programs that try to get out, to cheat or to do harm, run in the very sandbox that scores answers.
#include "eval/sandbox/sandbox.h"

#include <dirent.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fl::eval {
namespace {

const Sandbox& sandbox() {
  static const Sandbox kSandbox = [] {
    Limits limits;
    limits.cpu_seconds = 2;
    auto opened = Sandbox::open(limits);
    if (!opened) {
      throw std::runtime_error(opened.error().message);
    }
    return std::move(*opened);
  }();
  return kSandbox;
}

Job job(const std::string& source,
        const std::string& test = "def check(candidate):\n    assert candidate(2, 3) == 5\n") {
  Job job;
  job.entry_point = "add";
  job.prompt = "def add(a, b):\n    \"\"\"Add.\"\"\"\n";
  job.source = source;
  job.test = test;
  return job;
}

Verdict run(const std::string& source) {
  return sandbox().run(job(source));
}

TEST(Sandbox, RightAnswersPassAndWrongOnesDoNot) {
  EXPECT_EQ(run("def add(a, b):\n    return a + b\n").kind, VerdictKind::passed);
  EXPECT_EQ(run("def add(a, b):\n    return a - b\n").kind, VerdictKind::wrong);
  EXPECT_EQ(run("def add(a, b):\n    raise ValueError('no')\n").kind, VerdictKind::raised);
  EXPECT_EQ(run("def add(a, b:\n").kind, VerdictKind::raised);
  EXPECT_EQ(run("def plus(a, b):\n    return a + b\n").kind, VerdictKind::raised);
  EXPECT_EQ(run("").kind, VerdictKind::raised);
}

TEST(Sandbox, PlainDataOfEveryKindCrosses) {
  const std::string test =
      "def check(candidate):\n"
      "    for x in (0, -1, 10 ** 400, 1.5, float('inf'), 'é\\n\\ud800', b'ab', None, True, (1, [2]), {1: "
      "'a', (2,): [3.0]}, {1, 2},\n"
      "              frozenset([3]), complex(1, -2)):\n"
      "        y = candidate(x)\n"
      "        assert y == x and type(y) is type(x), (x, y)\n"
      "    y = candidate(float('nan'))\n"
      "    assert y != y\n"
      "    assert candidate(x=1) == 1\n";
  const Verdict verdict = sandbox().run(job("def add(x):\n    return x\n", test));
  EXPECT_EQ(verdict.kind, VerdictKind::passed) << verdict.detail;
}

TEST(Sandbox, WhatHonestProgramsNeedWorks) {
  EXPECT_EQ(
      run("import threading, tempfile, hashlib, random, datetime, re, json, math, collections, itertools\n"
          "def add(a, b):\n"
          "    out = []\n"
          "    t = threading.Thread(target=lambda: out.append(a + b))\n"
          "    t.start()\n"
          "    t.join()\n"
          "    open('note', 'w').write('x')\n"
          "    print('note', hashlib.md5(b'x').hexdigest(), datetime.date.today())\n"
          "    return out[0]\n")
          .kind,
      VerdictKind::passed);
}

TEST(Sandbox, ATestMayExpectAnException) {
  const std::string test =
      "def check(candidate):\n    try:\n        candidate(1, 2)\n    except ValueError:\n        return\n    "
      "assert False\n";
  EXPECT_EQ(sandbox().run(job("def add(a, b):\n    raise ValueError('x')\n", test)).kind,
            VerdictKind::passed);
  EXPECT_EQ(sandbox().run(job("def add(a, b):\n    raise KeyError('x')\n", test)).kind, VerdictKind::raised);
}

// Each body runs inside add(a, b) and returns 5, the right answer, only if its attempt got through; an
// attempt that raises or is killed is contained. A cheat that reaches "passed" without computing the sum
// fails here in the same way.
struct Probe {
  const char* name;
  const char* body;
};

const Probe kProbes[] = {
    {"tcp socket", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM)\nreturn 5"},
    {"udp socket", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nreturn 5"},
    {"unix socket", "import socket\nsocket.socket(socket.AF_UNIX)\nreturn 5"},
    {"abstract socket",
     "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0freelunch')\nreturn 5"},
    {"socket pair", "import socket\nsocket.socketpair()\nreturn 5"},
    {"dns", "import socket\nsocket.getaddrinfo('localhost', 80)\nreturn 5"},
    {"write to the root", "open('/hole', 'w').write('x')\nreturn 5"},
    {"write to the library", "open('/usr/lib/hole', 'w').write('x')\nreturn 5"},
    {"read the home", "import os\nreturn 5 if os.listdir('/root') or os.listdir('/home') else 0"},
    {"read passwords", "open('/etc/passwd').read()\nreturn 5"},
    {"read the tasks",
     "import os\nfor base in ('/work', '/tmp', '/mnt', '/srv', '/opt', '/var'):\n    if "
     "os.path.exists(base): return 5\nreturn 0"},
    {"processes of others", "import os\nos.listdir('/proc/1')\nreturn 5"},
    {"memory of the parent", "import os\nopen('/proc/%d/mem' % os.getppid(), 'rb')\nreturn 5"},
    {"signal to the parent", "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\nreturn 5"},
    {"signal to all", "import os, signal\nos.kill(-1, signal.SIGKILL)\nreturn 5"},
    {"ptrace", "import ctypes\nc = ctypes.CDLL(None)\nreturn 5 if c.ptrace(0, 0, 0, 0) == 0 else 0"},
    {"fork bomb", "import os\nfor _ in range(10000):\n    os.fork()\nreturn 5"},
    {"subprocess", "import subprocess\nsubprocess.run(['/usr/bin/python3', '-c', ''])\nreturn 5"},
    {"posix_spawn", "import os, sys\nos.posix_spawn('/usr/bin/true', ['true'], {})\nreturn 5"},
    {"daemon", "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\nreturn 5"},
    {"memory bomb", "x = bytearray(8 << 30)\nreturn 5"},
    {"disk bomb", "for i in range(100):\n    open('f%d' % i, 'wb').write(b'x' * (1 << 20))\nreturn 5"},
    {"one large file", "open('f', 'wb').write(b'x' * (32 << 20))\nreturn 5"},
    {"stdout flood", "import sys\nfor _ in range(1024):\n    sys.stdout.write('x' * (1 << 20))\nreturn 5"},
    {"endless loop", "while True:\n    pass"},
    {"endless loop in C", "return 5 if 9 ** 9 ** 9 else 0"},
    {"loop that catches everything",
     "while True:\n    try:\n        while True: pass\n    except BaseException: pass"},
    {"ignored signals",
     "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except "
     "Exception: pass\nwhile True: pass"},
    {"sys.exit(0)", "import sys\nsys.exit(0)"},
    {"os._exit(0)", "import os\nos._exit(0)"},
    {"faked markers",
     "import os\nfor fd in range(1, 64):\n    try: os.write(fd, b'passed\\n')\n    except OSError: "
     "pass\nos._exit(0)"},
    {"equal to everything", "class Any:\n    def __eq__(self, other): return True\nreturn Any()"},
    {"an int that is equal to everything",
     "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\nreturn Any(4)"},
    {"frame walk for the expected value",
     "import sys\nf = sys._getframe()\nwhile f:\n    if '5' in repr(f.f_locals) and 'check' in "
     "repr(f.f_globals.keys()): return 5\n    f = f.f_back\nreturn 0"},
    {"garbage collector walk for the test",
     "import gc\nreturn 5 if any('candidate(2, 3)' in o for o in gc.get_objects() if type(o) is str) or "
     "any(isinstance(o, dict) and 'nonce' in o for o in gc.get_objects()) else 0"},
    {"raw unshare", "import ctypes\nreturn 5 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 0"},
    {"raw io_uring_setup", "import ctypes\nreturn 5 if ctypes.CDLL(None).syscall(425, 1, 0) >= 0 else 0"},
    {"raw keyctl", "import ctypes\nreturn 5 if ctypes.CDLL(None).syscall(250, 0, -3, 0) >= 0 else 0"},
    {"x32 system call", "import ctypes\nreturn 5 if ctypes.CDLL(None).syscall(0x40000000 + 39) > 0 else 0"},
    // mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
    {"32-bit system call",
     "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
     "m.write(bytes.fromhex('b814000000cd80c3'))\n"
     "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
     "return 5 if f() > 0 else 0"},
    {"core dump",
     "import os, resource, signal\nresource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))\n"
     "return 5"},
    {"a double fork that sleeps on",
     "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n"
     "    os._exit(0)\nreturn 5"},
    {"a program of the sandbox's own host", "import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])\nreturn 5"},
    {"a link to the host's files",
     "import os\nos.symlink('/proc/1/root', 'x')\nreturn 5 if os.listdir('x') else 0"},
    {"import hook left for the checker",
     "import sys\nclass Hook:\n    def find_spec(self, *rest): return None\nsys.meta_path.insert(0, Hook())\n"
     "import builtins\nbuiltins.len = lambda x: 5\nreturn 6"},
    {"mount",
     "import ctypes\nreturn 5 if ctypes.CDLL(None).mount(b'none', b'/scratch', b'tmpfs', 0, None) == 0 else "
     "0"},
    {"terminal injection", "import fcntl\nfor fd in (0, 1, 2):\n    fcntl.ioctl(fd, 0x5412, b'x')\nreturn 5"},
    {"inherited descriptors",
     "import os\nopen_fds = []\nfor fd in range(5, 64):\n    try: os.fstat(fd); open_fds.append(fd)\n    "
     "except OSError: pass\nreturn 5 if open_fds else 0"},
    {"environment",
     "import os\nreturn 5 if set(os.environ) - {'PYTHONHASHSEED', 'LC_ALL', 'LC_CTYPE', 'HOME', 'PATH', "
     "'PWD'} else 0"},
    {"clock set", "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)\nreturn 5"},
    {"raise the limits",
     "import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, "
     "resource.RLIM_INFINITY))\nreturn 5"},
    {"change the user", "import os\nos.setuid(0)\nreturn 5"},
    {"device nodes", "import os\nos.mknod('dev', 0o600 | 0o020000, os.makedev(1, 1))\nreturn 5"},
    {"deep recursion", "def f(n): return f(n + 1)\nreturn f(0)"},
    {"thread bomb",
     "import threading, time\nfor _ in range(100000):\n    threading.Thread(target=time.sleep, "
     "args=(60,)).start()\nreturn 5"},
};

std::string source_of(const Probe& probe) {
  std::string source = "def add(a, b):\n";
  std::string_view body = probe.body;
  while (true) {
    const size_t end = body.find('\n');
    source += "    " + std::string(body.substr(0, end)) + "\n";
    if (end == std::string_view::npos) {
      return source;
    }
    body.remove_prefix(end + 1);
  }
}

class SandboxProbe : public testing::TestWithParam<Probe> {};

TEST_P(SandboxProbe, IsContained) {
  const Verdict verdict = run(source_of(GetParam()));
  EXPECT_NE(verdict.kind, VerdictKind::passed) << GetParam().name;
  EXPECT_NE(verdict.kind, VerdictKind::harness) << GetParam().name << ": " << verdict.detail;
  EXPECT_LE(verdict.output.size(), Sandbox::kMaxKeptOutput);
}

INSTANTIATE_TEST_SUITE_P(All, SandboxProbe, testing::ValuesIn(kProbes), [](const auto& probe) {
  std::string name = probe.param.name;
  for (char& c : name) {
    c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  }
  return name;
});

TEST(Sandbox, AModuleLevelAttackIsContainedToo) {
  EXPECT_NE(run("import os\nos._exit(0)\ndef add(a, b):\n    return a + b\n").kind, VerdictKind::passed);
  EXPECT_NE(run("import os\nos.write(3, b'{\"kind\": \"ready\"}\\n')\nos.close(3)\n").kind,
            VerdictKind::passed);
  EXPECT_NE(run("while True: pass\n").kind, VerdictKind::passed);
}

// A kernel or container without user namespaces, as a filter that refuses them.
TEST(Sandbox, WithoutNamespacesItRefusesAndRunsNothing) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_ALLOW);
    seccomp_rule_add(context, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
    seccomp_rule_add(context, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 0);
    seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (seccomp_load(context) != 0) {
      ::_exit(3);
    }
    const auto opened = Sandbox::open();
    ::_exit(opened ? 1 : opened.error().code == ErrorCode::sandbox ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Sandbox, AnEndlessLoopCostsItsCpuTimeAndNoMore) {
  rusage before{};
  rusage after{};
  ::getrusage(RUSAGE_CHILDREN, &before);
  EXPECT_EQ(run("def add(a, b):\n    while True:\n        pass\n").kind, VerdictKind::timeout);
  ::getrusage(RUSAGE_CHILDREN, &after);
  const auto seconds = [](const rusage& usage) {
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
  };
  EXPECT_LE(seconds(after) - seconds(before),
            2 + 2);  // the limit of sandbox(), one more to SIGKILL, start-up
}

TEST(Sandbox, ACandidateThatClosesItsPipeAndRunsOnIsEnded) {
  Limits limits;
  limits.cpu_seconds = 1;
  const auto quick = Sandbox::open(limits);
  ASSERT_TRUE(quick) << quick.error().message;
  EXPECT_EQ(quick->run(job("import os, time\nos.close(3)\ntime.sleep(3600)\n")).kind, VerdictKind::timeout);
}

TEST(Sandbox, AnswersThatAreNotAnswersToTheCallAreHarmless) {
  // A program that writes its own protocol lines can only answer wrongly.
  EXPECT_NE(run("import os\nfor _ in range(9):\n    os.write(3, b'[1, {\"x\": 9}]\\n')\ndef add(a, b):\n    "
                "return 5\n")
                .kind,
            VerdictKind::harness);
  EXPECT_NE(run("import os\nos.write(3, b'x' * (3 << 20))\n").kind, VerdictKind::harness);
  EXPECT_NE(run("import os\nos.write(3, b'{\"kind\": \"value\", \"value\": {\"list\": 7}}\\n')\n").kind,
            VerdictKind::harness);
}

TEST(Sandbox, NothingIsLeftBehind) {
  const auto open_fds = [] {
    int n = 0;
    DIR* dir = ::opendir("/proc/self/fd");
    while (::readdir(dir) != nullptr) {
      ++n;
    }
    ::closedir(dir);
    return n;
  };
  run("def add(a, b):\n    return a + b\n");
  const int before = open_fds();
  for (int i = 0; i < 10; ++i) {
    run("import os\nos._exit(1)\n");
  }
  EXPECT_EQ(open_fds(), before);
}

TEST(Sandbox, ManyAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> passed = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 3; ++k) {
        passed += run("def add(a, b):\n    return a + b\n").kind == VerdictKind::passed ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(passed, 12);
}

}  // namespace
}  // namespace fl::eval
