// One part of a GGUF file, parsed: the directory without the accessors.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "gguf/gguf.h"

namespace fl::gguf {

// Limits on what a file may claim, beside its own size. The largest published models have 1 024 tensors, 60
// keys and 248 320 tokens.
inline constexpr uint64_t kMaxTensors = 1 << 16;
inline constexpr uint64_t kMaxEntries = 1 << 16;
inline constexpr uint64_t kMaxArray = 1 << 22;  ///< elements; readers widen them to eight bytes
inline constexpr uint64_t kMaxNameBytes = 65535;
inline constexpr uint32_t kMaxAlignment = 1 << 16;
inline constexpr uint32_t kDefaultAlignment = 32;

struct RawEntry {
  std::string_view key;
  ValueType type;
  ValueType element;  ///< of an array
  uint64_t count;     ///< of an array, else 1
  size_t data;        ///< offset of the first element
};

struct Part {
  MappedFile file;
  uint32_t version = 0;
  std::vector<RawEntry> entries;
  std::vector<Tensor> tensors;
};

/// Size of a fixed-size value, 0 for strings and arrays.
uint64_t value_bytes(ValueType type);

/// Errors carry the byte offset; the caller adds the path.
Result<Part> parse_part(MappedFile file, uint32_t shard);

}  // namespace fl::gguf
