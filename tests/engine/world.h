// An engine on the fake model, and requests to it: what the tests of the engine's face share.
#pragma once

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <thread>

#include "tests/engine/harness.h"

namespace fl::engine {

using test::FakeModel;
using test::FakeRunner;
using test::Recorder;
using test::run_alone;

inline constexpr int32_t kVocab = 61;

/// An engine on a fake model. What the hooks of the fake use must outlive it.
struct World {
  explicit World(EngineOptions wishes = {}, int32_t in_flight = 1, int32_t device_top_k = 0,
                 int32_t n_blocks = 0)
      : model(kVocab) {
    spdlog::set_level(spdlog::level::off);
    model::RunnerOptions wanted = runner_options(wishes, {});
    wanted.n_blocks = n_blocks > 0 ? n_blocks : wanted.n_blocks;
    auto made = std::make_unique<FakeRunner>(model, wanted, in_flight, device_top_k);
    fake = made.get();
    runner = std::move(made);
    options = wishes;
  }
  /// Hooks of the fake must be set before this.
  Engine& start() {
    engine = std::make_unique<Engine>(std::move(runner), options);
    return *engine;
  }
  FakeModel model;
  FakeRunner* fake = nullptr;
  std::unique_ptr<model::Runner> runner;
  EngineOptions options;
  std::unique_ptr<Engine> engine;
};

inline std::vector<int32_t> prompt(int n, int salt = 0) {
  std::vector<int32_t> tokens(n);
  for (int i = 0; i < n; ++i) {
    tokens[i] = (i * 7 + i / 5 + salt) % kVocab;
  }
  return tokens;
}

struct Call {
  Request request;
  std::shared_ptr<Recorder> sink = std::make_shared<Recorder>();
  explicit Call(std::vector<int32_t> tokens, int32_t max_tokens = 10) {
    request.prompt = std::move(tokens);
    request.max_tokens = max_tokens;
    request.sampling.seed = 17;
    request.sink = sink;
  }
  RequestId submit(Engine& engine) {
    auto id = engine.submit(request);
    EXPECT_TRUE(id.has_value()) << (id ? "" : id.error().message);
    return id.value_or(0);
  }
};

/// Waits until the condition holds; false after a minute.
template <typename F>
bool eventually(F&& f) {
  for (int i = 0; i < 60000; ++i) {
    if (f()) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace fl::engine
