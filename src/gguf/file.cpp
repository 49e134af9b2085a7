#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_map>

#include <fmt/format.h>

#include "gguf/cursor.h"
#include "gguf/gguf.h"
#include "gguf/parse.h"

namespace fl::gguf {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxShards = 1000;

std::string_view type_word(ValueType type) {
  static constexpr std::string_view kWords[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                "bool", "string", "array", "u64", "i64", "f64"};
  return kWords[static_cast<size_t>(type)];
}

template <typename T>
T load(const Part& part, size_t at) {
  T value;
  std::memcpy(&value, part.file.bytes().data() + at, sizeof(T));
  return value;
}

// An integer of any width as int64; nothing when it is no integer or does not fit.
std::optional<int64_t> integer_at(const Part& part, ValueType type, size_t at) {
  switch (type) {
    case ValueType::u8:
      return load<uint8_t>(part, at);
    case ValueType::i8:
      return load<int8_t>(part, at);
    case ValueType::u16:
      return load<uint16_t>(part, at);
    case ValueType::i16:
      return load<int16_t>(part, at);
    case ValueType::u32:
      return load<uint32_t>(part, at);
    case ValueType::i32:
      return load<int32_t>(part, at);
    case ValueType::i64:
      return load<int64_t>(part, at);
    case ValueType::u64: {
      const auto value = load<uint64_t>(part, at);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return std::nullopt;
      }
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> float_at(const Part& part, ValueType type, size_t at) {
  if (type == ValueType::f32) {
    return load<float>(part, at);
  }
  if (type == ValueType::f64) {
    return load<double>(part, at);
  }
  if (const std::optional<int64_t> integer = integer_at(part, type, at)) {
    return static_cast<double>(*integer);
  }
  return std::nullopt;
}

// Length of the UTF-8 character that `text` starts with, or 0 when its first byte starts none (RFC 3629).
size_t character_bytes(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = at(0);
  const size_t n = first < 0x80                    ? 1
                   : first >= 0xC2 && first < 0xE0 ? 2
                   : first >= 0xE0 && first < 0xF0 ? 3
                   : first >= 0xF0 && first < 0xF5 ? 4
                                                   : 0;
  if (n == 0 || n > text.size()) {
    return 0;
  }
  for (size_t i = 1; i < n; ++i) {
    if ((at(i) & 0xC0U) != 0x80) {
      return 0;
    }
  }
  const bool overlong = (first == 0xE0 && at(1) < 0xA0) || (first == 0xF0 && at(1) < 0x90);
  const bool surrogate = first == 0xED && at(1) >= 0xA0;
  const bool too_large = first == 0xF4 && at(1) >= 0x90;
  return overlong || surrogate || too_large ? 0 : n;
}

// In quotes, on one line, valid UTF-8 whatever the bytes are. fmt's "{:?}" aborts on some that are not.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const char c = text[0];
    size_t n = character_bytes(text);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (n == 0 || static_cast<uint8_t>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
      n = 1;
    } else {
      out += text.substr(0, n);
    }
    text.remove_prefix(n);
  }
  return out + "\"";
}

// "model-00001-of-00003.gguf" -> names of all parts; empty for a file that is not split. Only the first may
// be named.
Result<std::vector<fs::path>> part_paths(const fs::path& path) {
  const std::string name = path.filename().string();
  const size_t of = name.rfind("-of-");
  constexpr size_t kDigits = 5;
  if (of == std::string::npos || of < kDigits + 1 || name.size() < of + 4 + kDigits ||
      name[of - kDigits - 1] != '-') {
    return std::vector<fs::path>{path};
  }
  uint64_t number = 0;
  uint64_t count = 0;
  const char* begin = name.data();
  const auto a = std::from_chars(begin + of - kDigits, begin + of, number);
  const auto b = std::from_chars(begin + of + 4, begin + of + 4 + kDigits, count);
  if (a.ptr != begin + of || b.ptr != begin + of + 4 + kDigits) {
    return std::vector<fs::path>{path};
  }
  if (number != 1 || count < 1 || count > kMaxShards) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("'{}' is part {} of {} of a split model: name the first part", path.string(),
                            number, count));
  }
  std::vector<fs::path> paths;
  for (uint64_t i = 1; i <= count; ++i) {
    paths.push_back(path.parent_path() /
                    (name.substr(0, of - kDigits) + fmt::format("{:05}", i) + name.substr(of)));
  }
  return paths;
}

}  // namespace

struct File::Impl {
  fs::path path;
  std::vector<Part> parts;
  std::vector<fs::path> paths;  ///< of the parts
  std::vector<Tensor> tensors;
  std::unordered_map<std::string_view, const RawEntry*> entries;
  std::unordered_map<std::string_view, const Tensor*> by_name;

  const Part& main() const { return parts.front(); }

  Result<const RawEntry*> entry(std::string_view key) const {
    const auto found = entries.find(key);
    if (found == entries.end()) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': the key '{}' is missing", path.string(), key));
    }
    return found->second;
  }

  tl::unexpected<Error> wrong(const RawEntry& entry, const char* expected) const {
    const std::string found = entry.type == ValueType::array
                                  ? fmt::format("array of {} {}", entry.count, type_word(entry.element))
                                  : std::string(type_word(entry.type));
    return fail(ErrorCode::bad_file, fmt::format("'{}': key '{}': expected {}, found {}", path.string(),
                                                 entry.key, expected, found));
  }
};

File::File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;
File::~File() = default;

Result<File> File::open(const fs::path& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  FL_ASSIGN(const std::vector<fs::path> paths, part_paths(path));
  for (size_t i = 0; i < paths.size(); ++i) {
    FL_ASSIGN(MappedFile mapped, MappedFile::open(paths[i]));
    auto part = parse_part(std::move(mapped), static_cast<uint32_t>(i));
    if (!part) {
      return fail(std::move(part.error()), fmt::format("'{}'", paths[i].string()));
    }
    impl->parts.push_back(std::move(*part));
    impl->paths.push_back(paths[i]);
  }
  for (const RawEntry& entry : impl->main().entries) {
    impl->entries.emplace(entry.key, &entry);
  }
  for (Part& part : impl->parts) {
    impl->tensors.insert(impl->tensors.end(), part.tensors.begin(), part.tensors.end());
    part.tensors.clear();
  }
  for (const Tensor& tensor : impl->tensors) {
    if (!impl->by_name.emplace(tensor.view.name, &tensor).second) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': the tensor '{}' is in two parts", path.string(), tensor.name));
    }
  }
  File file(std::move(impl));
  if (file.has("split.tensors.count")) {
    FL_ASSIGN(const int64_t expected, file.get_int("split.tensors.count"));
    if (expected != static_cast<int64_t>(file.tensors().size())) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': expected {} tensors in {} parts, found {}", path.string(), expected,
                              paths.size(), file.tensors().size()));
    }
  }
  return file;
}

const fs::path& File::path() const {
  return impl_->path;
}
uint32_t File::version() const {
  return impl_->main().version;
}

uint64_t File::file_bytes() const {
  uint64_t bytes = 0;
  for (const Part& part : impl_->parts) {
    bytes += part.file.bytes().size();
  }
  return bytes;
}

std::vector<File::Mapping> File::mappings() const {
  std::vector<Mapping> all;
  for (size_t i = 0; i < impl_->paths.size(); ++i) {
    all.push_back({impl_->paths[i], impl_->parts[i].file.bytes()});
  }
  return all;
}

bool File::has(std::string_view key) const {
  return impl_->entries.contains(key);
}

Result<std::string_view> File::get_string(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  if (entry->type != ValueType::string) {
    return impl_->wrong(*entry, "a string");
  }
  return Cursor(impl_->main().file.bytes(), entry->data).string("a string");
}

Result<int64_t> File::get_int(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  const std::optional<int64_t> value = integer_at(impl_->main(), entry->type, entry->data);
  if (!value) {
    return impl_->wrong(*entry, "an integer below 2^63");
  }
  return *value;
}

Result<double> File::get_float(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  const std::optional<double> value = float_at(impl_->main(), entry->type, entry->data);
  if (!value || !std::isfinite(*value)) {
    return impl_->wrong(*entry, "a finite number");
  }
  return *value;
}

Result<bool> File::get_bool(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  if (entry->type != ValueType::boolean) {
    return impl_->wrong(*entry, "a bool");
  }
  return load<uint8_t>(impl_->main(), entry->data) != 0;
}

Result<std::vector<std::string_view>> File::get_strings(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  if (entry->type != ValueType::array || entry->element != ValueType::string) {
    return impl_->wrong(*entry, "an array of strings");
  }
  std::vector<std::string_view> strings;
  strings.reserve(entry->count);
  Cursor cursor(impl_->main().file.bytes(), entry->data);
  for (uint64_t i = 0; i < entry->count; ++i) {
    FL_ASSIGN(const std::string_view text, cursor.string("a string"));
    strings.push_back(text);
  }
  return strings;
}

Result<std::vector<int64_t>> File::get_ints(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  std::vector<int64_t> values;
  for (uint64_t i = 0; i < entry->count; ++i) {
    const std::optional<int64_t> value =
        entry->element == ValueType::boolean
            ? std::optional<int64_t>(load<uint8_t>(impl_->main(), entry->data + i) != 0)
            : integer_at(impl_->main(), entry->element, entry->data + i * value_bytes(entry->element));
    if (!value) {
      return impl_->wrong(*entry, "integers");
    }
    values.push_back(*value);
  }
  return values;
}

Result<std::vector<float>> File::get_floats(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  std::vector<float> values;
  for (uint64_t i = 0; i < entry->count; ++i) {
    const std::optional<double> value =
        float_at(impl_->main(), entry->element, entry->data + i * value_bytes(entry->element));
    if (!value || !std::isfinite(static_cast<float>(*value))) {
      return impl_->wrong(*entry, "finite numbers");
    }
    values.push_back(static_cast<float>(*value));
  }
  return values;
}

Result<std::string_view> File::get_string_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? get_string(key) : Result<std::string_view>(fallback);
}
Result<int64_t> File::get_int_or(std::string_view key, int64_t fallback) const {
  return has(key) ? get_int(key) : Result<int64_t>(fallback);
}
Result<double> File::get_float_or(std::string_view key, double fallback) const {
  return has(key) ? get_float(key) : Result<double>(fallback);
}
Result<bool> File::get_bool_or(std::string_view key, bool fallback) const {
  return has(key) ? get_bool(key) : Result<bool>(fallback);
}

std::vector<File::Entry> File::entries() const {
  std::vector<Entry> entries;
  for (const RawEntry& entry : impl_->main().entries) {
    entries.push_back({entry.key, entry.type, entry.element, entry.count});
  }
  return entries;
}

std::string File::describe(std::string_view key, size_t max_chars) const {
  const auto found = impl_->entries.find(key);
  if (found == impl_->entries.end()) {
    return "(missing)";
  }
  const RawEntry& entry = *found->second;
  const auto scalar = [&](ValueType type, size_t at) -> std::string {
    if (type == ValueType::string) {
      const std::string_view text = Cursor(impl_->main().file.bytes(), at).string("a string").value_or("");
      return quoted(text.substr(0, max_chars));
    }
    if (type == ValueType::boolean) {
      return load<uint8_t>(impl_->main(), at) != 0 ? "true" : "false";
    }
    if (type == ValueType::f32 || type == ValueType::f64) {
      return fmt::format("{}", float_at(impl_->main(), type, at).value_or(0));
    }
    if (type == ValueType::u64) {
      return std::to_string(load<uint64_t>(impl_->main(), at));
    }
    return std::to_string(integer_at(impl_->main(), type, at).value_or(0));
  };
  constexpr uint64_t kShownElements = 16;
  if (entry.type != ValueType::array) {
    return scalar(entry.type, entry.data);
  }
  if (entry.element == ValueType::string || entry.count > kShownElements) {
    return fmt::format("[{} x {}]", entry.count, type_word(entry.element));
  }
  std::string text = "[";
  for (uint64_t i = 0; i < entry.count; ++i) {
    text += (i == 0 ? "" : ", ") + scalar(entry.element, entry.data + i * value_bytes(entry.element));
  }
  return text + "]";
}

namespace {

template <typename T>
std::vector<T> load_all(const Part& part, const RawEntry& entry) {
  std::vector<T> values;
  values.reserve(entry.count);
  for (uint64_t i = 0; i < entry.count; ++i) {
    values.push_back(load<T>(part, entry.data + i * sizeof(T)));
  }
  return values;
}

}  // namespace

Result<Value> File::value(std::string_view key) const {
  FL_ASSIGN(const RawEntry* const entry, impl_->entry(key));
  const Part& part = impl_->main();
  if (entry->type != ValueType::array) {
    switch (entry->type) {
      case ValueType::u8:
        return Value(load<uint8_t>(part, entry->data));
      case ValueType::i8:
        return Value(load<int8_t>(part, entry->data));
      case ValueType::u16:
        return Value(load<uint16_t>(part, entry->data));
      case ValueType::i16:
        return Value(load<int16_t>(part, entry->data));
      case ValueType::u32:
        return Value(load<uint32_t>(part, entry->data));
      case ValueType::i32:
        return Value(load<int32_t>(part, entry->data));
      case ValueType::f32:
        return Value(load<float>(part, entry->data));
      case ValueType::boolean:
        return Value(load<uint8_t>(part, entry->data) != 0);
      case ValueType::u64:
        return Value(load<uint64_t>(part, entry->data));
      case ValueType::i64:
        return Value(load<int64_t>(part, entry->data));
      case ValueType::f64:
        return Value(load<double>(part, entry->data));
      case ValueType::string:
      case ValueType::array:
        break;
    }
    FL_ASSIGN(const std::string_view text, get_string(key));
    return Value(std::string(text));
  }
  switch (entry->element) {
    case ValueType::string: {
      FL_ASSIGN(const std::vector<std::string_view> views, get_strings(key));
      return Value(std::vector<std::string>(views.begin(), views.end()));
    }
    case ValueType::i32:
      return Value(load_all<int32_t>(part, *entry));
    case ValueType::u32:
      return Value(load_all<uint32_t>(part, *entry));
    case ValueType::f32:
      return Value(load_all<float>(part, *entry));
    case ValueType::f64:
      return Value(load_all<double>(part, *entry));
    case ValueType::i64:
      return Value(load_all<int64_t>(part, *entry));
    case ValueType::boolean: {
      const std::vector<uint8_t> bytes = load_all<uint8_t>(part, *entry);
      std::vector<bool> values;
      values.reserve(bytes.size());
      for (uint8_t byte : bytes) {
        values.push_back(byte != 0);
      }
      return Value(std::move(values));
    }
    default: {
      // Narrow and unsigned 64-bit arrays are stored wider; no published key has one.
      FL_ASSIGN(std::vector<int64_t> values, get_ints(key));
      return Value(std::move(values));
    }
  }
}

std::span<const Tensor> File::tensors() const {
  return impl_->tensors;
}

const Tensor* File::find(std::string_view name) const {
  const auto found = impl_->by_name.find(name);
  return found == impl_->by_name.end() ? nullptr : found->second;
}

}  // namespace fl::gguf
