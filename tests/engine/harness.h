// Sinks that record, and what a request must answer when it runs alone.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "engine/loop.h"
#include "engine/sampler.h"
#include "tests/engine/fake_runner.h"

namespace fl::test {

struct Recorder final : engine::Sink {
  bool ready() override {
    const std::scoped_lock lock(mutex);
    if (busy_left > 0) {
      --busy_left;
      return false;
    }
    return true;
  }
  void on_prompt(int32_t n_ready, int32_t total, int32_t cached) override {
    const std::scoped_lock lock(mutex);
    if (n_ready < prompt_done || n_ready > total || n_done > 0) {
      ++faults;
    }
    if (throw_at_prompt && n_ready == total) {
      throw std::runtime_error("client left");
    }
    prompt_done = n_ready;
    n_cached = cached;
    ++n_prompt_events;
  }
  void on_token(const engine::TokenEvent& event) override {
    const std::scoped_lock lock(mutex);
    faults += n_done > 0 ? 1 : 0;
    tokens.push_back(event.token);
    events.push_back(event);
    if (pause_every > 0 && tokens.size() % pause_every == 0) {
      busy_left = pause_length;
    }
    if (throw_at >= 0 && static_cast<int>(tokens.size()) == throw_at) {
      throw std::runtime_error("client left");
    }
  }
  void on_done(const engine::DoneEvent& event) override {
    const std::scoped_lock lock(mutex);
    ++n_done;
    done = event;
    changed.notify_all();
  }
  bool ended() {
    const std::scoped_lock lock(mutex);
    return n_done > 0;
  }
  /// Waits for the end; false after a minute.
  bool wait() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(60), [&] { return n_done > 0; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int32_t> tokens;
  std::vector<engine::TokenEvent> events;
  engine::DoneEvent done;
  int n_done = 0;
  int n_prompt_events = 0;
  int32_t prompt_done = 0;
  int32_t n_cached = 0;
  int faults = 0;
  size_t pause_every = 0;
  int pause_length = 0;
  int busy_left = 0;
  int throw_at = -1;
  bool throw_at_prompt = false;
};

/// Token ids without a pattern, others for each salt.
inline std::vector<int32_t> hashed_text(int n, int salt, int32_t n_vocab) {
  std::vector<int32_t> tokens(n);
  for (int i = 0; i < n; ++i) {
    tokens[i] = static_cast<int32_t>(FakeModel::mix(salt, i) % n_vocab);
  }
  return tokens;
}

struct Answer {
  std::vector<int32_t> tokens;
  engine::Finish finish = engine::Finish::length;
};

/// The request's answer by the model and the sampler alone: no scheduler, no caches. The seed must be given.
inline Answer run_alone(const FakeModel& model, const engine::Request& request, int32_t n_ctx) {
  Answer answer;
  std::vector<int32_t> tokens = request.prompt;
  engine::SamplerScratch scratch(model.n_vocab());
  engine::Sampler sampler;
  sampler.start(request.sampling, request.sampling.seed, model.n_vocab(), tokens);
  uint64_t state = 0;
  uint64_t attention = 0;
  size_t fed = 0;
  std::vector<float> logits(model.n_vocab());
  const int32_t room = std::max(1, n_ctx - static_cast<int32_t>(request.prompt.size()));
  const int32_t most = request.max_tokens < 0 ? room : std::min(room, request.max_tokens);
  for (int32_t n = 0; n < most; ++n) {
    for (; fed < tokens.size(); ++fed) {
      const auto index = static_cast<int32_t>(fed);
      // The prompt in one slice, then token by token.
      state = model.next_state(state, tokens[fed], index, fed < request.prompt.size() ? 0 : index);
      attention = FakeModel::attend(attention, FakeModel::kv_entry(state), index);
    }
    model.logits(state, attention, logits);
    const int32_t token = sampler.sample(logits, tokens, nullptr, scratch).value();
    tokens.push_back(token);
    sampler.accept(tokens);
    if (!request.ignore_eos && std::ranges::find(request.stop_tokens, token) != request.stop_tokens.end()) {
      answer.finish = engine::Finish::stop;
      return answer;
    }
    answer.tokens.push_back(token);
  }
  return answer;
}

inline engine::Ticket ticket(engine::RequestId id, engine::Request request) {
  auto sampling = std::make_shared<engine::SamplingParams>(request.sampling);
  return {id, std::make_shared<const engine::Request>(std::move(request)), std::move(sampling)};
}

}  // namespace fl::test
