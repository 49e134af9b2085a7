// Built when the CUDA backend is not: the same functions, with the one answer that is true then.
#include "model/runners.h"

namespace fl::model {

Result<std::unique_ptr<Runner>> make_cuda_runner(const Weights& /*weights*/, const RunnerOptions& /*options*/,
                                                 Progress /*progress*/, void* /*context*/) {
  return fail(ErrorCode::device, "this build has no CUDA backend (configure with FREELUNCH_CUDA=ON)");
}

Result<std::vector<MemoryItem>> plan_cuda_runner(const Weights& /*weights*/,
                                                 const RunnerOptions& /*options*/) {
  return fail(ErrorCode::device, "this build has no CUDA backend (configure with FREELUNCH_CUDA=ON)");
}

uint64_t cuda_memory_available(uint64_t /*memory_limit*/) {
  return 0;
}

bool cuda_available() {
  return false;
}

}  // namespace fl::model
