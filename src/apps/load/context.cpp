#include "apps/load/context.h"

#include <algorithm>

#include <fmt/format.h>

#include "model/runners.h"
#include "model/weights.h"

namespace fl::apps {
namespace {

// Steps: a GPU wants wide ones, on a CPU they are slow and cancelling waits for their end.
constexpr int64_t kCudaBatch = 1024, kCudaChunk = 512;
constexpr int64_t kCpuBatch = 512, kCpuChunk = 128;
constexpr double kMiB = 1024.0 * 1024.0;

int64_t round_up(int64_t value, int64_t grain) {
  return (value + grain - 1) / grain * grain;
}

Result<uint64_t> needed(const Options& options, const model::Weights& weights, const ContextPlan& context,
                        bool cuda) {
  FL_ASSIGN(const std::vector<model::MemoryItem> items,
            plan_memory(weights, runner_options(options, context, cuda), cuda));
  return total_bytes(items);
}

}  // namespace

uint64_t total_bytes(const std::vector<model::MemoryItem>& items) {
  uint64_t sum = 0;
  for (const model::MemoryItem& item : items) {
    sum += item.bytes;
  }
  return sum;
}

uint64_t device_bytes(const std::vector<model::MemoryItem>& items) {
  uint64_t sum = 0;
  for (const model::MemoryItem& item : items) {
    sum += item.on_device ? item.bytes : 0;
  }
  return sum;
}

Result<std::vector<model::MemoryItem>> plan_memory(const model::Weights& weights,
                                                   const model::RunnerOptions& options, bool cuda) {
  if (!cuda) {
    return model::plan_cpu_runner(weights, options);
  }
  auto items = model::plan_cuda_runner(weights, options);
  if (!items && items.error().code == ErrorCode::device) {
    // A build without CUDA: layouts are as large within a per cent, and spare rows are not on the device.
    model::RunnerOptions device = options;
    device.n_spare_rows = 0;
    return model::plan_cpu_runner(weights, device);
  }
  if (items) {
    std::erase_if(*items, [](const model::MemoryItem& item) { return !item.on_device; });
  }
  return items;
}

ContextPlan divide_context(const Options& options, int64_t total, int64_t n_ctx_train) {
  ContextPlan plan;
  plan.n_slots = options.parallel < 0 ? kAutoSlots : static_cast<int32_t>(options.parallel);
  plan.unified = options.kv_unified < 0 ? options.parallel < 0 : options.kv_unified != 0;
  total = round_up(total, kContextGrain);
  int64_t slot = plan.unified ? total : round_up((total + plan.n_slots - 1) / plan.n_slots, kContextGrain);
  if (options.kv_unified_per_slot > 0) {
    slot = std::min(slot, options.kv_unified_per_slot);
  }
  plan.capped =
      options.ctx_size.value_or(0) > 0 && total > plan.n_slots * round_up(n_ctx_train, kContextGrain);
  slot = std::min(slot, n_ctx_train);
  plan.n_ctx_slot = static_cast<int32_t>(slot);
  // More than all slots can hold is never used.
  plan.n_ctx =
      plan.unified ? std::min(total, plan.n_slots * round_up(slot, kContextGrain)) : slot * plan.n_slots;
  return plan;
}

int64_t wanted_context(const Options& options, int64_t n_ctx_train, bool& may_shrink) {
  may_shrink = !options.ctx_size && options.fit;
  if (options.ctx_size && *options.ctx_size > 0) {
    return *options.ctx_size;
  }
  if (!options.ctx_size && options.kv_unified_per_slot > 0) {
    const int64_t slots = options.parallel < 0 ? kAutoSlots : options.parallel;
    return slots * options.kv_unified_per_slot;
  }
  return n_ctx_train;
}

engine::EngineOptions engine_options(const Options& options, const ContextPlan& context, bool cuda) {
  engine::EngineOptions out;
  out.n_slots = context.n_slots;
  out.n_ctx_slot = context.n_ctx_slot;
  // As llama-server: a batch is never larger than the context, a chunk never larger than a batch.
  const int64_t batch = std::min(options.batch_size.value_or(cuda ? kCudaBatch : kCpuBatch),
                                 std::max<int64_t>(context.n_ctx, 1));
  const int64_t chunk = std::min(options.ubatch_size.value_or(cuda ? kCudaChunk : kCpuChunk), batch);
  out.max_step_tokens = static_cast<int32_t>(batch);
  out.max_chunk_tokens = static_cast<int32_t>(chunk);
  out.n_checkpoints = options.ctx_checkpoints
                          ? static_cast<int32_t>(*options.ctx_checkpoints * context.n_slots)
                          : kCheckpoints;
  return out;
}

model::RunnerOptions runner_options(const Options& options, const ContextPlan& context, bool cuda) {
  model::RunnerOptions base;
  base.n_threads = static_cast<int32_t>(options.threads);
  base.kv_type_k = options.cache_type_k;
  base.kv_type_v = options.cache_type_v;
  base.prompt_products = options.prompt_products;
  model::RunnerOptions out = engine::runner_options(engine_options(options, context, cuda), base);
  if (context.unified) {
    out.n_blocks = static_cast<int32_t>(round_up(context.n_ctx, model::kBlockTokens) / model::kBlockTokens);
  }
  if (cuda) {
    out.memory_limit = options.vram_limit;
    out.direct_io = options.direct_io;
  }
  return out;
}

Result<ContextPlan> choose_context(const Options& options, const model::Weights& weights, bool cuda,
                                   uint64_t available) {
  const int64_t n_ctx_train = weights.config.n_ctx_train;
  bool may_shrink = false;
  const int64_t wanted = wanted_context(options, n_ctx_train, may_shrink);
  ContextPlan plan = divide_context(options, wanted, n_ctx_train);
  if (!may_shrink || available == 0) {
    return plan;
  }
  const auto target = static_cast<uint64_t>(options.fit_target_mib) << 20;
  const uint64_t room = available > target ? available - target : 0;
  FL_ASSIGN(const uint64_t whole, needed(options, weights, plan, cuda));
  if (whole <= room) {
    return plan;
  }
  // Memory grows with the context: the largest multiple of the grain that fits, by halving.
  const int64_t least = round_up(std::min(options.fit_ctx, wanted), kContextGrain) / kContextGrain;
  int64_t low = least;
  int64_t high = round_up(wanted, kContextGrain) / kContextGrain;
  FL_ASSIGN(const uint64_t smallest,
            needed(options, weights, divide_context(options, low * kContextGrain, n_ctx_train), cuda));
  if (smallest > room) {
    return fail(
        ErrorCode::does_not_fit,
        fmt::format("the model with a context of {} needs {:.0f} MiB; {:.0f} MiB are available, of which "
                    "--fit-target keeps {} MiB free",
                    low * kContextGrain, static_cast<double>(smallest) / kMiB,
                    static_cast<double>(available) / kMiB, options.fit_target_mib));
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    FL_ASSIGN(const uint64_t bytes,
              needed(options, weights, divide_context(options, middle * kContextGrain, n_ctx_train), cuda));
    (bytes <= room ? low : high) = middle;
  }
  plan = divide_context(options, low * kContextGrain, n_ctx_train);
  plan.shrunk = true;
  return plan;
}

}  // namespace fl::apps
