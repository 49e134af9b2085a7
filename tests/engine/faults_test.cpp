// Devices that fail, numbers that are none, and many threads at once.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "tests/engine/world.h"

namespace fl::engine {
namespace {

TEST(EngineFaults, DeviceErrorsEndTheStepsRequestsOnly) {
  for (const char kind : {'s', 'c', 'k'}) {
    for (const int in_flight : {1, 2}) {
      for (int nth = 1; nth < 12; ++nth) {
        EngineOptions options;
        options.n_slots = 2;
        std::atomic<int> left = nth;
        std::atomic<bool> fired = false;
        World world(options, in_flight, in_flight == 2 ? 40 : 0);
        world.fake->fault = [&, kind](char what) {
          if (what == kind && --left == 0) {
            fired = true;
            throw model::DeviceError("injected", false);
          }
        };
        Engine& engine = world.start();
        std::vector<Call> calls;
        for (int i = 0; i < 4; ++i) {
          calls.emplace_back(prompt(70 + 70 * i, i), 6);
          calls.back().submit(engine);
        }
        int failed = 0;
        for (Call& call : calls) {
          ASSERT_TRUE(call.sink->wait());
          const auto alone = run_alone(world.model, call.request, 4096);
          ASSERT_EQ(call.sink->n_done, 1);
          if (call.sink->done.finish == Finish::error) {
            ++failed;
            EXPECT_EQ(call.sink->done.error, "the device failed: injected");
          } else {
            EXPECT_EQ(call.sink->tokens, alone.tokens);
          }
        }
        EXPECT_EQ(failed > 0, fired.load());
        EXPECT_LE(failed, 2);
        left = 0;
        Call after(prompt(100), 6);
        after.submit(engine);
        ASSERT_TRUE(after.sink->wait());
        EXPECT_EQ(after.sink->tokens, run_alone(world.model, after.request, 4096).tokens);
      }
    }
  }
}

TEST(EngineFaults, ALostDeviceRefusesAllLaterRequests) {
  std::atomic<bool> armed = false;
  EngineOptions options;
  options.n_ctx_slot = 1 << 16;
  World world(options);
  world.fake->fault = [&](char) {
    if (armed) {
      throw model::DeviceError("gone", true);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  };
  std::atomic<int> told = 0;
  Call running(prompt(10), -1);
  Call queued(prompt(11), -1);
  Engine& engine = world.start();
  engine.on_device_lost([&] { told += running.sink->ended() && queued.sink->ended() ? 1 : 100; });
  running.submit(engine);
  queued.submit(engine);
  armed = true;
  ASSERT_TRUE(running.sink->wait());
  ASSERT_TRUE(queued.sink->wait());
  EXPECT_EQ(running.sink->done.finish, Finish::error);
  EXPECT_EQ(queued.sink->done.finish, Finish::error);
  Call late(prompt(10));
  EXPECT_TRUE(eventually([&] {
    const auto id = engine.submit(late.request);
    return !id && id.error().code == ErrorCode::unavailable;
  }));
  EXPECT_TRUE(eventually([&] { return told == 1; }));
  EXPECT_TRUE(engine.stats().device_lost);
  engine.on_device_lost([&] { told += 10; });  // it has happened: called at once
  EXPECT_EQ(told, 11);
  engine.on_device_lost({});
}

TEST(EngineFaults, BrokenInvariantsDoNotKillTheThread) {
  std::atomic<int> n = 0;
  World world;
  world.fake->fault = [&](char) {
    if (++n == 7) {
      throw std::logic_error("broken on purpose");
    }
  };
  Engine& engine = world.start();
  Call call(prompt(10), 100);
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  EXPECT_EQ(call.sink->done.finish, Finish::error);
  EXPECT_EQ(call.sink->done.error, "internal error: broken on purpose");
  Call next(prompt(10), 5);
  next.submit(engine);
  ASSERT_TRUE(next.sink->wait());
  EXPECT_EQ(next.sink->tokens, run_alone(world.model, next.request, 4096).tokens);
}

TEST(EngineFaults, NanLogitsEndOneRequestAndLeaveNothingBehind) {
  for (const int device : {0, 40}) {
    EngineOptions options;
    options.n_slots = 2;
    std::atomic<int> rows = 0;
    World world(options, device > 0 ? 2 : 1, device);
    world.fake->spoil = [&](std::span<float> logits) {
      if (++rows == 5) {
        logits[3] = NAN;
      }
    };
    Engine& engine = world.start();
    std::vector<Call> calls;
    for (int i = 0; i < 2; ++i) {
      calls.emplace_back(prompt(130, i), 10);
      calls.back().submit(engine);
    }
    int failed = 0;
    for (Call& call : calls) {
      ASSERT_TRUE(call.sink->wait());
      if (call.sink->done.finish == Finish::error) {
        ++failed;
        EXPECT_EQ(call.sink->done.error, "the model's logits are not finite numbers");
      } else {
        EXPECT_EQ(call.sink->tokens, run_alone(world.model, call.request, 4096).tokens);
      }
    }
    EXPECT_EQ(failed, 1);
    for (int i = 0; i < 2; ++i) {
      Call again(prompt(130, i), 10);
      again.submit(engine);
      ASSERT_TRUE(again.sink->wait());
      EXPECT_EQ(again.sink->tokens, run_alone(world.model, again.request, 4096).tokens);
    }
  }
}

TEST(EngineFaults, ManyThreadsSubmitCancelAndLook) {
  for (const int device : {0, 40}) {
    EngineOptions options;
    options.n_slots = 3;
    options.n_ctx_slot = 256;
    options.max_queue = 64;
    World world(options, device > 0 ? 2 : 1, device);
    Engine& engine = world.start();
    constexpr int kThreads = 4;
    constexpr int kEach = 60;
    std::atomic<bool> stop = false;
    std::thread watcher([&] {
      while (!stop) {
        (void)engine.slots();
        (void)engine.stats();
        (void)engine.erase_slot(1);
        engine.wake();
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
    std::vector<std::thread> threads;
    std::atomic<int> wrong = 0;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 rng(t);
        for (int i = 0; i < kEach; ++i) {
          Call call(prompt(1 + static_cast<int>(rng() % 200), static_cast<int>(rng() % 3)),
                    static_cast<int>(rng() % 40));
          if (rng() % 4 == 0) {
            call.sink->pause_every = 2;
            call.sink->pause_length = 2;
          }
          const RequestId id = call.submit(engine);
          const bool cancel = rng() % 3 == 0;
          if (cancel) {
            engine.cancel(id);
          }
          if (!call.sink->wait()) {
            ++wrong;
            return;
          }
          const auto alone = run_alone(world.model, call.request, 256);
          const bool prefix =
              call.sink->tokens.size() <= alone.tokens.size() &&
              std::equal(call.sink->tokens.begin(), call.sink->tokens.end(), alone.tokens.begin());
          const bool whole =
              call.sink->done.finish == Finish::cancelled ? cancel : call.sink->tokens == alone.tokens;
          wrong += prefix && whole && call.sink->n_done == 1 && call.sink->faults == 0 ? 0 : 1;
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    stop = true;
    watcher.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_TRUE(eventually([&] { return engine.stats().busy_slots == 0; }));
    EXPECT_LE(engine.stats().requests_done,
              1U * kThreads * kEach);  // those cancelled in the queue never had a slot
  }
}

}  // namespace
}  // namespace fl::engine
