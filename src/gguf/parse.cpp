#include "gguf/parse.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <unordered_set>

#include <fmt/format.h>

#include "gguf/cursor.h"

namespace fl::gguf {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kMaxDims = 4;

Result<ValueType> read_value_type(Cursor& cursor) {
  const size_t at = cursor.offset();
  FL_ASSIGN(const uint32_t id, cursor.number<uint32_t>("a value type"));
  if (id > static_cast<uint32_t>(ValueType::f64)) {
    return fail(ErrorCode::bad_file,
                fmt::format("offset {}: expected a value type of 0 to 12, found {}", at, id));
  }
  return static_cast<ValueType>(id);
}

Status skip_value(Cursor& cursor, RawEntry& entry) {
  entry.element = entry.type;
  entry.count = 1;
  if (entry.type == ValueType::array) {
    FL_ASSIGN(entry.element, read_value_type(cursor));
    if (entry.element == ValueType::array) {
      return fail(ErrorCode::bad_file,
                  fmt::format("offset {}: key '{}' is an array of arrays", cursor.offset(), entry.key));
    }
    FL_ASSIGN(entry.count, cursor.number<uint64_t>("an array length"));
  }
  entry.data = cursor.offset();
  const bool strings = entry.element == ValueType::string;
  if (entry.count > kMaxArray || (strings && entry.count > cursor.left() / sizeof(uint64_t))) {
    return fail(
        ErrorCode::bad_file,
        fmt::format("offset {}: key '{}': expected an array of at most {} elements, found {}",
                    cursor.offset(), entry.key,
                    std::min<uint64_t>(kMaxArray, strings ? cursor.left() / sizeof(uint64_t) : kMaxArray),
                    entry.count));
  }
  if (!strings) {
    return cursor.skip(entry.count, value_bytes(entry.element), "an array");
  }
  for (uint64_t i = 0; i < entry.count; ++i) {
    FL_TRY(cursor.string("a string"));
  }
  return {};
}

Result<uint32_t> alignment_of(const Part& part) {
  for (const RawEntry& entry : part.entries) {
    if (entry.key != "general.alignment") {
      continue;
    }
    Cursor value(part.file.bytes(), entry.data);
    if (entry.type != ValueType::u32) {
      return fail(ErrorCode::bad_file, "general.alignment is not a 32-bit number");
    }
    FL_ASSIGN(const uint32_t alignment, value.number<uint32_t>("the alignment"));
    if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
      return fail(ErrorCode::bad_file,
                  fmt::format("offset {}: general.alignment: expected a power of two up to {}, found {}",
                              entry.data, kMaxAlignment, alignment));
    }
    return alignment;
  }
  return kDefaultAlignment;
}

Result<Tensor> read_tensor(Cursor& cursor, uint32_t shard) {
  const size_t start = cursor.offset();
  Tensor tensor;
  tensor.shard = shard;
  FL_ASSIGN(const std::string_view name, cursor.string("a tensor name"));
  if (name.empty() || name.size() > kMaxNameBytes) {
    return fail(ErrorCode::bad_file, fmt::format("offset {}: a tensor name of {} bytes", start, name.size()));
  }
  tensor.name = name;
  tensor.view.name = name;
  const auto bad = [&](const std::string& problem) {
    return fail(ErrorCode::bad_file,
                fmt::format("offset {}: tensor '{}': {}", start, name.substr(0, 80), problem));
  };
  FL_ASSIGN(const uint32_t n_dims, cursor.number<uint32_t>("a tensor's dimensions"));
  if (n_dims == 0 || n_dims > kMaxDims) {
    return bad(fmt::format("expected 1 to {} dimensions, found {}", kMaxDims, n_dims));
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < n_dims; ++i) {
    FL_ASSIGN(const int64_t size, cursor.number<int64_t>("a dimension"));
    if (size <= 0 || __builtin_mul_overflow(elements, size, &elements)) {
      return bad(fmt::format("dimension {} is {}", i, size));
    }
    tensor.view.ne[i] = size;
  }
  FL_ASSIGN(const uint32_t type, cursor.number<uint32_t>("a tensor type"));
  const std::optional<DType> known = dtype_from_id(type);
  if (!known) {
    const std::optional<std::string_view> type_name = ggml_type_name(type);
    return bad(fmt::format("the type {} is not supported",
                           type_name ? std::string(*type_name) : fmt::format("number {}", type)));
  }
  tensor.view.type = *known;
  const DTypeInfo& info = dtype_info(*known);
  if (tensor.view.ne[0] % info.block_elems != 0) {
    return bad(fmt::format("rows of {} elements, expected a multiple of {} for {}", tensor.view.ne[0],
                           info.block_elems, info.name));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / info.block_elems, int64_t{info.block_bytes}, &bytes)) {
    return bad("its size overflows");
  }
  FL_ASSIGN(tensor.offset, cursor.number<uint64_t>("a tensor offset"));
  return tensor;
}

// Fixes the data pointers: aligned, inside the file, no two on the same bytes.
Status place_tensors(Part& part, size_t blob, uint32_t alignment) {
  const std::span<const std::byte> bytes = part.file.bytes();
  std::vector<std::pair<uint64_t, uint64_t>> extents;
  for (Tensor& tensor : part.tensors) {
    const uint64_t size = tensor.view.bytes();
    uint64_t start = 0;
    uint64_t end = 0;
    if (tensor.offset % alignment != 0) {
      return fail(ErrorCode::bad_file,
                  fmt::format("tensor '{}': offset {} is not a multiple of the alignment {}", tensor.name,
                              tensor.offset, alignment));
    }
    if (__builtin_add_overflow(uint64_t{blob}, tensor.offset, &start) ||
        __builtin_add_overflow(start, size, &end) || end > bytes.size()) {
      return fail(ErrorCode::bad_file,
                  fmt::format("tensor '{}': {} bytes at offset {} of the data, but the file has {} bytes",
                              tensor.name, size, tensor.offset, bytes.size()));
    }
    tensor.offset = start;
    tensor.view.data = bytes.data() + start;
    extents.emplace_back(start, end);
  }
  std::sort(extents.begin(), extents.end());
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].first < extents[i - 1].second) {
      return fail(ErrorCode::bad_file, fmt::format("offset {}: two tensors overlap", extents[i].first));
    }
  }
  return {};
}

}  // namespace

uint64_t value_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean:
      return 1;
    case ValueType::u16:
    case ValueType::i16:
      return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32:
      return 4;
    case ValueType::u64:
    case ValueType::i64:
    case ValueType::f64:
      return 8;
    case ValueType::string:
    case ValueType::array:
      return 0;
  }
  return 0;
}

Result<Part> parse_part(MappedFile file, uint32_t shard) {
  Part part;
  part.file = std::move(file);
  Cursor cursor(part.file.bytes());
  FL_ASSIGN(const uint32_t magic, cursor.number<uint32_t>("the magic number"));
  if (magic != kMagic) {
    return fail(ErrorCode::bad_file,
                fmt::format("offset 0: not a GGUF file: expected the bytes 'GGUF', found {:#010x}", magic));
  }
  FL_ASSIGN(part.version, cursor.number<uint32_t>("the version"));
  if (part.version != 2 && part.version != 3) {
    const bool swapped = part.version != 0 && (part.version & 0xFFFFU) == 0;
    return fail(ErrorCode::bad_file, fmt::format("offset 4: expected version 2 or 3, found {}{}",
                                                 part.version, swapped ? " (a big-endian file?)" : ""));
  }
  FL_ASSIGN(const uint64_t n_tensors, cursor.number<uint64_t>("the tensor count"));
  FL_ASSIGN(const uint64_t n_entries, cursor.number<uint64_t>("the metadata count"));
  if (n_tensors > kMaxTensors || n_entries > kMaxEntries) {
    return fail(ErrorCode::bad_file,
                fmt::format("offset 8: {} tensors and {} metadata entries, at most {} and {} are taken",
                            n_tensors, n_entries, kMaxTensors, kMaxEntries));
  }
  std::unordered_set<std::string_view> names;
  for (uint64_t i = 0; i < n_entries; ++i) {
    const size_t start = cursor.offset();
    RawEntry entry{};
    FL_ASSIGN(entry.key, cursor.string("a key"));
    if (entry.key.empty() || entry.key.size() > kMaxNameBytes || !names.insert(entry.key).second) {
      return fail(ErrorCode::bad_file,
                  fmt::format("offset {}: the key '{}' is empty, too long or there twice", start,
                              entry.key.substr(0, 80)));
    }
    FL_ASSIGN(entry.type, read_value_type(cursor));
    FL_TRY(skip_value(cursor, entry));
    part.entries.push_back(entry);
  }
  FL_ASSIGN(const uint32_t alignment, alignment_of(part));
  names.clear();
  for (uint64_t i = 0; i < n_tensors; ++i) {
    const size_t start = cursor.offset();
    FL_ASSIGN(Tensor tensor, read_tensor(cursor, shard));
    if (!names.insert(tensor.view.name).second) {
      return fail(ErrorCode::bad_file,
                  fmt::format("offset {}: the tensor '{}' is there twice", start, tensor.name.substr(0, 80)));
    }
    part.tensors.push_back(std::move(tensor));
  }
  const size_t blob = (cursor.offset() + alignment - 1) / alignment * alignment;
  FL_TRY(place_tensors(part, blob, alignment));
  return part;
}

}  // namespace fl::gguf
