// What this machine can do at most, measured: the denominators of every share of the limit.
#pragma once

#include <cstdint>

#include "kernels/cpu/aligned_bytes.h"
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

/// With the threads of `pool`: of the reads the median, of the operations the best of several short runs.
/// Takes about half a second and 256 MiB.
MachineSpeed measure_machine(Isa isa, ThreadPool& pool);

/// A buffer several times as large as the last cache of a large machine's core complex, for reading once at a
/// time: where memory is shared with other machines, its speed is that of the moment.
class ReadBuffer {
 public:
  /// Throws std::bad_alloc.
  ReadBuffer(Isa isa, ThreadPool& pool);
  /// Every thread reads its part once, some milliseconds; seconds.
  double read() const;
  int64_t bytes() const { return part_ * pool_.size(); }

 private:
  Isa isa_;
  ThreadPool& pool_;
  AlignedBytes buffer_;
  int64_t part_;  ///< bytes of a thread
};

}  // namespace fl::cpu
