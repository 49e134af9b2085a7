// The Runner of the host: checks batches against the contract, owns pool, weights and memory.
#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/cpu/machine.h"
#include "model/cpu_forward.h"
#include "model/runners.h"

namespace fl::model {
namespace {

constexpr int32_t kMaxThreads = 1024;
constexpr int32_t kMaxStepTokens = 1 << 20;
constexpr int32_t kMaxBlocks = 1 << 26;
constexpr double kMiB = 1024.0 * 1024.0;

Status check_option(std::string_view name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("{}: expected {} to {}, found {}", name, least, most, value));
  }
  return {};
}

Status check_options(const Config& config, const RunnerOptions& o) {
  FL_TRY(check_option("threads", o.n_threads, 0, kMaxThreads));
  FL_TRY(check_option("KV blocks", o.n_blocks, 1, kMaxBlocks));
  FL_TRY(check_option("state rows", o.n_state_rows, 1, kMaxStepTokens));
  FL_TRY(check_option("tokens of a step", o.max_tokens, 1, kMaxStepTokens));
  FL_TRY(check_option("sequences of a step", o.max_slices, 1, o.max_tokens));
  FL_TRY(check_option("rows of a step", o.max_rows, 1, o.max_tokens));
  for (const DType type : {o.kv_type_k, o.kv_type_v}) {
    if (!kv_type_supported(type, config.head_dim)) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("KV cache type: expected f32, f16, bf16 or (head_dim a multiple of {}) q8_0, "
                              "found {} with head_dim {}",
                              kKvQuantGroup, dtype_info(type).name, config.head_dim));
    }
  }
  return {};
}

class CpuRunner final : public Runner {
 public:
  CpuRunner(const Weights& weights, const RunnerOptions& options, cpu::Isa isa,
            std::unique_ptr<cpu::ThreadPool> pool, Progress progress, void* context)
      : isa_(isa),
        pool_(std::move(pool)),
        weights_(CpuWeights::pack(weights, isa, *pool_, progress, context)),
        forward_(weights_, options, isa, *pool_),
        max_state_rows_(options.n_state_rows),
        row_used_(static_cast<size_t>(options.n_state_rows), 0) {
    capacity_.n_blocks = options.n_blocks;
    capacity_.n_state_rows = options.n_state_rows;
    capacity_.max_tokens = options.max_tokens;
    capacity_.max_slices = options.max_slices;
    capacity_.max_rows = options.max_rows;
    capacity_.n_vocab = weights_.config.n_vocab;
    results_.reserve(static_cast<size_t>(options.max_rows));
  }

  const Config& config() const override { return weights_.config; }
  const Capacity& capacity() const override { return capacity_; }
  std::string describe() const override {
    return fmt::format("cpu ({}, {} thread{})", cpu::isa_name(isa_), pool_->size(),
                       pool_->size() == 1 ? "" : "s");
  }

  std::vector<MemoryItem> memory() const override {
    const CpuWeightBytes bytes = cpu_weight_bytes(weights_);
    const CpuMemoryPlan plan = forward_.reserved();
    std::vector<MemoryItem> items{{"weights", bytes.trunk, false},
                                  {"kv cache", plan.kv_cache, false},
                                  {"recurrent state", plan.state, false},
                                  {"activations", plan.activations, false},
                                  {"logits", plan.logits, false}};
    if (bytes.mtp > 0) {
      items.insert(items.begin() + 1, {"weights of the draft block", bytes.mtp, false});
    }
    return items;
  }

  DeviceLimits measure_limits() override {
    const cpu::MachineSpeed speed = cpu::measure_machine(isa_, *pool_);
    return {speed.read_bandwidth, speed.int8_ops};
  }

  void submit(const Batch& batch) override {
    FL_CHECK(!in_flight_, "a step is in flight already");
    check(batch);
    forward_.run(batch);
    results_.clear();
    int32_t next = 0;
    for (const Row& row : batch.rows) {
      RowResult result;
      if (row.logits_to_host) {
        result.logits = forward_.logits(next++);
      }
      results_.push_back(result);
    }
    in_flight_ = true;
  }

  std::span<const RowResult> collect() override {
    FL_CHECK(in_flight_, "no step to collect");
    in_flight_ = false;
    return results_;
  }

  void copy_state(int32_t from_row, int32_t to_row) override {
    FL_CHECK(from_row >= 0 && from_row < max_state_rows_ && to_row >= 0 && to_row < max_state_rows_,
             "state row out of range");
    forward_.copy_state(from_row, to_row);
  }

 private:
  void check(const Batch& batch) {
    const int32_t n = batch.n_tokens();
    FL_CHECK(n >= 1 && n <= capacity_.max_tokens, "tokens of the step out of range");
    FL_CHECK(batch.positions.size() == batch.tokens.size(), "a position for each token");
    FL_CHECK(batch.feedback.empty(), "this runner does not sample");
    FL_CHECK(batch.slices.size() <= static_cast<size_t>(capacity_.max_slices), "too many slices");
    FL_CHECK(batch.rows.size() <= static_cast<size_t>(capacity_.max_rows), "too many rows");
    for (const int32_t token : batch.tokens) {
      FL_CHECK(token >= 0 && token < capacity_.n_vocab, "token id out of range");
    }
    ++step_;
    int32_t next = 0;
    for (const Slice& slice : batch.slices) {
      FL_CHECK(slice.first == next && slice.n_tokens >= 1, "slices cover the tokens in order");
      next += slice.n_tokens;
      FL_CHECK(slice.n_cached >= 0, "n_cached out of range");
      FL_CHECK(slice.state_row >= 0 && slice.state_row < max_state_rows_, "state row out of range");
      FL_CHECK(row_used_[static_cast<size_t>(slice.state_row)] != step_, "a state row in two slices");
      row_used_[static_cast<size_t>(slice.state_row)] = step_;
      const int64_t keys = int64_t{slice.n_cached} + slice.n_tokens;
      FL_CHECK(static_cast<int64_t>(slice.blocks.size()) * kBlockTokens >= keys, "too few KV blocks");
      for (const int32_t block : slice.blocks) {
        FL_CHECK(block >= 0 && block < capacity_.n_blocks, "KV block out of range");
      }
    }
    FL_CHECK(next == n, "slices cover all tokens");
    for (const Row& row : batch.rows) {
      FL_CHECK(row.token >= 0 && row.token < n, "row outside the tokens");
      FL_CHECK(row.sampling.mode == DeviceSampling::Mode::none, "this runner does not sample");
    }
  }

  cpu::Isa isa_;
  std::unique_ptr<cpu::ThreadPool> pool_;
  CpuWeights weights_;
  CpuForward forward_;
  Capacity capacity_;
  int32_t max_state_rows_;
  std::vector<uint64_t> row_used_;  ///< the last step that used the row
  uint64_t step_ = 0;
  bool in_flight_ = false;
  std::vector<RowResult> results_;
};

}  // namespace

static_assert(kBlockTokens == kKvBlock && kBlockTokens == kDeltaChunk, "one grid for blocks and chunks");

Result<std::unique_ptr<Runner>> make_cpu_runner(const Weights& weights, const RunnerOptions& options,
                                                Progress progress, void* context) {
  FL_TRY(check_options(weights.config, options));
  const cpu::Isa isa = cpu::best_isa();
  auto pool = std::make_unique<cpu::ThreadPool>(options.n_threads);
  const CpuMemoryPlan plan = plan_cpu_memory(weights.config, options, pool->size());
  const CpuWeightBytes bytes = cpu_weight_bytes(weights, isa);
  const uint64_t total =
      bytes.trunk + bytes.mtp + plan.kv_cache + plan.state + plan.activations + plan.logits;
  const auto sizes = [&] {
    const auto mib = [](uint64_t b) { return static_cast<double>(b) / kMiB; };
    return fmt::format(
        "weights {:.1f} MiB, kv cache {:.1f} MiB, recurrent state {:.1f} MiB, activations {:.1f} MiB, logits "
        "{:.1f} MiB",
        mib(bytes.trunk + bytes.mtp), mib(plan.kv_cache), mib(plan.state), mib(plan.activations),
        mib(plan.logits));
  };
  const uint64_t available = options.memory_limit > 0 ? options.memory_limit : available_memory();
  if (available > 0 && total > available) {
    return fail(
        ErrorCode::does_not_fit,
        fmt::format("the model needs {:.1f} MiB and {:.1f} MiB are available: {}",
                    static_cast<double>(total) / kMiB, static_cast<double>(available) / kMiB, sizes()));
  }
  try {
    return std::make_unique<CpuRunner>(weights, options, isa, std::move(pool), progress, context);
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::does_not_fit,
                fmt::format("the system refused {:.1f} MiB: {}", static_cast<double>(total) / kMiB, sizes()));
  }
}

}  // namespace fl::model
