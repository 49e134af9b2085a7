#include "kernels/cpu/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace fl::cpu {
namespace {

// Waiting goes through three stages: spinning (the other threads are a microsecond away), giving the core to
// whoever wants it (perhaps the thread that is waited for: a spinning thread on its core would cost it a time
// slice), and sleep. On a machine with other work, a core given away comes back only when everybody else had
// a turn, while a thread that sleeps is woken at once: a yield that took long ends the second stage.
using Clock = std::chrono::steady_clock;
constexpr int kSpins = 300;                            // some microseconds
constexpr auto kAwake = std::chrono::milliseconds(4);  // longer than the work between two regions of a step
constexpr auto kLongYield = std::chrono::microseconds(200);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Waits until `done()`, awake. False: it is time to sleep.
template <class Done>
bool wait_awake(const Done& done) {
  for (int turn = 0; turn < kSpins; ++turn) {
    if (done()) {
      return true;
    }
    relax();
  }
  const Clock::time_point start = Clock::now();
  Clock::time_point before = start;
  while (!done()) {
    std::this_thread::yield();
    const Clock::time_point now = Clock::now();
    if (now - before > kLongYield || now - start > kAwake) {
      return done();
    }
    before = now;
  }
  return true;
}

/// Moves the calling thread to a core that no other thread of the pool is on, if it may use one. The
/// scheduler wakes a thread on the core of its waker and can leave both there for seconds, each waiting for
/// the other.
class Cores {
 public:
  explicit Cores(int n) : core_(static_cast<size_t>(n)) {
    for (std::atomic<int>& core : core_) {
      core.store(-1, std::memory_order_relaxed);
    }
  }
  void settle(int thread) {
    const int here = sched_getcpu();
    std::atomic<int>& mine = core_[static_cast<size_t>(thread)];
    if (mine.load(std::memory_order_relaxed) != here) {
      mine.store(here, std::memory_order_relaxed);
    }
    for (int other = 0; other < thread; ++other) {
      if (core_[static_cast<size_t>(other)].load(std::memory_order_relaxed) == here) {
        move_away(mine);
        return;
      }
    }
  }

 private:
  void move_away(std::atomic<int>& mine) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
      return;
    }
    cpu_set_t free = allowed;
    for (const std::atomic<int>& core : core_) {
      const int taken = core.load(std::memory_order_relaxed);
      if (taken >= 0 && taken < CPU_SETSIZE) {
        CPU_CLR(static_cast<size_t>(taken), &free);
      }
    }
    if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof(free), &free) != 0) {
      return;
    }
    mine.store(sched_getcpu(), std::memory_order_relaxed);
    sched_setaffinity(0, sizeof(allowed), &allowed);  // the scheduler stays free to move it again
  }

  std::vector<std::atomic<int>> core_;  ///< where each thread was last seen
};

constexpr size_t kLine = 64;  // what cores hand to each other

/// Where threads sleep until it rings. Not a condition variable: to notify one of glibc's waits for sleepers
/// of the time before that are awake but have no core yet. On a line of its own: whoever rings has it, those
/// that are awake do not look.
class alignas(kLine) Bell {
 public:
  uint32_t count() const { return n_.load(); }
  /// Sleeps while `count` is current; may return early.
  void wait(uint32_t count) {
    ++sleepers_;
    syscall(SYS_futex, &n_, FUTEX_WAIT_PRIVATE, count, nullptr, nullptr, 0);
    --sleepers_;
  }
  void ring() {
    ++n_;  // sequentially consistent, as in wait(): a sleeper that is not counted yet sees the new count
    if (sleepers_.load() > 0) {
      syscall(SYS_futex, &n_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
    }
  }

 private:
  std::atomic<uint32_t> n_{0};
  std::atomic<int> sleepers_{0};
};

/// Waits until `over()`, which is followed by a ring of `bell`.
template <class Over>
void await(Bell& bell, const Over& over) {
  if (wait_awake(over)) {
    return;
  }
  while (true) {
    const uint32_t count = bell.count();
    if (over()) {
      return;
    }
    bell.wait(count);
  }
}

/// The next item of one thread's stretch, on a line of its own. With it goes the number of the region, so
/// that nobody has to reset it, which would fetch the line from its thread's core: what is left from another
/// region counts as none taken.
class alignas(kLine) Stretch {
 public:
  /// Of this region, from 0 on.
  int64_t take(uint32_t region) {
    uint64_t last = last_.load(std::memory_order_relaxed);
    while (true) {
      const uint64_t next = last >> kShift == region ? last + 1 : uint64_t{region} << kShift;
      if (last_.compare_exchange_weak(last, next, std::memory_order_relaxed)) {
        return static_cast<int64_t>(next & kItems);
      }
    }
  }

 private:
  static constexpr uint32_t kShift = 32;
  static constexpr uint64_t kItems = (uint64_t{1} << kShift) - 1;
  std::atomic<uint64_t> last_{~uint64_t{0}};
};

}  // namespace

// A region is open from its announcement until the caller has no more work of its own; only the threads that
// came in meanwhile are waited for. On a machine with other work the others may have no core for tens of
// milliseconds, and waiting for each of them in each of a step's hundreds of regions would stop the step.
struct ThreadPool::Impl {
  explicit Impl(int n) : size(n), next(static_cast<size_t>(n)), cores(n) {
    for (int i = 1; i < n; ++i) {
      threads.emplace_back([this, i] { work(i); });
    }
  }
  ~Impl() {
    stop = true;
    open();
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  // The gate in one word: the number of the region, whether threads may still come in, how many came and
  // went, how many are inside.
  static constexpr uint64_t kInside = 1;
  static constexpr uint64_t kLeft = 1ULL << 16U;
  static constexpr uint64_t kOpen = 1ULL << 32U;
  static constexpr uint64_t kRegion = 1ULL << 33U;
  static constexpr uint64_t kCount = kLeft - 1;
  static uint64_t inside(uint64_t g) { return g & kCount; }
  static uint64_t gone(uint64_t g) { return g / kLeft & kCount; }
  static bool is_open(uint64_t g) { return (g & kOpen) != 0; }

  /// Lets the calling thread into an open region; false when it was closed meanwhile.
  bool enter() {
    uint64_t g = gate.load(std::memory_order_relaxed);
    while (is_open(g)) {
      if (gate.compare_exchange_weak(g, g + kInside, std::memory_order_acquire, std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  void work(int thread) {
    uint64_t seen = 0;
    const auto begun = [&] {
      const uint64_t g = gate.load(std::memory_order_acquire);
      return is_open(g) && g / kRegion != seen;
    };
    while (true) {
      await(announced, begun);
      cores.settle(thread);  // before it is waited for: a core may be long in coming
      if (!enter()) {
        continue;
      }
      seen = gate.load(std::memory_order_relaxed) / kRegion;  // no other begins while this thread is inside
      if (stop) {
        return;
      }
      fn(context, thread);
      gate.fetch_add(kLeft - kInside);
      left.ring();
    }
  }

  uint64_t next_region() const { return gate.load(std::memory_order_relaxed) / kRegion + 1; }
  /// Announces a region to the threads.
  void open() {
    gate.store(next_region() * kRegion | kOpen);
    announced.ring();
  }

  /// `everyone`: each thread has to come; else those that come in time.
  void run(RunFn function, void* argument, bool everyone) {
    if (size == 1) {
      function(argument, 0);
      return;
    }
    cores.settle(0);
    fn = function;
    context = argument;
    open();
    function(argument, 0);
    if (everyone) {
      await(left, [&] { return gone(gate.load()) == static_cast<uint64_t>(size - 1); });
    }
    gate.fetch_and(~kOpen);
    await(left, [&] { return inside(gate.load()) == 0; });
  }

  const int size;
  std::vector<Stretch> next;
  Cores cores;
  Bell announced;  ///< the threads sleep here
  Bell left;       ///< the caller, until they are done
  // What a thread needs to come in, together on one line.
  alignas(kLine) std::atomic<uint64_t> gate{0};
  RunFn fn = nullptr;
  void* context = nullptr;
  bool stop = false;
  alignas(kLine) std::vector<std::thread> threads;  // last: they use all of the above
};

ThreadPool::ThreadPool(int n_threads)
    : impl_(std::make_unique<Impl>(n_threads > 0 ? n_threads : default_size())) {}
ThreadPool::~ThreadPool() = default;

// Threads of one core share its vector units and its path to memory: the second one only adds waiting.
int ThreadPool::default_size() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  std::set<std::string> cores;
  for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) {
      std::string siblings;
      std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                         "/topology/thread_siblings_list");
      if (!std::getline(file, siblings)) {
        siblings = std::to_string(cpu);
      }
      cores.insert(siblings);
    }
  }
  return std::max(1, static_cast<int>(cores.size()));
}

int ThreadPool::size() const {
  return impl_->size;
}

void ThreadPool::run_raw(RunFn fn, void* context) {
  impl_->run(fn, context, true);
}

struct ThreadPool::Items::Region {
  std::vector<Stretch>* stretches;  ///< null: one thread has all
  int64_t n, grain;
  int64_t items = 0;
  uint32_t number = 0;
  bool taken = false;
  int64_t first_of(int thread) const { return items * thread / static_cast<int64_t>(stretches->size()); }
};

bool ThreadPool::Items::next(int64_t& begin, int64_t& end) {
  Region& r = region_;
  if (r.stretches == nullptr) {
    begin = 0;
    end = r.n;
    return !std::exchange(r.taken, true);
  }
  const auto threads = static_cast<int>(r.stretches->size());
  for (; distance_ < threads; ++distance_) {
    const int owner = (thread_ + distance_) % threads;
    const int64_t item = r.first_of(owner) + (*r.stretches)[static_cast<size_t>(owner)].take(r.number);
    if (item < r.first_of(owner + 1)) {
      begin = item * r.grain;
      end = std::min(r.n, begin + r.grain);
      return true;
    }
  }
  return false;
}

void ThreadPool::for_raw(int64_t n, int64_t grain, ForFn fn, void* context) {
  if (n <= 0) {
    return;
  }
  Items::Region region{nullptr, n, grain};
  if (n <= grain || impl_->size == 1) {
    Items items(region, 0);
    fn(context, items, 0);
    return;
  }
  // Each thread has a stretch of the range, so that what it reads is one stream; when done it helps with the
  // others'.
  region.stretches = &impl_->next;
  region.items = (n + grain - 1) / grain;
  region.number = static_cast<uint32_t>(impl_->next_region());
  auto take = [&](int thread) {
    Items items(region, thread);
    fn(context, items, thread);
  };
  impl_->run([](void* c, int thread) { (*static_cast<decltype(take)*>(c))(thread); }, &take, false);
}

}  // namespace fl::cpu
