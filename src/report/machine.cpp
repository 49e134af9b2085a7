#include "report/machine.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <fmt/format.h>

#include "report/yardstick.h"

namespace fl::report {
namespace {

namespace fs = std::filesystem;

constexpr auto kLookEvery = std::chrono::milliseconds(100);
constexpr int kMaxCpus = 1024;

// The instruction sets that the speed of a model depends on.
constexpr std::array<std::string_view, 9> kFeatures{
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8"};

std::string read_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<double> read_number(const fs::path& path) {
  std::ifstream file(path);
  double value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

// The value of "key<tabs or blanks>: value" or "key=value" in a file of such lines.
std::string value_of(const fs::path& path, std::string_view key, char separator) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.find(separator);
    if (at == std::string::npos || !line.starts_with(key) ||
        line.find_first_not_of(" \t", key.size()) != at) {
      continue;
    }
    const size_t begin = line.find_first_not_of(" \t\"", at + 1);
    const size_t end = line.find_last_not_of(" \t\"");
    return begin == std::string::npos ? "" : line.substr(begin, end - begin + 1);
  }
  return "";
}

int64_t leading_number(const std::string& text) {
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

int64_t memory_bytes() {
  int64_t bytes = leading_number(value_of("/proc/meminfo", "MemTotal", ':')) * 1024;
  // A container may have less than its machine.
  for (const char* limit : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    if (const auto value = read_number(limit); value && *value > 0 && *value < static_cast<double>(bytes)) {
      bytes = static_cast<int64_t>(*value);
    }
  }
  return bytes;
}

// utime + stime of a process in seconds and its parent; nullopt: it is gone.
struct ProcessTimes {
  pid_t parent = 0;
  double seconds = 0;
};
std::optional<ProcessTimes> times_of(pid_t pid) {
  const std::string line = read_line(fmt::format("/proc/{}/stat", pid));
  const size_t name_end = line.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) {
    return std::nullopt;
  }
  std::istringstream rest(line.substr(name_end + 1));
  char state = 0;
  ProcessTimes out;
  std::string skipped;
  rest >> state >> out.parent;
  for (int i = 0; i < 9; ++i) {  // pgrp .. cmajflt
    rest >> skipped;
  }
  double user = 0;
  double system = 0;
  rest >> user >> system;
  out.seconds = (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return out;
}

// Busy and total CPU seconds of the machine.
std::pair<double, double> machine_times() {
  std::istringstream line(read_line("/proc/stat"));
  std::string word;
  line >> word;
  double total = 0;
  double idle = 0;
  double value = 0;
  for (int i = 0; i < 8 && line >> value; ++i) {  // user nice system idle iowait irq softirq steal
    total += value;
    if (i == 3 || i == 4) {
      idle += value;
    }
  }
  const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  return {(total - idle) / ticks, total / ticks};
}

double tree_seconds(const std::vector<pid_t>& tree) {
  double sum = 0;
  for (const pid_t pid : tree) {
    if (const auto times = times_of(pid)) {
      sum += times->seconds;
    }
  }
  return sum;
}

int64_t resident_bytes(const std::vector<pid_t>& tree) {
  int64_t sum = 0;
  for (const pid_t pid : tree) {
    sum += leading_number(value_of(fmt::format("/proc/{}/status", pid), "VmRSS", ':')) * 1024;
  }
  return sum;
}

double cpu_throttle_count() {
  double sum = 0;
  for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
    const std::string place = fmt::format("/sys/devices/system/cpu/cpu{}/thermal_throttle/", cpu);
    const auto count = read_number(place + "core_throttle_count");
    if (!count) {
      break;
    }
    sum += *count + read_number(place + "package_throttle_count").value_or(0);
  }
  return sum;
}

}  // namespace

Machine describe_machine(const Nvml* nvml) {
  Machine out;
  utsname name{};
  ::uname(&name);
  out.host = fmt::format("{} {} {}", name.sysname, name.release, name.machine);
  out.os = value_of("/etc/os-release", "PRETTY_NAME", '=');
  out.cpu = value_of("/proc/cpuinfo", "model name", ':');
  cpu_set_t mine;
  CPU_ZERO(&mine);
  out.n_cores = ::sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 0;
  std::istringstream flags(value_of("/proc/cpuinfo", "flags", ':'));
  for (std::string flag; flags >> flag;) {
    if (std::find(kFeatures.begin(), kFeatures.end(), flag) != kFeatures.end()) {
      out.cpu_features.push_back(flag);
    }
  }
  out.memory_bytes = memory_bytes();
  if (const int64_t cache = last_level_cache_bytes(); cache > 0) {
    out.cache_bytes = cache;
  }
  const std::string frequency = "/sys/devices/system/cpu/cpu0/cpufreq/";
  if (const auto khz = read_number(frequency + "cpuinfo_max_freq")) {
    out.cpu_clock_max_mhz = *khz / 1000;
  }
  out.governor = read_line(frequency + "scaling_governor");
  if (nvml != nullptr) {
    out.gpus = nvml->devices();
  }
  return out;
}

std::vector<pid_t> process_tree(pid_t root) {
  if (root <= 0) {
    return {};
  }
  std::multimap<pid_t, pid_t> children;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    const auto pid = static_cast<pid_t>(leading_number(name));
    if (pid > 0) {
      if (const auto times = times_of(pid)) {
        children.emplace(times->parent, pid);
      }
    }
  }
  std::vector<pid_t> tree{root};
  for (size_t i = 0; i < tree.size(); ++i) {
    const auto [begin, end] = children.equal_range(tree[i]);
    for (auto child = begin; child != end; ++child) {
      tree.push_back(child->second);
    }
  }
  return tree;
}

pid_t process_listening(uint16_t port) {
  std::string inode;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    std::getline(file, line);
    while (inode.empty() && std::getline(file, line)) {
      std::istringstream words(line);
      std::string word;
      std::vector<std::string> row;
      while (words >> word) {
        row.push_back(word);
      }
      constexpr size_t kLocal = 1;
      constexpr size_t kState = 3;
      constexpr size_t kInode = 9;
      if (row.size() > kInode && row[kState] == "0A" && row[kLocal].ends_with(fmt::format(":{:04X}", port))) {
        inode = row[kInode];
      }
    }
  }
  if (inode.empty()) {
    return -1;
  }
  const std::string wanted = "socket:[" + inode + "]";
  std::error_code error;
  for (const auto& process : fs::directory_iterator("/proc", error)) {
    const auto pid = static_cast<pid_t>(leading_number(process.path().filename().string()));
    if (pid <= 0) {
      continue;
    }
    std::error_code denied;
    for (const auto& fd : fs::directory_iterator(process.path() / "fd", denied)) {
      std::error_code gone;
      if (fs::read_symlink(fd.path(), gone).string() == wanted) {
        return pid;
      }
    }
  }
  return -1;
}

Watch::Watch(const Nvml* nvml, pid_t server) : nvml_(nvml), server_(server) {
  joules_at_start_ = nvml_ != nullptr ? nvml_->joules() : std::nullopt;
  std::tie(busy_at_start_, total_at_start_) = machine_times();
  ours_at_start_ =
      tree_seconds(process_tree(server_)) + times_of(::getpid()).value_or(ProcessTimes{}).seconds;
  cpu_throttles_at_start_ = cpu_throttle_count();
  thread_ = std::thread([this] { run(); });
}

Watch::~Watch() {
  end();
}

void Watch::end() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void Watch::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    look();
    lock.lock();
    wake_.wait_for(lock, kLookEvery, [this] { return stop_; });
  }
}

void Watch::look() {
  const std::vector<pid_t> tree = process_tree(server_);
  int64_t bytes = 0;
  if (nvml_ != nullptr) {
    const Nvml::Usage usage = nvml_->usage(tree);
    // In a container the driver may show no processes: what the whole device holds is then said as such.
    bytes = usage.by_processes > 0 ? usage.by_processes : usage.total_used;
    seen_.memory_basis =
        usage.by_processes > 0 ? "device (NVML), of the server" : "device (NVML), all programs";
    seen_.n_foreign_gpu = std::max(seen_.n_foreign_gpu, usage.by_processes > 0 ? usage.n_foreign : 0);
    if (seen_.throttled.empty()) {
      seen_.throttled = nvml_->throttle_reasons();
    }
  } else if (!tree.empty()) {
    bytes = resident_bytes(tree);
    seen_.memory_basis = "process tree RSS";
  }
  if (bytes > 0) {
    seen_.memory_bytes = std::max(seen_.memory_bytes.value_or(0), bytes);
  }
}

Watched Watch::stop() {
  end();
  look();
  if (nvml_ != nullptr && joules_at_start_) {
    if (const auto now = nvml_->joules()) {
      seen_.joules = *now - *joules_at_start_;
    }
  }
  const auto [busy, total] = machine_times();
  const double ours =
      tree_seconds(process_tree(server_)) + times_of(::getpid()).value_or(ProcessTimes{}).seconds;
  if (total > total_at_start_ && server_ > 0) {
    const double foreign = (busy - busy_at_start_) - (ours - ours_at_start_);
    seen_.foreign_cpu = std::clamp(foreign / (total - total_at_start_), -1.0, 1.0);
  }
  if (cpu_throttle_count() > cpu_throttles_at_start_) {
    seen_.throttled += seen_.throttled.empty() ? "CPU thermal" : ", CPU thermal";
  }
  if (!seen_.memory_bytes) {
    seen_.memory_reason = "the server's process is not on this machine or may not be seen";
  }
  return seen_;
}

}  // namespace fl::report
