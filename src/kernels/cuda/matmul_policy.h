// Which of the products of matmul.h a device takes.
#pragma once

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

/// Whether long prompts are multiplied in int8; `library`: cuBLASLt is there.
bool wants_int8(const MatmulOptions& options, int arch, bool library);

/// Matmul::most_records of a device (DeviceInfo::arch).
int32_t records_of(const MatmulOptions& options, int arch);

}  // namespace fl::cuda
