// The Runner of the device: checks batches, plans the memory, turns device failures into errors at step
// boundaries.
#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/cuda/limits.h"
#include "model/contract.h"
#include "model/cuda_forward.h"
#include "model/host_buffer.h"
#include "model/runners.h"

namespace fl::model {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;
/// What a CUDA context and the program's code take at most; memory beyond it that is in use belongs to
/// others.
constexpr uint64_t kLargestContext = uint64_t{1} << 30;
/// What kernels take when they are launched first: their code, and stacks of the threads that need more than
/// the driver was told to keep (136 MiB on sm_90, with the 27B). Kept free when a runner is planned.
constexpr uint64_t kFirstLaunches = uint64_t{160} << 20;

Capacity device_capacity(const RunnerOptions& options, const Config& config) {
  Capacity capacity = capacity_of(options, config);
  capacity.max_in_flight = kCudaInFlight;
  capacity.max_device_top_k = cuda::kMaxTopK;
  capacity.max_device_bias = std::min(cuda::kMaxSamplingBias, config.n_vocab - 1);
  return capacity;
}

double mib(uint64_t bytes) {
  return static_cast<double>(bytes) / kMiB;
}

DeviceError device_error(const cuda::DeviceFailure& failure) {
  return DeviceError(failure.what(), failure.lost);
}

std::vector<MemoryItem> memory_items(uint64_t weights, uint64_t embeddings, const CudaMemoryPlan& plan) {
  return {{"weights", weights, true},
          {"kv cache", plan.kv_cache, true},
          {"recurrent state", plan.state, true},
          {"activations", plan.activations, true},
          {"logits", plan.logits, true},
          {"workspace", plan.workspace, true},
          {"step tables", plan.tables, true},
          {"token embeddings (page-locked)", embeddings, false},
          {"state checkpoints (page-locked)", plan.spare_state, false},
          {"results in flight (page-locked)", plan.host, false}};
}

/// What the driver and this program's code take, as far as it can be told from others' use.
uint64_t context_bytes(const cuda::DeviceInfo& device) {
  return std::min(device.total_memory - device.free_memory, kLargestContext);
}

uint64_t available_bytes(const cuda::DeviceInfo& device, uint64_t memory_limit) {
  const auto less = [](uint64_t bytes, uint64_t by) { return bytes - std::min(bytes, by); };
  uint64_t available = device.free_memory;
  if (memory_limit > 0) {
    available = std::min(available, less(memory_limit, context_bytes(device)));
  }
  return less(available, kFirstLaunches);
}

class CudaRunner final : public Runner {
 public:
  CudaRunner(CudaWeights weights, const RunnerOptions& options, const cuda::DeviceInfo& device,
             uint64_t context)
      : device_(device),
        context_(context),
        weights_(std::move(weights)),
        forward_(weights_, options, device),
        capacity_(device_capacity(options, weights_.config)),
        check_(capacity_) {
    for (std::vector<Row>& rows : rows_) {
      rows.reserve(static_cast<size_t>(options.max_rows));
    }
    results_.reserve(static_cast<size_t>(options.max_rows));
  }

  const Config& config() const override { return weights_.config; }
  const Capacity& capacity() const override { return capacity_; }
  std::string describe() const override {
    return fmt::format("cuda ({}, sm_{}, {})", device_.name, device_.arch, forward_.describe_products());
  }

  std::vector<MemoryItem> memory() const override {
    std::vector<MemoryItem> items =
        memory_items(weights_.device_bytes(), weights_.host_bytes(), forward_.reserved());
    items.push_back({"driver and code", context_ + launched_bytes(), true});
    return items;
  }

  DeviceLimits measure_limits() override {
    FL_CHECK(in_flight_ == 0, "a step is in flight");
    try {
      const cuda::Queue queue{forward_.stream().get(), false};
      DeviceLimits limits;
      limits.read_bandwidth = cuda::measure_read_bandwidth(queue, weights_.device_data(),
                                                           weights_.device_bytes() / 16 * 16, device_.n_sms);
      limits.int8_ops = cuda::measure_matrix_peak(queue, device_.n_sms);
      return limits;
    } catch (const cuda::DeviceFailure& failure) {
      throw device_error(failure);
    }
  }

  void submit(const Batch& batch) override {
    FL_CHECK(in_flight_ < kCudaInFlight, "as many steps as may be are in flight already");
    check_(batch);
    const int slot = next_slot_;
    try {
      forward_.enqueue(batch, slot);
    } catch (const cuda::DeviceFailure& failure) {
      throw device_error(failure);
    }
    rows_[slot].assign(batch.rows.begin(), batch.rows.end());
    next_slot_ = (slot + 1) % kCudaInFlight;
    ++in_flight_;
  }

  std::span<const RowResult> collect() override {
    FL_CHECK(in_flight_ > 0, "no step to collect");
    const int slot = (next_slot_ + kCudaInFlight - in_flight_) % kCudaInFlight;
    --in_flight_;
    try {
      forward_.wait(slot);
    } catch (const cuda::DeviceFailure& failure) {
      throw device_error(failure);
    }
    results_.clear();
    int32_t next = 0;
    for (size_t i = 0; i < rows_[slot].size(); ++i) {
      const Row& row = rows_[slot][i];
      RowResult result;
      if (row.sampling.mode != DeviceSampling::Mode::none) {
        result.token = forward_.token(slot, static_cast<int32_t>(i));
      }
      if (row.logits_to_host) {
        result.logits = forward_.logits(slot, next++);
      }
      results_.push_back(result);
    }
    return results_;
  }

  void copy_state(int32_t from_row, int32_t to_row) override {
    check_copy(capacity_, from_row, to_row);
    try {
      forward_.copy_state(from_row, to_row);
    } catch (const cuda::DeviceFailure& failure) {
      throw device_error(failure);
    }
  }

 private:
  // What launches so far took beside the buffers: what is gone since the start and not ours, but no more than
  // launches can take, since others use the device too.
  uint64_t launched_bytes() const {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) {
      return 0;  // a lost device: the next step says so
    }
    const uint64_t own = weights_.device_bytes() + forward_.reserved().device();
    const uint64_t taken = device_.free_memory - std::min(device_.free_memory, uint64_t{free_bytes});
    return std::min(taken - std::min(taken, own), kFirstLaunches);
  }

  cuda::DeviceInfo device_;
  uint64_t context_;
  CudaWeights weights_;
  CudaForward forward_;
  Capacity capacity_;
  BatchCheck check_;
  std::vector<Row> rows_[kCudaInFlight];
  std::vector<RowResult> results_;
  int next_slot_ = 0;
  int in_flight_ = 0;
};

// How many tokens of KV cache would fit with all else as asked for; in words.
std::string what_fits(const Config& config, RunnerOptions options, uint64_t weights, uint64_t available) {
  const auto fits = [&](int32_t n_blocks) {
    options.n_blocks = n_blocks;
    return weights + plan_cuda_memory(config, options).device() <= available;
  };
  if (!fits(1)) {
    options.max_tokens = std::max(options.max_slices + kBlockTokens, 2 * kBlockTokens);
    if (!fits(1)) {
      return "nothing fits, whatever the context: fewer sequences, or a smaller model";
    }
    return fmt::format("it fits with steps of {} tokens", options.max_tokens);
  }
  int32_t low = 1;
  int32_t high = options.n_blocks;
  for (high = 2; high < (1 << 26) && fits(high); high *= 2) {
    low = high;
  }
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return fmt::format("the largest KV cache that fits holds {} tokens", int64_t{low} * kBlockTokens);
}

}  // namespace

static_assert(kBlockTokens == kKvBlock && kBlockTokens == kDeltaChunk, "one grid for blocks and chunks");

bool cuda_available() {
  return cuda::device_count() > 0;
}

Result<std::vector<MemoryItem>> plan_cuda_runner(const Weights& weights, const RunnerOptions& options) {
  FL_TRY(check_options(weights.config, options));
  return memory_items(cuda_weight_bytes(weights), weights.token_embd.bytes(),
                      plan_cuda_memory(weights.config, options));
}

uint64_t cuda_memory_available(uint64_t memory_limit) {
  if (!cuda_available()) {
    return 0;
  }
  try {
    return available_bytes(cuda::use_device(0), memory_limit);
  } catch (const cuda::DeviceFailure&) {
    return 0;
  }
}

Result<std::unique_ptr<Runner>> make_cuda_runner(const Weights& weights, const RunnerOptions& options,
                                                 Progress progress, void* context) {
  FL_TRY(check_options(weights.config, options));
  if (!cuda_available()) {
    return fail(ErrorCode::device,
                "no CUDA device answers (a driver, and compute capability 8.0 or more, are needed)");
  }
  try {
    const cuda::DeviceInfo device = cuda::use_device(0);
    const uint64_t in_use = context_bytes(device);
    const uint64_t weight_bytes = cuda_weight_bytes(weights);
    const CudaMemoryPlan plan = plan_cuda_memory(weights.config, options);
    const uint64_t total = weight_bytes + plan.device();
    const uint64_t available = available_bytes(device, options.memory_limit);
    if (total > available) {
      return fail(
          ErrorCode::does_not_fit,
          fmt::format(
              "the model needs {:.1f} MiB of device memory and {:.1f} MiB are available (of {:.1f} MiB, "
              "{:.1f} MiB for the driver): weights {:.1f} MiB, kv cache {:.1f} MiB, recurrent state "
              "{:.1f} MiB, activations {:.1f} MiB, logits {:.1f} MiB, workspace {:.1f} MiB; {}",
              mib(total), mib(available),
              mib(options.memory_limit > 0 ? options.memory_limit : device.total_memory),
              mib(in_use + kFirstLaunches), mib(weight_bytes), mib(plan.kv_cache), mib(plan.state),
              mib(plan.activations), mib(plan.logits), mib(plan.workspace + plan.tables),
              what_fits(weights.config, options, weight_bytes, available)));
    }
    const uint64_t embeddings = weights.token_embd.bytes();
    const uint64_t locked = embeddings + plan.spare_state + plan.host;
    if (const uint64_t host = available_memory(); host > 0 && locked > host) {
      return fail(
          ErrorCode::does_not_fit,
          fmt::format("the model needs {:.1f} MiB of page-locked memory beside the device's and {:.1f} MiB "
                      "are available: token embeddings {:.1f} MiB, state checkpoints {:.1f} MiB, results "
                      "in flight {:.1f} MiB; fewer checkpoints need less",
                      mib(locked), mib(host), mib(embeddings), mib(plan.spare_state), mib(plan.host)));
    }
    return std::make_unique<CudaRunner>(
        CudaWeights::load(weights, device, options.direct_io, progress, context), options, device, in_use);
  } catch (const cuda::DeviceFailure& failure) {
    return fail(failure.out_of_memory ? ErrorCode::does_not_fit : ErrorCode::device, failure.what());
  }
}

}  // namespace fl::model
