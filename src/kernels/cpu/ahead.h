// What threads will read after the products that they work on. Products of several tokens wait for the
// multipliers, not for memory: meanwhile their kernels ask for it, a few lines for every group of columns,
// into the second-level cache, from where it moves on to the third (docs/decisions/0035). A hint: it changes
// no result.
#pragma once

#include <cstdint>
#include <vector>

namespace fl::cpu {

/// Products of fewer tokens ask for nothing: they wait for memory themselves.
inline constexpr int kAheadTokens = 6;
/// Asked for at each group of 32 columns and 16 rows, whose 8 tokens take some 90 cycles.
inline constexpr int64_t kAheadBytes = 192;

class Ahead {
 public:
  explicit Ahead(int n_threads) : threads_(static_cast<size_t>(n_threads)) {}
  void clear() {
    for (Thread& thread : threads_) {
      thread.parts.clear();
      thread.next = 0;
    }
  }
  /// Next in what `thread` reads.
  void add(int thread, const void* begin, int64_t bytes) {
    const auto* at = static_cast<const uint8_t*>(begin);
    threads_[static_cast<size_t>(thread)].parts.push_back({at, at + bytes / kAheadBytes * kAheadBytes});
  }

  /// [at, end) is still to be asked for: whole kAheadBytes. Kernels move `at`.
  struct Part {
    const uint8_t* at;
    const uint8_t* end;
  };
  /// For `thread` itself; null: there is nothing left.
  Part* part(int thread) {
    Thread& mine = threads_[static_cast<size_t>(thread)];
    while (mine.next < mine.parts.size() && mine.parts[mine.next].at == mine.parts[mine.next].end) {
      ++mine.next;
    }
    return mine.next < mine.parts.size() ? &mine.parts[mine.next] : nullptr;
  }

 private:
  struct alignas(64) Thread {
    std::vector<Part> parts;
    size_t next = 0;
  };
  std::vector<Thread> threads_;
};

}  // namespace fl::cpu
