// Which of the products of matmul.h a device takes.
#pragma once

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

/// Whether long prompts are multiplied in int8; `library`: cuBLASLt is there.
bool wants_int8(const MatmulOptions& options, int arch, bool library);

/// Matmul::most_records of a device (DeviceInfo::arch).
int32_t records_of(const MatmulOptions& options, int arch);

/// Of the workspace, behind the tickets: what products of 9 to 64 tokens keep from launch to launch
/// (matmul_batch.h). The same whatever the options, so that objects in turn may have one workspace.
uint64_t parts_of_groups_bytes(int arch, int n_sms);

}  // namespace fl::cuda
