// A GGUF file as a checked directory of metadata and extents. No byte of the file is trusted: every count,
// length and offset is checked against the file's size before it is used, with overflow-checked arithmetic,
// and nothing is allocated for what the file merely claims. Format: ggml-org/ggml, docs/gguf.md; v2 and v3,
// little endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "core/tensor.h"

namespace fl::gguf {

/// Value types of the file, by their ids.
enum class ValueType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

class Value;

/// A tensor as the directory lists it; `view.data` points into the mapping of its shard.
struct Tensor {
  std::string name;
  TensorView view;
  uint64_t offset = 0;  ///< from the start of its shard's file
  uint32_t shard = 0;
};

class File {
 public:
  /// Maps the file; of a split model ("-00001-of-000NN.gguf") the first part is named and the others are
  /// found beside it. Errors carry the path and the byte offset. A file without tensors (vocabulary only) is
  /// valid.
  static Result<File> open(const std::filesystem::path& path);

  File(File&&) noexcept;
  File& operator=(File&&) noexcept;
  ~File();

  const std::filesystem::path& path() const;
  uint32_t version() const;
  uint64_t file_bytes() const;  ///< of all shards

  // Metadata. Integers are accepted in any width; a value of another kind or out of range is an error that
  // names the key. The `_or` forms return the default only when the key is absent.
  bool has(std::string_view key) const;
  Result<std::string_view> get_string(std::string_view key) const;
  Result<int64_t> get_int(std::string_view key) const;
  Result<double> get_float(std::string_view key) const;
  Result<bool> get_bool(std::string_view key) const;
  Result<std::vector<std::string_view>> get_strings(std::string_view key) const;  ///< views into the mapping
  Result<std::vector<int64_t>> get_ints(std::string_view key) const;  ///< array, or a scalar as one element
  Result<std::vector<float>> get_floats(std::string_view key) const;
  Result<std::string_view> get_string_or(std::string_view key, std::string_view fallback) const;
  Result<int64_t> get_int_or(std::string_view key, int64_t fallback) const;
  Result<double> get_float_or(std::string_view key, double fallback) const;
  Result<bool> get_bool_or(std::string_view key, bool fallback) const;

  struct Entry {
    std::string_view key;
    ValueType type;
    ValueType element;  ///< of an array
    uint64_t count;     ///< of an array, else 1
  };
  std::vector<Entry> entries() const;  ///< in file order
  /// A short text of a value for people ("qwen35", "[248320 strings]").
  std::string describe(std::string_view key, size_t max_chars = 80) const;
  /// The raw value, for copying a file's metadata to another.
  Result<Value> value(std::string_view key) const;

  /// The shards as they are mapped: where the bytes of `view.data` come from.
  struct Mapping {
    std::filesystem::path path;
    std::span<const std::byte> bytes;
  };
  std::vector<Mapping> mappings() const;

  std::span<const Tensor> tensors() const;
  const Tensor* find(std::string_view name) const;

 private:
  struct Impl;
  explicit File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// An owned metadata value, for the writer.
class Value {
 public:
  using Storage =
      std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string, uint64_t,
                   int64_t, double, std::vector<std::string>, std::vector<int32_t>, std::vector<uint32_t>,
                   std::vector<float>, std::vector<bool>, std::vector<int64_t>, std::vector<double>>;
  /// From exactly one of the types above: the file stores what is given.
  template <typename T>
  requires requires(T held) { Storage(std::in_place_type<T>, std::move(held)); }
  Value(T held) : storage_(std::in_place_type<T>, std::move(held)) {}  // NOLINT: a value is what it holds
  const Storage& storage() const { return storage_; }

 private:
  Storage storage_;
};

/// Writes version 3: declare all metadata and tensors, then the data in the same order, in pieces of any
/// size. The file appears under its name only when finish() succeeded (in the place of one that was there);
/// before that a failure or a killed process leaves nothing.
class Writer {
 public:
  /// invalid_argument: the path is a folder or a device; io: the system refuses.
  static Result<Writer> create(const std::filesystem::path& path);
  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;
  ~Writer();

  void set(std::string key, Value value);
  void declare(std::string name, DType type, std::vector<int64_t> ne);
  /// Ends the declarations, reserves the space of the whole file (io when the disk has not that much) and
  /// writes the header.
  Status begin_data();
  /// Appends to the current tensor; moves on to the next when it is full.
  Status write(std::span<const std::byte> bytes);
  /// Error if data is missing. Syncs and renames.
  Status finish();
  /// Instead of all data: a hole that reads as zeros and takes no room on the disk. For planning by a file's
  /// directory alone.
  Status finish_hollow();

 private:
  struct Impl;
  explicit Writer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::gguf
