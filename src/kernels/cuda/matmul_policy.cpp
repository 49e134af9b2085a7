#include "kernels/cuda/matmul_policy.h"

#include <algorithm>

#include "kernels/cuda/library_matmul.h"
#include "kernels/cuda/matmul_batch.h"
#include "kernels/cuda/matmul_int8.h"
#include "kernels/cuda/matmul_prompt.h"
#include "kernels/cuda/matmul_workspace.h"

namespace fl::cuda {
namespace {

// Chips on which 16-bit products with f32 sums run at a quarter of the int8 rate: GeForce and workstation
// cards. On an A100 both are equal for our int8 product: only a missing library decides for it.
constexpr bool rations_f16(int arch) {
  return arch == 86 || arch == 87 || arch == 89 || arch >= 120;
}

}  // namespace

bool wants_int8(const MatmulOptions& options, int arch, bool library) {
  switch (options.prompt) {
    case PromptProducts::f16:
      return false;
    case PromptProducts::int8:
      return true;
    case PromptProducts::automatic:
      return rations_f16(arch) || (arch < 90 && !library);
  }
  return false;
}

int32_t records_of(const MatmulOptions& options, int arch) {
  if (!options.prompt_kernel || !has_prompt_kernel(arch) || options.prompt == PromptProducts::int8) {
    return kMaxColumns;
  }
  return options.most_records > 0 ? options.most_records : kLeastBatchTokens - 1;
}

uint64_t parts_of_groups_bytes(int arch, int n_sms) {
  return has_prompt_kernel(arch) ? batch_parts_bytes(n_sms) : 0;
}

uint64_t Matmul::workspace_bytes(int32_t max_tokens, int64_t swiglu_rows, int64_t max_cols,
                                 const MatmulOptions& options) {
  const int n_sms = device_attribute(cudaDevAttrMultiProcessorCount, "number of SMs");
  const int arch = device_arch();
  const int32_t in_records = records_of(options, arch);
  const bool prompt = options.prompt_kernel && has_prompt_kernel(arch);
  const int32_t columns = std::min(max_tokens, in_records);
  const uint64_t shared =
      std::max(shared_sums_bytes(n_sms, columns), swiglu_sums_bytes(columns, swiglu_rows)) +
      carries_bytes(n_sms, columns);
  const uint64_t sums =
      std::max(shared + gate_and_up_bytes(max_tokens, swiglu_rows), prompt ? prompt_scratch_bytes(n_sms) : 0);
  uint64_t own = slices_bytes(kMaxColumns, max_cols) + sums;
  if (wants_int8(options, arch, false)) {
    own = std::max(own, int8_activation_bytes(max_tokens, max_cols));
  }
  const bool library = !prompt && options.library && max_tokens >= options.library_from_tokens;
  return aligned(kTicketBytes + parts_of_groups_bytes(arch, n_sms) +
                 (library ? LibraryMatmul::workspace_bytes(max_tokens, own) : own));
}

}  // namespace fl::cuda
