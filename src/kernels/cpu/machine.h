// What this machine can do at most, measured: the denominators of every share of the limit.
#pragma once

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/thread_pool.h"

namespace fl::cpu {

struct MachineSpeed {
  double read_bandwidth =
      0;  ///< bytes/s: all threads of the pool read disjoint parts of a buffer larger than the caches
  double int8_ops =
      0;  ///< operations/s (a multiply-add is two) of the dot product that the kernels of `isa` use
  double f32_ops = 0;  ///< the same of float multiply-adds
};

/// The best of several short runs with the threads of `pool`; takes about half a second and 256 MiB.
MachineSpeed measure_machine(Isa isa, ThreadPool& pool);

}  // namespace fl::cpu
