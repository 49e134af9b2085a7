// A fixed set of threads for kernels: parallel regions of microseconds, so workers spin briefly between
// regions of one step and sleep between steps. One caller at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace fl::cpu {

class ThreadPool {
 public:
  /// `n_threads` includes the caller; 0: one per physical core.
  explicit ThreadPool(int n_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  /// Physical cores that this process may use.
  static int default_size();
  /// Runs body(thread) on every thread, thread in [0, size()); returns when all are done. Exceptions are a
  /// bug.
  template <typename F>
  void run(F&& body) {
    run_raw([](void* context, int thread) { (*static_cast<std::remove_reference_t<F>*>(context))(thread); },
            &body);
  }
  /// Splits [0, n) into items of `grain` taken by whichever thread is free: body(begin, end, thread). A
  /// thread that gets no core meanwhile is not waited for.
  template <typename F>
  void parallel_for(int64_t n, int64_t grain, F&& body) {
    for_raw(
        n, grain,
        [](void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<std::remove_reference_t<F>*>(context))(begin, end, thread);
        },
        &body);
  }

 private:
  using RunFn = void (*)(void*, int);
  using ForFn = void (*)(void*, int64_t, int64_t, int);
  void run_raw(RunFn fn, void* context);
  void for_raw(int64_t n, int64_t grain, ForFn fn, void* context);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::cpu
