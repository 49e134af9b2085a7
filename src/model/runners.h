// Making a runner. A build without CUDA links a stub for the second function.
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "model/runner.h"
#include "model/weights.h"

namespace fl::model {

/// Repacks the weights for this machine's instruction set; the file may be unmapped afterwards. `progress`,
/// if given, is called with (bytes done, bytes in all).
using Progress = void (*)(void* context, uint64_t done, uint64_t total);

Result<std::unique_ptr<Runner>> make_cpu_runner(const Weights& weights, const RunnerOptions& options,
                                                Progress progress = nullptr, void* context = nullptr);

/// What memory() of such a runner will say, by the same sums, without making it.
Result<std::vector<MemoryItem>> plan_cpu_runner(const Weights& weights, const RunnerOptions& options);

/// ErrorCode::device when there is no toolkit in the build, no driver or no device.
Result<std::unique_ptr<Runner>> make_cuda_runner(const Weights& weights, const RunnerOptions& options,
                                                 Progress progress = nullptr, void* context = nullptr);

/// What memory() of such a runner will say of the device and of page-locked host memory, but for the driver's
/// own part. ErrorCode::device in a build without CUDA.
Result<std::vector<MemoryItem>> plan_cuda_runner(const Weights& weights, const RunnerOptions& options);

/// Bytes of the device that a runner may take now, under a limit of what it and the driver use together (0:
/// none). 0 without a device.
uint64_t cuda_memory_available(uint64_t memory_limit);

/// True when this build has the CUDA backend and a device answers.
bool cuda_available();

}  // namespace fl::model
