// What the device can do at most, measured on it: the ceilings that benchmarks state their distance from.
#pragma once

#include <cstdint>

#include "kernels/cuda/queue.h"

namespace fl::cuda {

/// Bytes a second of reading `bytes` (a multiple of 16; more than the caches hold) once, best of a few
/// passes.
double measure_read_bandwidth(const Queue& queue, const void* data, uint64_t bytes, int n_sms);
/// Operations a second (a multiply-add is two) of the matrix instruction that the products use, mma.sync
/// m16n8k16 in f16 with f32 sums, with nothing else in the way.
double measure_matrix_peak(const Queue& queue, int n_sms);
/// The same of m16n8k32 in int8.
double measure_int8_peak(const Queue& queue, int n_sms);

}  // namespace fl::cuda
