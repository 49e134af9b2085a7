// A slot and the sequence that runs in it. Owned by the engine thread; memory is reserved when the engine
// starts.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/prefix_cache.h"
#include "engine/sampler.h"
#include "model/batch.h"

namespace fl::engine {

using Clock = std::chrono::steady_clock;

/// A request on its way to a slot.
struct Ticket {
  RequestId id = 0;
  std::shared_ptr<const Request> request;
  /// The request's parameters with the seed in effect; outlives the request for those who ask about the slot.
  std::shared_ptr<const SamplingParams> sampling;
};

/// A place in a prompt where a checkpoint is wanted.
struct Cut {
  int32_t position = 0;
  Worth worth = Worth::passing;
};

struct Sequence {
  enum class Phase : uint8_t {
    idle,
    running,
    closing,  ///< its answer is given; a step that holds it is still in flight
  };

  int32_t slot = 0;
  Phase phase = Phase::idle;
  bool cached = false;  ///< takes part in the prefix cache
  bool exact = true;    ///< its prompt was computed on the grid from an exact state
  bool paused = false;  ///< its sink was not ready when last asked
  Ticket ticket;
  uint64_t order = 0;      ///< of arrival at a slot
  uint64_t last_used = 0;  ///< for the choice of the least recently used slot

  // What the caches hold of it. `tokens` outlives the sequence: a new request is compared with it.
  std::vector<int32_t> tokens;  ///< prompt, then generated
  int32_t n_prompt = 0;
  int32_t n_fed = 0;            ///< tokens submitted to the runner, or taken from the cache
  int32_t n_done = 0;           ///< tokens whose step was collected
  std::vector<int32_t> blocks;  ///< KV blocks of [0, n_fed), one reference each
  std::vector<int32_t> path;    ///< pinned nodes of the prefix cache for the first blocks
  int32_t row = -1;             ///< the live state
  int32_t reserved_blocks = 0;  ///< the most it can ever hold
  uint64_t salt = 0;            ///< of the prefix cache
  PrefixCache::Resumed talk;    ///< the conversation that it goes on with, to the prefix cache
  std::vector<Cut> cuts;        ///< where checkpoints are wanted, ascending
  size_t next_cut = 0;
  int32_t leader = -1;  ///< slot of the sequence that reads the beginning of this one's prompt; -1: none
  uint64_t leader_order = 0;  ///< that sequence, should the slot have changed hands
  int32_t leader_goal = 0;    ///< position where it leaves a checkpoint for this one

  // Generation
  Sampler sampler;
  model::DeviceSampling device;  ///< mode none: the host samples
  int32_t max_new = 0;           ///< tokens it may generate
  int32_t n_asked = 0;           ///< rows submitted for sampling
  int32_t n_new = 0;             ///< tokens sampled and collected, the stop token included
  uint64_t last_step = 0;        ///< number of the latest step with a row of it
  int32_t last_row = -1;         ///< that row
  int32_t in_flight = 0;         ///< uncollected steps that hold it

  // Times
  Clock::time_point start;
  Clock::time_point first_token;
  Timings timings;

  const Request& request() const { return *ticket.request; }
  bool in_prompt() const { return n_fed < n_prompt; }
};

}  // namespace fl::engine
