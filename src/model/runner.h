// What the engine needs of a model: run a Batch, keep the two memories (KV blocks, recurrent state rows).
// One Runner per backend (cpu_runner, cuda_runner) and a fake one for the scheduler's tests. Not thread-safe:
// the engine thread owns it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/dtype.h"
#include "model/batch.h"
#include "model/config.h"

namespace fl::model {

class Weights;

/// How a GPU multiplies prompts: with activations as 16-bit floats, or as int8 with a
/// scale for each 32. automatic: int8 on chips that ration 16-bit products (docs/decisions/0075). The CPU
/// always has int8.
enum class PromptProducts : uint8_t { automatic, f16, int8 };

/// Everything is reserved when the runner is made; a step allocates nothing.
struct RunnerOptions {
  int32_t n_threads = 0;         ///< 0: one per physical core
  int32_t n_blocks = 0;          ///< KV blocks of kBlockTokens tokens
  int32_t n_state_rows = 1;      ///< that steps use: one for each sequence that runs
  int32_t n_spare_rows = 0;      ///< that only hold copies; the device's runner keeps them in host memory
  int32_t max_tokens = 512;      ///< tokens of one step
  int32_t max_slices = 1;        ///< sequences of one step
  int32_t max_rows = 1;          ///< rows with logits of one step
  DType kv_type_k = DType::f16;  ///< f32, f16, bf16 or q8_0
  DType kv_type_v = DType::f16;
  PromptProducts prompt_products = PromptProducts::automatic;
  /// Weights that are not in the page cache: read past it (a device's runner), not through the mapping.
  bool direct_io = false;
  uint64_t memory_limit = 0;  ///< bytes on the device that runs the model; 0: no limit but the machine's
};

struct Capacity {
  int32_t n_blocks = 0;
  int32_t n_state_rows = 0;
  int32_t n_spare_rows = 0;
  int32_t max_tokens = 0;
  int32_t max_slices = 0;
  int32_t max_rows = 0;
  int32_t n_vocab = 0;
  /// Steps that may be submitted before the first is collected: 1 on the CPU; 2 lets a device run ahead.
  int32_t max_in_flight = 1;
  /// 0: the runner never samples (DeviceSampling::Mode::none only, no kTokenFromDevice).
  int32_t max_device_top_k = 0;
  int32_t max_device_bias = 0;  ///< entries of DeviceSampling::bias; less than n_vocab
};

struct MemoryItem {
  std::string name;  ///< "weights", "kv cache", "recurrent state", "activations", ...
  uint64_t bytes = 0;
  bool on_device = false;
};

/// Answers for Batch::rows, in their order. Valid until the next collect().
struct RowResult {
  int32_t token = -1;             ///< sampled on the device, or -1
  std::span<const float> logits;  ///< [n_vocab] when asked for
  /// Empty, or the largest of each kLogitBlock logits in their order, NaN where one of them is NaN or +inf:
  /// who looks for the largest need not read all.
  std::span<const float> maxima;
};
inline constexpr int32_t kLogitBlock = 16;

/// What the device can do at most, measured on it. Zero: this runner does not measure.
struct DeviceLimits {
  double read_bandwidth = 0;  ///< bytes/s of reading memory with the runner's threads
  double int8_ops = 0;  ///< operations/s (a multiply-add is two) of the dot products that the kernels use
};

/// One read of a large buffer by the runner's threads.
struct MemoryRead {
  double bytes = 0;  ///< zero: this runner has no such thing
  double seconds = 0;
};

class Runner {
 public:
  virtual ~Runner() = default;

  virtual const Config& config() const = 0;
  virtual const Capacity& capacity() const = 0;
  /// "cpu (avx512-vnni, 2 threads)", "cuda (NVIDIA H200, sm_90)".
  virtual std::string describe() const = 0;
  virtual std::vector<MemoryItem> memory() const = 0;
  /// Measures, in about a second; benchmarks state their distance from it. Not while a step is in flight.
  virtual DeviceLimits measure_limits() { return {}; }
  /// For benchmarks, between timed steps: memory that is shared with other machines changes its speed within
  /// seconds, and what steps reach says something only beside what a read reaches in the same moment. Some
  /// milliseconds; the first call reserves the buffer (256 MiB, not in memory()), may throw std::bad_alloc.
  /// Not while a step is in flight.
  virtual MemoryRead read_memory() { return {}; }

  /// Starts a step. Throws DeviceError when the device fails and std::logic_error when the batch breaks the
  /// contract; a step whose submit throws is not in flight.
  virtual void submit(const Batch& batch) = 0;
  /// Waits for the oldest submitted step. When it throws, that step is no longer in flight.
  virtual std::span<const RowResult> collect() = 0;

  /// Copies S and the convolution window of every DeltaNet layer. Rows [0, n_state_rows) are the steps';
  /// [n_state_rows, n_state_rows + n_spare_rows) only hold copies, and no slice may name them. This is how a
  /// checkpoint is taken (a step's row to a spare one) and restored. The copy happens, for whoever looks,
  /// between the steps and copies asked for before and those asked for after; a device runs it beside them.
  virtual void copy_state(int32_t from_row, int32_t to_row) = 0;
};

/// The device failed: the step's requests end with an error; `lost` means that no later step can work either.
class DeviceError : public std::runtime_error {
 public:
  DeviceError(const std::string& what, bool device_lost) : std::runtime_error(what), lost(device_lost) {}
  bool lost;
};

}  // namespace fl::model
