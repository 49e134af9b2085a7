#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace fl::cpu {
namespace {

constexpr int kSpins = 20000;  // some tens of microseconds: longer than the gap between two regions of a step

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(int n) : size(n) {
    for (int i = 1; i < n; ++i) {
      threads.emplace_back([this, i] { work(i); });
    }
  }
  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
      region.fetch_add(1);
    }
    wake.notify_all();
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  void work(int thread) {
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && region.load(std::memory_order_acquire) == seen; ++spin) {
        relax();
      }
      if (region.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return region.load(std::memory_order_acquire) != seen; });
      }
      seen = region.load(std::memory_order_acquire);
      if (stop) {
        return;
      }
      fn(context, thread);
      left.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void run(RunFn function, void* argument) {
    if (size > 1) {
      fn = function;
      context = argument;
      left.store(size - 1, std::memory_order_relaxed);
      {
        const std::lock_guard lock(mutex);
        region.fetch_add(1, std::memory_order_release);
      }
      wake.notify_all();
    }
    function(argument, 0);
    while (left.load(std::memory_order_acquire) != 0) {
      relax();
    }
  }

  const int size;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> region{0};
  std::atomic<int> left{0};
  bool stop = false;
  RunFn fn = nullptr;
  void* context = nullptr;
};

ThreadPool::ThreadPool(int n_threads)
    : impl_(std::make_unique<Impl>(
          n_threads > 0 ? n_threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency())))) {}
ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const {
  return impl_->size;
}

void ThreadPool::run_raw(RunFn fn, void* context) {
  impl_->run(fn, context);
}

void ThreadPool::for_raw(int64_t n, int64_t grain, ForFn fn, void* context) {
  if (n <= grain || impl_->size == 1) {
    if (n > 0) {
      fn(context, 0, n, 0);
    }
    return;
  }
  std::atomic<int64_t> next{0};
  run([&](int thread) {
    for (int64_t begin = next.fetch_add(grain); begin < n; begin = next.fetch_add(grain)) {
      fn(context, begin, std::min(n, begin + grain), thread);
    }
  });
}

}  // namespace fl::cpu
