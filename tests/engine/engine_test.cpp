// The engine as its callers see it: answers, limits, ends. The model is the fake one.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "tests/engine/world.h"

namespace fl::engine {
namespace {

TEST(Engine, AnswersAndCountsTime) {
  World world;
  Engine& engine = world.start();
  Call call(prompt(100));
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  EXPECT_EQ(call.sink->tokens, run_alone(world.model, call.request, 4096).tokens);
  EXPECT_EQ(call.sink->done.finish, Finish::length);
  EXPECT_EQ(call.sink->done.slot, 0);
  EXPECT_EQ(call.sink->done.seed, 17U);
  EXPECT_EQ(call.sink->done.timings.prompt_n, 100);
  EXPECT_EQ(call.sink->done.timings.predicted_n, 10);
  EXPECT_GE(call.sink->done.timings.prompt_ms, 0.0);
  EXPECT_TRUE(eventually([&] { return engine.stats().busy_slots == 0; }));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.prompt_tokens, 100U);
  EXPECT_EQ(stats.predicted_tokens, 10U);
  EXPECT_EQ(stats.requests_done, 1U);
  const SlotInfo slot = engine.slots().at(0);
  EXPECT_FALSE(slot.busy);
  EXPECT_EQ(slot.sampling.seed, 17U);
}

TEST(Engine, LetsGoOfTheRequestWhenItIsDone) {
  World world;
  Engine& engine = world.start();
  Call call(prompt(10));
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  std::weak_ptr<Recorder> weak = call.sink;
  call.request = {};
  call.sink.reset();
  EXPECT_TRUE(eventually([&] { return weak.expired(); }));
}

TEST(Engine, DrawsASeedAndReportsIt) {
  World world;
  Engine& engine = world.start();
  std::vector<uint32_t> seeds;
  for (int i = 0; i < 3; ++i) {
    Call call(prompt(20));
    call.request.sampling.seed = 0xFFFFFFFF;
    call.submit(engine);
    ASSERT_TRUE(call.sink->wait());
    call.request.sampling.seed = call.sink->done.seed;
    EXPECT_EQ(call.sink->tokens, run_alone(world.model, call.request, 4096).tokens);
    seeds.push_back(call.sink->done.seed);
  }
  EXPECT_FALSE(seeds[0] == seeds[1] && seeds[1] == seeds[2]);
}

TEST(Engine, RefusesWhatCannotBe) {
  EngineOptions options;
  options.n_ctx_slot = 128;
  World world(options);
  Engine& engine = world.start();
  const auto code = [&](auto&& change) {
    Call call(prompt(10));
    change(call.request);
    const auto id = engine.submit(call.request);
    if (id) {
      EXPECT_TRUE(call.sink->wait());  // it may be done before anybody looks
      return std::string("accepted");
    }
    EXPECT_EQ(call.sink->n_done, 0);
    return id.error().message;
  };
  EXPECT_EQ(code([](Request& r) { r.prompt.clear(); }), "prompt: expected at least one token, found none");
  EXPECT_EQ(code([](Request& r) { r.prompt = prompt(129); }),
            "prompt: expected at most 128 tokens (the context of a slot), found 129");
  EXPECT_EQ(code([](Request& r) { r.prompt[3] = kVocab; }), "prompt: expected tokens from 0 to 60, found 61");
  EXPECT_EQ(code([](Request& r) { r.prompt[3] = -1; }), "prompt: expected tokens from 0 to 60, found -1");
  EXPECT_EQ(code([](Request& r) { r.slot = 1; }), "slot: expected -1 to 0, found 1");
  EXPECT_EQ(code([](Request& r) { r.sink = nullptr; }), "a request needs a sink");
  EXPECT_EQ(code([](Request& r) { r.sampling.min_p = NAN; }), "min_p: expected a finite number, found nan");
  EXPECT_EQ(code([](Request& r) { r.prompt = prompt(128); }), "accepted");
}

TEST(Engine, EndsAtTheContext) {
  for (const int n : {1, 64, 100, 127, 128}) {
    EngineOptions options;
    options.n_ctx_slot = 128;
    World world(options);
    Engine& engine = world.start();
    Call call(prompt(n), -1);
    call.submit(engine);
    ASSERT_TRUE(call.sink->wait());
    EXPECT_EQ(call.sink->done.finish, Finish::length);
    EXPECT_EQ(static_cast<int>(call.sink->tokens.size()), std::max(1, 128 - n));
  }
}

TEST(Engine, EvaluatesOnlyThePromptWhenAsked) {
  World world;
  Engine& engine = world.start();
  Call call(prompt(150), 0);
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  EXPECT_EQ(call.sink->done.finish, Finish::length);
  EXPECT_TRUE(call.sink->tokens.empty());
  EXPECT_EQ(call.sink->prompt_done, 150);
  // The next request continues exactly there.
  Call next(prompt(160));
  next.submit(engine);
  ASSERT_TRUE(next.sink->wait());
  EXPECT_EQ(next.sink->done.timings.cached_n, 150);
  EXPECT_EQ(next.sink->done.timings.prompt_n, 10);
}

TEST(Engine, StopTokensEndAndAreNotDelivered) {
  World world;
  Engine& engine = world.start();
  Call probe(prompt(30), 8);
  probe.submit(engine);
  ASSERT_TRUE(probe.sink->wait());
  const int32_t stop = probe.sink->tokens.at(5);
  const auto first =
      static_cast<size_t>(std::ranges::find(probe.sink->tokens, stop) - probe.sink->tokens.begin());
  Call call(prompt(30), 8);
  call.request.stop_tokens = {stop};
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  EXPECT_EQ(call.sink->done.finish, Finish::stop);
  EXPECT_EQ(call.sink->done.stop_token, stop);
  EXPECT_EQ(call.sink->tokens.size(), first);
  EXPECT_EQ(call.sink->done.timings.predicted_n, static_cast<int32_t>(first) + 1);
  call = Call(prompt(30), 8);
  call.request.stop_tokens = {stop};
  call.request.ignore_eos = true;
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  EXPECT_EQ(call.sink->tokens, probe.sink->tokens);
}

TEST(Engine, ReportsLogprobs) {
  World world;
  Engine& engine = world.start();
  for (const bool post : {false, true}) {
    Call call(prompt(20), 5);
    call.request.n_probs = 4;
    call.request.post_sampling_probs = post;
    call.request.sampling.temperature = 1;
    call.submit(engine);
    ASSERT_TRUE(call.sink->wait());
    std::vector<int32_t> tokens = call.request.prompt;
    for (const TokenEvent& event : call.sink->events) {
      ASSERT_TRUE(event.chosen.has_value());
      EXPECT_EQ(event.chosen->token, event.token);
      ASSERT_EQ(event.top.size(), 4U);
      const std::vector<float> logits = world.model.logits_after(tokens);
      EXPECT_EQ(event.top[0].token, argmax(logits));
      double sum = 0;
      for (const float v : logits) {
        sum += std::exp(double{v});
      }
      const double expected = logits[event.token] - std::log(sum);
      if (post) {
        EXPECT_GT(event.chosen->logprob, expected);  // fewer candidates share the mass
      } else {
        EXPECT_NEAR(event.chosen->logprob, expected, 1e-5);
      }
      tokens.push_back(event.token);
    }
  }
  Call plain(prompt(20), 2);
  plain.submit(engine);
  ASSERT_TRUE(plain.sink->wait());
  EXPECT_FALSE(plain.sink->events[0].chosen.has_value());
  Call chosen(prompt(20), 2);
  chosen.request.want_logprob = true;
  chosen.submit(engine);
  ASSERT_TRUE(chosen.sink->wait());
  EXPECT_TRUE(chosen.sink->events[0].chosen.has_value());
  EXPECT_TRUE(chosen.sink->events[0].top.empty());
}

/// Forces a token at one place, allows only even tokens elsewhere, counts what it is told.
struct EvenHook final : TokenHook {
  std::optional<int32_t> forced() override {
    return accepted.size() == 3 ? std::optional<int32_t>(59) : std::nullopt;
  }
  void mask(std::span<float> logits) override {
    if (throw_at == static_cast<int>(accepted.size())) {
      throw std::runtime_error("the hook broke");
    }
    for (size_t i = 1; i < logits.size(); i += 2) {
      logits[i] = -INFINITY;
    }
  }
  bool masks() const override { return true; }
  void accept(int32_t token) override { accepted.push_back(token); }
  std::vector<int32_t> accepted;
  int throw_at = -1;
};

TEST(Engine, HooksForceAndForbid) {
  World world({}, 2, 40);
  Engine& engine = world.start();
  Call call(prompt(20), 8);
  auto hook = std::make_shared<EvenHook>();
  call.request.hook = hook;
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  ASSERT_EQ(call.sink->tokens.size(), 8U);
  EXPECT_EQ(hook->accepted, call.sink->tokens);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_TRUE(i == 3 ? call.sink->tokens[i] == 59 : call.sink->tokens[i] % 2 == 0);
  }
  Call broken(prompt(20), 8);
  auto bad = std::make_shared<EvenHook>();
  bad->throw_at = 2;
  broken.request.hook = bad;
  broken.submit(engine);
  ASSERT_TRUE(broken.sink->wait());
  EXPECT_EQ(broken.sink->done.finish, Finish::error);
  EXPECT_EQ(broken.sink->done.error, "the hook broke");
  EXPECT_EQ(broken.sink->tokens.size(), 2U);
}

TEST(Engine, CancelsRunningAndQueued) {
  EngineOptions options;
  options.n_ctx_slot = 1 << 16;
  World world(options);
  world.fake->on_step = [](const auto&) { std::this_thread::sleep_for(std::chrono::microseconds(200)); };
  Engine& engine = world.start();
  Call running(prompt(10), -1);
  Call queued(prompt(11), 5);
  Call last(prompt(12), 5);
  const RequestId a = running.submit(engine);
  const RequestId b = queued.submit(engine);
  last.submit(engine);
  EXPECT_TRUE(eventually([&] {
    const std::scoped_lock lock(running.sink->mutex);
    return running.sink->tokens.size() > 3;
  }));
  EXPECT_TRUE(engine.slots()[0].busy);
  engine.cancel(b);
  engine.cancel(a);
  engine.cancel(12345);
  ASSERT_TRUE(running.sink->wait());
  ASSERT_TRUE(queued.sink->wait());
  ASSERT_TRUE(last.sink->wait());
  EXPECT_EQ(running.sink->done.finish, Finish::cancelled);
  EXPECT_EQ(queued.sink->done.finish, Finish::cancelled);
  EXPECT_EQ(queued.sink->done.slot, -1);
  EXPECT_EQ(last.sink->done.finish, Finish::length);
}

TEST(Engine, QueueHasALimit) {
  EngineOptions options;
  options.n_slots = 2;
  options.max_queue = 3;
  std::atomic<bool> hold = true;
  World world(options);
  world.fake->on_step = [&](const auto&) {
    while (hold) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  Engine& engine = world.start();
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) {
    calls.emplace_back(prompt(10 + i), 3);
    calls.back().submit(engine);
  }
  Call surplus(prompt(10));
  const auto refused = engine.submit(surplus.request);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::unavailable);
  EXPECT_EQ(refused.error().message, "busy: 5 requests are running or queued, at most 5 are held");
  hold = false;
  for (Call& call : calls) {
    EXPECT_TRUE(call.sink->wait());
  }
  EXPECT_EQ(surplus.sink->n_done, 0);
  Call again(prompt(10));
  EXPECT_TRUE(eventually([&] { return engine.submit(again.request).has_value(); }));
  EXPECT_TRUE(again.sink->wait());
}

TEST(Engine, DrainsThenCancels) {
  EngineOptions options;
  options.n_ctx_slot = 1 << 20;
  {
    World world(options, 1, 0, 200);
    Engine& engine = world.start();
    Call call(prompt(30), 50);
    call.submit(engine);
    engine.drain(30);
    EXPECT_EQ(call.sink->n_done, 1);
    EXPECT_EQ(call.sink->done.finish, Finish::length);
    Call late(prompt(30));
    const auto id = engine.submit(late.request);
    ASSERT_FALSE(id.has_value());
    EXPECT_EQ(id.error().code, ErrorCode::unavailable);
  }
  World world(options, 1, 0, 20000);
  world.fake->on_step = [](const auto&) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  Engine& engine = world.start();
  Call endless(prompt(30), -1);
  Call queued(prompt(31), -1);
  endless.submit(engine);
  queued.submit(engine);
  engine.drain(0.05);
  EXPECT_EQ(endless.sink->n_done, 1);
  EXPECT_EQ(endless.sink->done.finish, Finish::cancelled);
  EXPECT_EQ(queued.sink->n_done, 1);
}

TEST(Engine, DestructionAnswersEverybody) {
  Call running(prompt(30), -1);
  Call queued(prompt(31), -1);
  {
    EngineOptions options;
    options.n_ctx_slot = 1 << 16;
    World world(options);
    world.fake->on_step = [](const auto&) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
    Engine& engine = world.start();
    running.submit(engine);
    queued.submit(engine);
  }
  EXPECT_EQ(running.sink->n_done, 1);
  EXPECT_EQ(queued.sink->n_done, 1);
}

TEST(Engine, SlowSinksPauseOnlyThemselves) {
  EngineOptions options;
  options.n_slots = 2;
  World world(options);
  Engine& engine = world.start();
  Call slow(prompt(10), 20);
  slow.sink->pause_every = 3;
  slow.sink->pause_length = 1 << 30;
  slow.submit(engine);
  Call quick(prompt(20), 100);
  quick.submit(engine);
  ASSERT_TRUE(quick.sink->wait());
  const auto ended = [&] {
    const std::scoped_lock lock(slow.sink->mutex);
    return slow.sink->n_done > 0;
  };
  EXPECT_FALSE(ended());
  {
    const std::scoped_lock lock(slow.sink->mutex);
    EXPECT_LE(slow.sink->tokens.size(), 3U);
  }
  for (int i = 0; i < 20 && !ended(); ++i) {
    ASSERT_TRUE(eventually([&] {
      const std::scoped_lock lock(slow.sink->mutex);
      return slow.sink->n_done > 0 || slow.sink->busy_left > 1000;
    }));
    {
      const std::scoped_lock lock(slow.sink->mutex);
      slow.sink->busy_left = 0;
    }
    engine.wake();
  }
  ASSERT_TRUE(slow.sink->wait());
  EXPECT_EQ(slow.sink->tokens, run_alone(world.model, slow.request, 4096).tokens);
}

TEST(Engine, WantedSlotIsWaitedFor) {
  EngineOptions options;
  options.n_slots = 2;
  options.n_ctx_slot = 1 << 16;
  World world(options);
  Engine& engine = world.start();
  Call holder(prompt(10), -1);
  holder.request.slot = 1;
  const RequestId id = holder.submit(engine);
  EXPECT_TRUE(eventually([&] { return engine.slots()[1].busy; }));
  Call wants(prompt(11), 3);
  wants.request.slot = 1;
  wants.submit(engine);
  Call other(prompt(12), 3);
  other.submit(engine);
  ASSERT_TRUE(other.sink->wait());
  EXPECT_EQ(other.sink->done.slot, 0);
  EXPECT_EQ(wants.sink->n_done, 0);
  const auto busy = engine.erase_slot(1);
  ASSERT_FALSE(busy.has_value());
  EXPECT_EQ(busy.error().code, ErrorCode::invalid_argument);
  EXPECT_FALSE(engine.erase_slot(2).has_value());
  engine.cancel(id);
  ASSERT_TRUE(wants.sink->wait());
  EXPECT_EQ(wants.sink->done.slot, 1);
}

TEST(Engine, ErasedSlotsForget) {
  World world;
  Engine& engine = world.start();
  Call call(prompt(150), 4);
  call.submit(engine);
  ASSERT_TRUE(call.sink->wait());
  EXPECT_TRUE(eventually([&] { return engine.stats().busy_slots == 0; }));
  EXPECT_EQ(engine.erase_slot(0).value(), 153);
  EXPECT_EQ(engine.stats().total_blocks, engine.stats().free_blocks);
  Call again(prompt(150), 4);
  again.submit(engine);
  ASSERT_TRUE(again.sink->wait());
  EXPECT_EQ(again.sink->done.timings.cached_n, 0);
}

}  // namespace
}  // namespace fl::engine
