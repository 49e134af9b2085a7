#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <numeric>
#include <thread>
#include <vector>

namespace fl::cpu {
namespace {

TEST(ThreadPool, EveryThreadRunsOnceAndItsWritesAreSeen) {
  for (const int n : {1, 2, 3, 8}) {
    ThreadPool pool(n);
    ASSERT_EQ(pool.size(), n);
    for (int round = 0; round < 200; ++round) {
      std::vector<int> runs(static_cast<size_t>(n), 0);  // plain memory: the pool orders it
      pool.run([&](int thread) { runs[static_cast<size_t>(thread)] += round + 1; });
      EXPECT_EQ(runs, std::vector<int>(static_cast<size_t>(n), round + 1));
    }
  }
}

TEST(ThreadPool, ParallelForTakesEveryItemOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 3, 7, 64, 1001}) {
      for (const int64_t grain : {1, 2, 5, 2000}) {
        std::vector<int> taken(static_cast<size_t>(n), 0);
        std::atomic<bool> within{true};
        pool.parallel_for(n, grain, [&](int64_t begin, int64_t end, int thread) {
          if (begin < 0 || end > n || begin >= end || thread < 0 || thread >= threads) {
            within = false;
            return;
          }
          for (int64_t i = begin; i < end; ++i) {
            ++taken[static_cast<size_t>(i)];
          }
        });
        EXPECT_TRUE(within);
        EXPECT_EQ(taken, std::vector<int>(static_cast<size_t>(n), 1)) << threads << " " << n << " " << grain;
      }
    }
  }
}

TEST(ThreadPool, OneSlowItemDoesNotKeepTheOthersWaiting) {
  ThreadPool pool(2);
  std::atomic<int> done{0};
  std::atomic<bool> all{false};
  // The first item ends only when the other thread has taken all the rest, of both stretches.
  pool.parallel_for(64, 1, [&](int64_t begin, int64_t, int) {
    if (begin == 0) {
      while (done.load() < 63) {
        std::this_thread::yield();
      }
      all = true;
    } else {
      ++done;
    }
  });
  EXPECT_TRUE(all);
}

// A thread without a core, as on a machine with much other work: here it sits in a signal handler.
std::atomic<bool> g_caught{false};
std::atomic<bool> g_free{false};

void sit(int) {
  g_caught = true;
  while (!g_free) {
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
}

TEST(ThreadPool, AThreadThatGetsNoCoreIsNotWaitedFor) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer keeps signals back while a thread sleeps";
#endif
  ThreadPool pool(3);
  pthread_t thread{};
  pool.run([&](int i) {
    if (i == 1) {
      thread = pthread_self();
    }
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until it sleeps
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = sit;
  sigaction(SIGUSR1, &action, &before);
  pthread_kill(thread, SIGUSR1);
  while (!g_caught) {
    std::this_thread::yield();
  }
  std::atomic<bool> over{false};
  bool given_up = false;
  std::thread guard([&] {  // else a pool that waits would wait for ever
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!over && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    given_up = !over;
    g_free = true;
  });
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 100; ++round) {
    pool.parallel_for(30, 1, [&](int64_t begin, int64_t, int) { sum += begin; });
  }
  over = true;
  guard.join();
  EXPECT_FALSE(given_up);
  EXPECT_EQ(sum, 100 * 29 * 30 / 2);
  // It comes back.
  std::vector<int> runs(3, 0);
  pool.run([&](int i) { ++runs[static_cast<size_t>(i)]; });
  EXPECT_EQ(runs, std::vector<int>(3, 1));
  sigaction(SIGUSR1, &before, nullptr);
}

TEST(ThreadPool, RegionsWithPausesOfEveryLength) {
  // Shorter and longer than the spinning, longer than the yielding: the sleeping thread wakes.
  ThreadPool pool(3);
  std::vector<int64_t> sums(3, 0);
  int64_t rounds = 0;
  for (const int pause_us : {0, 1, 10, 100, 1000, 30000}) {
    const int repeats = pause_us >= 1000 ? 5 : 200;
    for (int i = 0; i < repeats; ++i) {
      pool.run([&](int thread) { ++sums[static_cast<size_t>(thread)]; });
      ++rounds;
      std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
    }
  }
  EXPECT_EQ(sums, std::vector<int64_t>(3, rounds));
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 5);
    if (i % 3 == 0) {
      continue;  // destroyed without having worked
    }
    int64_t total = 0;
    std::vector<int64_t> parts(5, 0);
    pool.parallel_for(1000, 7, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t k = begin; k < end; ++k) {
        parts[static_cast<size_t>(thread)] += k;
      }
    });
    total = std::accumulate(parts.begin(), parts.end(), int64_t{0});
    EXPECT_EQ(total, 999 * 1000 / 2);
  }
}

TEST(ThreadPool, MoreThreadsThanCores) {
  ThreadPool pool(32);
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 20; ++round) {
    pool.parallel_for(320, 1, [&](int64_t begin, int64_t, int) { sum += begin; });
  }
  EXPECT_EQ(sum, 20 * 319 * 320 / 2);
}

}  // namespace
}  // namespace fl::cpu
