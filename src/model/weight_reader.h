// Reading weights by the address that their mapping gives them: from the page cache where it holds them, and
// from the disk as fast as it goes where not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/weights.h"

namespace fl::model {

class WeightReader {
 public:
  /// Room that read() may need before and behind the bytes themselves; its buffers start at a multiple of it.
  static constexpr uint64_t kBlock = 4096;
  static constexpr uint64_t room(uint64_t bytes) { return bytes + 2 * kBlock; }

  /// The mappings must outlive the reader. `direct`: what the page cache does not hold is read past it
  /// (O_DIRECT), which leaves others' pages alone; else through the mapping, which is as fast on the disks
  /// that were measured (docs/gpu-step.md) and leaves the file there for the next start. Files that refuse
  /// O_DIRECT are read through their mappings.
  WeightReader(const std::vector<Weights::Source>& sources, bool direct);
  ~WeightReader();
  WeightReader(const WeightReader&) = delete;
  WeightReader& operator=(const WeightReader&) = delete;

  /// Brings `bytes` bytes at `from` into memory and says where they begin: in `buffer` (room(bytes), at a
  /// multiple of kBlock), or at `from` itself when the mapping holds them. From any thread.
  const std::byte* read(const std::byte* from, uint64_t bytes, std::byte* buffer) const;

 private:
  struct File {
    const std::byte* begin;
    uint64_t bytes;
    int fd;  ///< O_DIRECT; -1: only the mapping
  };
  std::vector<File> files_;
};

}  // namespace fl::model
