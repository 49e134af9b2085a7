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
  /// The first of n items that parallel_for gives to a thread; the last is the one before the next thread's
  /// first, unless others helped.
  int64_t first_of(int64_t items, int thread) const { return items * thread / size(); }
  /// Physical cores that this process may use.
  static int default_size();
  /// Runs body(thread) on every thread, thread in [0, size()); returns when all are done. Exceptions are a
  /// bug.
  template <typename F>
  void run(F&& body) {
    run_raw([](void* context, int thread) { (*static_cast<std::remove_reference_t<F>*>(context))(thread); },
            &body);
  }
  /// The items of a region, for one thread: mostly neighbours, in their order.
  class Items {
   public:
    /// False: there are no more.
    bool next(int64_t& begin, int64_t& end);

   private:
    friend class ThreadPool;
    struct Region;
    Items(Region& region, int thread) : region_(region), thread_(thread) {}
    Region& region_;
    const int thread_;
    int distance_ = 0;  ///< of the thread whose stretch it takes from
  };
  /// Splits [0, n) into items of `grain` taken by whichever thread is free: body(items, thread), once on each
  /// thread that comes in time, which takes items until there are no more. A thread that gets no core
  /// meanwhile is not waited for.
  template <typename F>
  void parallel_items(int64_t n, int64_t grain, F&& body) {
    for_raw(
        n, grain,
        [](void* context, Items& items, int thread) {
          (*static_cast<std::remove_reference_t<F>*>(context))(items, thread);
        },
        &body);
  }
  /// The same with body(begin, end, thread) for each item.
  template <typename F>
  void parallel_for(int64_t n, int64_t grain, F&& body) {
    parallel_items(n, grain, [&body](Items& items, int thread) {
      int64_t begin = 0;
      int64_t end = 0;
      while (items.next(begin, end)) {
        body(begin, end, thread);
      }
    });
  }

 private:
  using RunFn = void (*)(void*, int);
  using ForFn = void (*)(void*, Items&, int);
  void run_raw(RunFn fn, void* context);
  void for_raw(int64_t n, int64_t grain, ForFn fn, void* context);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::cpu
