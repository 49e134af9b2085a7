#include "report/yardstick.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include <fmt/format.h>

#include "report/statistics.h"

namespace fl::report {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kLine = 64;  // bytes that travel between cores together
constexpr uint32_t kRounds = 200;
constexpr int kBursts = 5;  // the median of these: one may be interrupted
constexpr int64_t kLeastRead = int64_t{64} << 20;
constexpr int64_t kMostRead = int64_t{512} << 20;
constexpr size_t kCachedBytes = size_t{8} << 20;  // a part of the last cache, more than those before it
constexpr int kCachedReads = 3;
constexpr uint32_t kWakeups = 60;        // there and back: less than a millisecond
constexpr uint32_t kUntimedWakeups = 4;  // while the other thread comes to its core
constexpr int kMultiplies = 20000;       // of each of the chains
constexpr size_t kChains = 4;            // as many as a multiplication has cycles, roughly

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

struct alignas(kLine) Word {
  std::atomic<uint32_t> value{0};
};

void stay_on(int core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(core), &one);
  ::sched_setaffinity(0, sizeof one, &one);
}

// Keeps the calling thread on one core, and gives it back those that it had.
class OnCore {
 public:
  explicit OnCore(int core) : known_(::sched_getaffinity(0, sizeof before_, &before_) == 0) { stay_on(core); }
  ~OnCore() {
    if (known_) {
      ::sched_setaffinity(0, sizeof before_, &before_);
    }
  }
  OnCore(const OnCore&) = delete;
  OnCore& operator=(const OnCore&) = delete;

 private:
  cpu_set_t before_{};
  bool known_;
};

// A thread sleeps until it was rung so many times.
class alignas(kLine) Bell {
 public:
  void await(uint32_t n) {
    for (uint32_t now = n_.load(); now != n; now = n_.load()) {
      ::syscall(SYS_futex, &n_, FUTEX_WAIT_PRIVATE, now, nullptr, nullptr, 0);
    }
  }
  void ring() {
    ++n_;
    ::syscall(SYS_futex, &n_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }

 private:
  std::atomic<uint32_t> n_{0};
};

// Two threads wake each other in turn. A server hands every token to the thread that sends it, which sleeps
// between two of them; what that takes is the host's, where cores are virtual. 0: there is one core.
double wakeups_of(const std::vector<int>& cores) {
  if (cores.size() < 2) {
    return 0;
  }
  const OnCore here(cores[0]);
  Bell there;
  Bell back;
  std::thread other([&] {
    stay_on(cores[1]);
    for (uint32_t round = 1; round <= kUntimedWakeups + kWakeups; ++round) {
      there.await(round);
      back.ring();
    }
  });
  auto begin = Clock::now();
  for (uint32_t round = 1; round <= kUntimedWakeups + kWakeups; ++round) {
    there.ring();
    back.await(round);
    if (round == kUntimedWakeups) {
      begin = Clock::now();
    }
  }
  const double seconds = since(begin);
  other.join();
  return 2 * kWakeups / seconds;
}

// One thread a core, each kept on its own; the calling thread is the first.
class Team {
 public:
  explicit Team(const std::vector<int>& cores) : cores_(cores), here_(cores[0]), arrived_(cores.size()) {
    for (size_t i = 1; i < cores_.size(); ++i) {
      threads_.emplace_back([this, i] { work(i); });
    }
  }
  ~Team() {
    job_ = nullptr;
    region();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  size_t size() const { return cores_.size(); }
  /// So many rounds in which nobody does anything.
  double idle(uint32_t n_rounds) {
    job_ = &nothing_;
    const auto begin = Clock::now();
    for (uint32_t round = 0; round < n_rounds; ++round) {
      region();
    }
    return since(begin);
  }
  /// `job` on every thread at once, with its number; the seconds until all were done.
  double run(const std::function<void(size_t)>& job) {
    job_ = &job;
    const auto begin = Clock::now();
    region();
    return since(begin);
  }

 private:
  // All threads see the new round, do the job, and are waited for.
  void region() {
    const uint32_t round = begun_.value.load(std::memory_order_relaxed) + 1;
    begun_.value.store(round, std::memory_order_release);
    if (job_ != nullptr) {
      (*job_)(0);
    }
    for (size_t i = 1; i < cores_.size(); ++i) {
      while (arrived_[i].value.load(std::memory_order_acquire) != round) {
        pause_core();
      }
    }
  }
  void work(size_t i) {
    stay_on(cores_[i]);
    for (uint32_t round = 1;; ++round) {
      while (begun_.value.load(std::memory_order_acquire) != round) {
        pause_core();
      }
      const bool last = job_ == nullptr;
      if (!last) {
        (*job_)(i);
      }
      arrived_[i].value.store(round, std::memory_order_release);
      if (last) {
        return;
      }
    }
  }

  const std::vector<int>& cores_;
  OnCore here_;
  std::vector<Word> arrived_;
  Word begun_;
  const std::function<void(size_t)> nothing_ = [](size_t) {};
  const std::function<void(size_t)>* job_ = nullptr;  // before a round begins, by the first thread
  std::vector<std::thread> threads_;
};

// What a compiler may not leave out.
void keep(uint64_t value) {
  asm volatile("" : : "r"(value) : "memory");
}

double handover_of(Team& team) {
  if (team.size() < 2) {
    return 0;
  }
  std::vector<double> bursts;
  bursts.reserve(kBursts);
  for (int burst = 0; burst < kBursts; ++burst) {
    bursts.push_back(team.idle(kRounds) / (2.0 * kRounds));  // there and back
  }
  return median(bursts);
}

void read_words(const uint64_t* words, size_t n) {
  std::array<uint64_t, 8> sums{};
  for (size_t i = 0; i + sums.size() <= n; i += sums.size()) {
    for (size_t k = 0; k < sums.size(); ++k) {
      sums[k] ^= words[i + k];
    }
  }
  for (const uint64_t sum : sums) {
    keep(sum);
  }
}

// The first time brings it into the caches.
double cached_bytes_per_second(Team& team, const uint64_t* memory) {
  const size_t n = kCachedBytes / sizeof(uint64_t) / team.size();
  const auto read = [&](size_t i) { read_words(memory + i * n, n); };
  team.run(read);
  double seconds = 0;
  for (int i = 0; i < kCachedReads; ++i) {
    seconds += team.run(read);
  }
  return kCachedReads * static_cast<double>(n * team.size() * sizeof(uint64_t)) / seconds;
}

void multiply(size_t seed) {
  constexpr uint64_t kFactor = 6364136223846793005;
  std::array<uint64_t, kChains> chains{};
  chains.fill(seed + 1);
  for (int i = 0; i < kMultiplies; ++i) {
    for (uint64_t& chain : chains) {
      chain = chain * kFactor + 1;
      keep(chain);
    }
  }
}

}  // namespace

int64_t last_level_cache_bytes() {
  int64_t level = 0;
  int64_t bytes = 0;
  for (int i = 0;; ++i) {
    const std::string folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", i);
    int64_t its_level = 0;
    std::string size;
    if (!(std::ifstream(folder + "level") >> its_level) || !(std::ifstream(folder + "size") >> size)) {
      return bytes;
    }
    int64_t value = std::strtoll(size.c_str(), nullptr, 10);
    value <<= size.ends_with('K') ? 10 : size.ends_with('M') ? 20 : 0;
    if (its_level >= level) {
      level = its_level;
      bytes = value;
    }
  }
}

YardstickMeter::YardstickMeter() {
  cpu_set_t mine;
  if (::sched_getaffinity(0, sizeof mine, &mine) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(static_cast<size_t>(core), &mine)) {
        cores_.push_back(core);
      }
    }
  }
  if (cores_.empty()) {
    cores_.push_back(0);
  }
  const int64_t bytes = std::clamp(2 * last_level_cache_bytes(), kLeastRead, kMostRead);
  memory_.assign(static_cast<size_t>(bytes) / sizeof(uint64_t), 1);
}

const uint64_t* YardstickMeter::next_cached() {
  constexpr size_t kWords = kCachedBytes / sizeof(uint64_t);
  const uint64_t* out = memory_.data() + cached_at_;
  cached_at_ = cached_at_ + 2 * kWords <= memory_.size() ? cached_at_ + kWords : 0;
  return out;
}

Glance YardstickMeter::glance() {
  Glance out = glance_awake();
  out.wakeups_per_second = wakeups_of(cores_);
  return out;
}

// The team's threads do not sleep: they leave before others are woken.
Glance YardstickMeter::glance_awake() {
  Team team(cores_);
  Glance out;
  out.handover_seconds = handover_of(team);
  // The mean of the bursts, not the median: what others take now and then counts for a server, too.
  double seconds = 0;
  for (int burst = 0; burst < kBursts; ++burst) {
    seconds += team.run(multiply);
  }
  out.multiplies_per_second = kBursts * static_cast<double>(team.size()) * kChains * kMultiplies / seconds;
  out.cached_bytes_per_second = cached_bytes_per_second(team, next_cached());
  return out;
}

Yardstick YardstickMeter::measure() {
  Yardstick out = measure_awake();
  out.wakeups_per_second = wakeups_of(cores_);
  return out;
}

Yardstick YardstickMeter::measure_awake() {
  Team team(cores_);
  Yardstick out;
  out.handover_seconds = handover_of(team);
  // Each piece is read once: by the time that it comes again, the caches have forgotten it.
  const size_t share = memory_.size() / kBursts / team.size();
  std::vector<double> reading;
  std::vector<double> multiplying;
  for (size_t burst = 0; burst < kBursts; ++burst) {
    const uint64_t* piece = memory_.data() + burst * share * team.size();
    reading.push_back(team.run([&](size_t i) { read_words(piece + i * share, share); }));
    multiplying.push_back(team.run(multiply));
  }
  out.cached_bytes_per_second = cached_bytes_per_second(team, next_cached());
  const auto n = static_cast<double>(team.size());
  out.read_bytes_per_second = n * static_cast<double>(share * sizeof(uint64_t)) / median(reading);
  out.multiplies_per_second = n * kChains * kMultiplies / median(multiplying);
  return out;
}

}  // namespace fl::report
