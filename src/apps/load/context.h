// How many tokens each slot may hold, and what that takes: the arithmetic of --ctx-size, --parallel and
// --fit, the same for `serve`, `run`, `chat` and `plan`. Rules: ggml-org/llama.cpp, src/llama-context.cpp and
// common/fit.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "apps/flags/options.h"
#include "base/result.h"
#include "engine/engine.h"
#include "model/runner.h"

namespace fl::model {
class Weights;
}

namespace fl::apps {

/// Contexts are multiples of this.
inline constexpr int64_t kContextGrain = 256;
/// Slots when --parallel is left out.
inline constexpr int32_t kAutoSlots = 4;
/// Spare recurrent states when --ctx-checkpoints is left out.
inline constexpr int32_t kCheckpoints = 8;

struct ContextPlan {
  int32_t n_slots = 1;
  int32_t n_ctx_slot = 0;  ///< most tokens of one slot
  int64_t n_ctx = 0;       ///< tokens of the whole pool
  bool unified = false;    ///< the slots share the pool
  bool shrunk = false;     ///< by --fit
  bool capped = false;     ///< --ctx-size asks for more than slots of the training length can hold
};

/// With `total` tokens for all slots.
ContextPlan divide_context(const Options& options, int64_t total, int64_t n_ctx_train);

/// The total that the options ask for; 0 in *given when --fit may choose less.
int64_t wanted_context(const Options& options, int64_t n_ctx_train, bool& may_shrink);

engine::EngineOptions engine_options(const Options& options, const ContextPlan& context, bool cuda);
model::RunnerOptions runner_options(const Options& options, const ContextPlan& context, bool cuda);

/// What a runner with these options will reserve, item by item.
Result<std::vector<model::MemoryItem>> plan_memory(const model::Weights& weights,
                                                   const model::RunnerOptions& options, bool cuda);

uint64_t total_bytes(const std::vector<model::MemoryItem>& items);
/// Of the items on the device.
uint64_t device_bytes(const std::vector<model::MemoryItem>& items);

/// The context of the options, or with --fit the largest that `available` bytes have room for (0: unknown, no
/// limit). does_not_fit when not even --fit-ctx has.
Result<ContextPlan> choose_context(const Options& options, const model::Weights& weights, bool cuda,
                                   uint64_t available);

}  // namespace fl::apps
