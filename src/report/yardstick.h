// A small fixed measurement of the machine itself, beside each repeat: a machine that changed between two
// measurements shows in it, whatever server was measured.
//
// Virtual cores are moved between the host's real ones. Where they lie decides how long a word takes from
// one to the other and which path to memory they have, and a server's speed follows: docs/decisions/0091.
#pragma once

#include <cstdint>
#include <vector>

#include "report/document.h"

namespace fl::report {

/// Keeps the memory that it reads: twice the last cache. Not for several threads at once.
class YardstickMeter {
 public:
  YardstickMeter();
  /// A few milliseconds on all cores that this process may use; only while the server has nothing to do.
  Yardstick measure();
  /// A few milliseconds, and the last cache keeps most of what it holds.
  Glance glance();

  /// What the next reading of the last cache reads. Where a piece lies in physical memory makes it up to a
  /// tenth faster or slower than others, as long as a process has it: each reading takes another one.
  const uint64_t* next_cached();

 private:
  Yardstick measure_awake();
  Glance glance_awake();

  std::vector<int> cores_;
  std::vector<uint64_t> memory_;
  size_t cached_at_ = 0;  // words
};

/// The whole last cache, of the largest instance that /sys describes; 0: it does not say.
int64_t last_level_cache_bytes();

}  // namespace fl::report
