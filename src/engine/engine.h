// The engine: token ids in, token ids out. One thread owns the runner and all caches; callers submit requests
// from any thread and hear of them through their sink. It knows nothing of text, JSON or HTTP.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/sampling_params.h"
#include "model/runner.h"

namespace fl::engine {

struct TokenProb {
  int32_t token = -1;
  float logprob = 0;  ///< natural log; of the probability after sampling when post_sampling_probs
};

struct Timings {
  int32_t prompt_n = 0;     ///< prompt tokens computed (not taken from the cache)
  int32_t cached_n = 0;     ///< prompt tokens taken from the prefix cache
  double prompt_ms = 0;     ///< from the slot's start to the first token's sampling
  int32_t predicted_n = 0;  ///< tokens sampled, the stop token included
  double predicted_ms = 0;  ///< from the first token to the latest: predicted_n - 1 steps
};

enum class Finish : uint8_t {
  stop,       ///< an end-of-generation or stop token
  length,     ///< max_tokens or the context is used up
  cancelled,  ///< by cancel() or because the sink went away
  error,      ///< the step failed: `error` says how
};

struct TokenEvent {
  int32_t token = -1;
  std::optional<TokenProb> chosen;  ///< with n_probs > 0 or want_logprob
  std::vector<TokenProb> top;       ///< n_probs entries, most likely first
  Timings timings;                  ///< so far
};

struct DoneEvent {
  Finish finish = Finish::stop;
  std::optional<int32_t> stop_token;  ///< the token that ended it, not delivered as a TokenEvent
  Timings timings;
  int32_t slot = -1;
  uint32_t seed = 0;  ///< the seed in effect
  std::string error;
};

/// Where a request's events go. Called on the engine thread; must not block and must not call the engine
/// back.
class Sink {
 public:
  virtual ~Sink() = default;
  /// False pauses this sequence (its client reads too slowly); asked before each of its steps.
  virtual bool ready() = 0;
  /// Prompt progress: `done` of `total` prompt tokens are in the cache.
  virtual void on_prompt(int32_t done, int32_t total, int32_t cached) = 0;
  virtual void on_token(const TokenEvent& event) = 0;
  virtual void on_done(const DoneEvent& event) = 0;  ///< exactly once, the last call
};

/// A say in which tokens may come next (reasoning budget; grammars later). Called on the engine thread.
class TokenHook {
 public:
  virtual ~TokenHook() = default;
  /// A token that must come next, whatever the logits say.
  virtual std::optional<int32_t> forced() = 0;
  /// Sets forbidden tokens to -inf. Only called when `masks()`.
  virtual void mask(std::span<float> logits) = 0;
  virtual bool masks() const = 0;
  virtual void accept(int32_t token) = 0;
};

struct Request {
  std::vector<int32_t> prompt;  ///< at least one token
  SamplingParams sampling;
  int32_t max_tokens = -1;           ///< -1: until the context is full; 0: only evaluate the prompt
  std::vector<int32_t> stop_tokens;  ///< end-of-generation ids; ignored with ignore_eos
  bool ignore_eos = false;
  bool cache_prompt = true;
  int32_t slot = -1;          ///< the wanted slot, -1: any
  int32_t n_probs = 0;        ///< top alternatives to report
  bool want_logprob = false;  ///< report the chosen token's logprob even with n_probs 0
  bool post_sampling_probs = false;
  /// Requests share cached prefixes only with requests of the same salt (one per API key, made by the
  /// server).
  uint64_t cache_salt = 0;
  /// Ends of turns in the prompt: positions after which another request may differ, worth a checkpoint each.
  /// May be empty; the engine takes one near the prompt's end by itself.
  std::vector<int32_t> turn_ends;
  std::shared_ptr<TokenHook> hook;  ///< may be null
  std::shared_ptr<Sink> sink;
};

using RequestId = uint64_t;

struct EngineOptions {
  int32_t n_slots = 1;             ///< sequences that run at once (--parallel)
  int32_t n_ctx_slot = 4096;       ///< tokens of one sequence
  int32_t max_step_tokens = 512;   ///< budget of one step, prompt and decode together (--batch-size)
  int32_t max_chunk_tokens = 512;  ///< of a prompt in a step that also decodes (--ubatch-size)
  int32_t max_queue = 256;         ///< requests waiting for a slot
  /// Spare state rows for the prefix cache; 0: a sequence can only be continued exactly where it stopped.
  int32_t n_checkpoints = 8;
  /// Reuse what the engine itself generated. Such a state was reached token by token, so it equals the state
  /// of a prompt only within rounding; false: only states of prompts are kept, and resumed = cold, bit by
  /// bit.
  bool cache_generated = true;
};

struct SlotInfo {
  int32_t id = 0;
  bool busy = false;
  RequestId request = 0;
  int32_t n_ctx = 0;
  int32_t n_prompt = 0;
  int32_t n_prompt_done = 0;  ///< in the cache by now, those that were there before included
  int32_t n_cached = 0;       ///< of them: there before
  int32_t n_decoded = 0;
  int32_t n_remaining = -1;
  SamplingParams sampling;
};

/// Counters since start and levels now; the server turns them into /metrics.
struct EngineStats {
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t predicted_tokens = 0;
  double prompt_seconds = 0;
  double predicted_seconds = 0;
  uint64_t steps = 0;
  uint64_t requests_done = 0;
  uint64_t requests_failed = 0;
  int32_t busy_slots = 0;
  int32_t queued = 0;
  int32_t free_blocks = 0;
  int32_t total_blocks = 0;
  int32_t free_state_rows = 0;
  double busy_slots_per_step = 0;  ///< mean
  int32_t max_context = 0;         ///< largest sequence seen
  double last_step_age_s = 0;
  bool device_lost = false;  ///< no step can work any more: submit() refuses
};

/// The blocks and state rows that these options need, so that a runner can be made for them.
model::RunnerOptions runner_options(const EngineOptions& options, model::RunnerOptions base);

class Engine {
 public:
  Engine(std::unique_ptr<model::Runner> runner, EngineOptions options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// invalid_argument: empty prompt, token out of range, prompt longer than n_ctx_slot (both counts in the
  /// text), no sink, absent slot, sampling parameters that are not numbers. unavailable: the queue is full,
  /// the engine drains, or its device is lost. No event is sent when this fails.
  Result<RequestId> submit(Request request);
  /// Takes effect before the next step; unknown ids are ignored.
  void cancel(RequestId id);
  /// Forgets what a slot's last sequence left in the cache and nobody else uses; returns its number of
  /// tokens. invalid_argument when the slot is busy or absent.
  Result<int32_t> erase_slot(int32_t slot);
  /// A sink became ready again. Optional: paused sequences are looked at every few milliseconds anyway. Any
  /// thread.
  void wake();

  /// Called once, on the engine thread, when the device is lost and all requests have heard of it; at once
  /// when that has happened. An empty function takes the last one back: it does not run afterwards.
  void on_device_lost(std::function<void()> call);

  std::vector<SlotInfo> slots() const;
  EngineStats stats() const;
  const model::Runner& runner() const;
  const EngineOptions& options() const;

  /// No new requests; waits until the running ones are done or the deadline passes, then cancels them.
  void drain(double seconds);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::engine
