// The Runner of the host: checks batches against the contract, owns pool, weights and memory.
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/cpu/machine.h"
#include "model/contract.h"
#include "model/cpu_forward.h"
#include "model/runners.h"

namespace fl::model {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

std::vector<MemoryItem> memory_items(const CpuWeightBytes& bytes, const CpuMemoryPlan& plan) {
  std::vector<MemoryItem> items{
      {"weights", bytes.trunk, false},          {"kv cache", plan.kv_cache, false},
      {"recurrent state", plan.state, false},   {"state checkpoints", plan.spare_state, false},
      {"activations", plan.activations, false}, {"logits", plan.logits, false}};
  if (bytes.mtp > 0) {
    items.insert(items.begin() + 1, {"weights of the draft block", bytes.mtp, false});
  }
  return items;
}

class CpuRunner final : public Runner {
 public:
  CpuRunner(const Weights& weights, const RunnerOptions& options, cpu::Isa isa,
            std::unique_ptr<cpu::ThreadPool> pool, Progress progress, void* context)
      : isa_(isa),
        pool_(std::move(pool)),
        weights_(CpuWeights::pack(weights, isa, *pool_, progress, context)),
        forward_(weights_, options, isa, *pool_),
        capacity_(capacity_of(options, weights_.config)),
        check_(capacity_) {
    results_.reserve(static_cast<size_t>(options.max_rows));
  }

  const Config& config() const override { return weights_.config; }
  const Capacity& capacity() const override { return capacity_; }
  std::string describe() const override {
    return fmt::format("cpu ({}, {} thread{})", cpu::isa_name(isa_), pool_->size(),
                       pool_->size() == 1 ? "" : "s");
  }

  std::vector<MemoryItem> memory() const override {
    return memory_items(cpu_weight_bytes(weights_), forward_.reserved());
  }

  DeviceLimits measure_limits() override {
    const cpu::MachineSpeed speed = cpu::measure_machine(isa_, *pool_);
    return {speed.read_bandwidth, speed.int8_ops};
  }

  MemoryRead read_memory() override {
    if (read_buffer_ == nullptr) {
      read_buffer_ = std::make_unique<cpu::ReadBuffer>(isa_, *pool_);
    }
    return {static_cast<double>(read_buffer_->bytes()), read_buffer_->read()};
  }

  void submit(const Batch& batch) override {
    FL_CHECK(!in_flight_, "a step is in flight already");
    check_(batch);
    forward_.run(batch);
    results_.clear();
    int32_t next = 0;
    for (const Row& row : batch.rows) {
      RowResult result;
      if (row.logits_to_host) {
        result.logits = forward_.logits(next);
        result.maxima = forward_.maxima(next++);
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
    check_copy(capacity_, from_row, to_row);
    forward_.copy_state(from_row, to_row);
  }

 private:
  cpu::Isa isa_;
  std::unique_ptr<cpu::ThreadPool> pool_;
  CpuWeights weights_;
  CpuForward forward_;
  Capacity capacity_;
  BatchCheck check_;
  bool in_flight_ = false;
  std::unique_ptr<cpu::ReadBuffer> read_buffer_;  ///< of benchmarks
  std::vector<RowResult> results_;
};

}  // namespace

static_assert(kBlockTokens == kKvBlock && kBlockTokens == kDeltaChunk, "one grid for blocks and chunks");

Result<std::vector<MemoryItem>> plan_cpu_runner(const Weights& weights, const RunnerOptions& options) {
  FL_TRY(check_options(weights.config, options));
  const int n_threads = options.n_threads > 0 ? options.n_threads : cpu::ThreadPool::default_size();
  return memory_items(cpu_weight_bytes(weights, cpu::best_isa()),
                      plan_cpu_memory(weights.config, options, n_threads));
}

Result<std::unique_ptr<Runner>> make_cpu_runner(const Weights& weights, const RunnerOptions& options,
                                                Progress progress, void* context) {
  FL_TRY(check_options(weights.config, options));
  const cpu::Isa isa = cpu::best_isa();
  auto pool = std::make_unique<cpu::ThreadPool>(options.n_threads);
  const CpuMemoryPlan plan = plan_cpu_memory(weights.config, options, pool->size());
  const CpuWeightBytes bytes = cpu_weight_bytes(weights, isa);
  const uint64_t total = bytes.trunk + bytes.mtp + plan.kv_cache + plan.state + plan.spare_state +
                         plan.activations + plan.logits;
  const auto sizes = [&] {
    const auto mib = [](uint64_t b) { return static_cast<double>(b) / kMiB; };
    return fmt::format(
        "weights {:.1f} MiB, kv cache {:.1f} MiB, recurrent state {:.1f} MiB, state checkpoints {:.1f} MiB, "
        "activations {:.1f} MiB, logits {:.1f} MiB",
        mib(bytes.trunk + bytes.mtp), mib(plan.kv_cache), mib(plan.state), mib(plan.spare_state),
        mib(plan.activations), mib(plan.logits));
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
