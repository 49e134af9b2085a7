#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "gguf/gguf.h"
#include "gguf/parse.h"

namespace fl::gguf {
namespace {

constexpr uint32_t kVersion = 3;

template <typename T>
struct TypeId;
template <>
struct TypeId<uint8_t> {
  static constexpr ValueType kId = ValueType::u8;
};
template <>
struct TypeId<int8_t> {
  static constexpr ValueType kId = ValueType::i8;
};
template <>
struct TypeId<uint16_t> {
  static constexpr ValueType kId = ValueType::u16;
};
template <>
struct TypeId<int16_t> {
  static constexpr ValueType kId = ValueType::i16;
};
template <>
struct TypeId<uint32_t> {
  static constexpr ValueType kId = ValueType::u32;
};
template <>
struct TypeId<int32_t> {
  static constexpr ValueType kId = ValueType::i32;
};
template <>
struct TypeId<float> {
  static constexpr ValueType kId = ValueType::f32;
};
template <>
struct TypeId<bool> {
  static constexpr ValueType kId = ValueType::boolean;
};
template <>
struct TypeId<std::string> {
  static constexpr ValueType kId = ValueType::string;
};
template <>
struct TypeId<uint64_t> {
  static constexpr ValueType kId = ValueType::u64;
};
template <>
struct TypeId<int64_t> {
  static constexpr ValueType kId = ValueType::i64;
};
template <>
struct TypeId<double> {
  static constexpr ValueType kId = ValueType::f64;
};

template <typename T>
void put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void put_string(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out += text;
}

template <typename T>
void put_element(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    put_string(out, value);
  } else if constexpr (std::is_same_v<T, bool>) {
    put<uint8_t>(out, value ? 1 : 0);
  } else {
    put<T>(out, value);
  }
}

void put_value(std::string& out, const Value& value) {
  std::visit(
      [&]<typename T>(const T& held) {
        if constexpr (requires { typename T::value_type; } && !std::is_same_v<T, std::string>) {
          using Element = typename T::value_type;
          put<uint32_t>(out, static_cast<uint32_t>(ValueType::array));
          put<uint32_t>(out, static_cast<uint32_t>(TypeId<Element>::kId));
          put<uint64_t>(out, held.size());
          for (const auto& element : held) {
            put_element<Element>(out, element);
          }
        } else {
          put<uint32_t>(out, static_cast<uint32_t>(TypeId<T>::kId));
          put_element<T>(out, held);
        }
      },
      value.storage());
}

struct Declared {
  std::string name;
  DType type;
  std::vector<int64_t> ne;
  uint64_t bytes = 0;
  uint64_t offset = 0;
};

uint64_t aligned(uint64_t n) {
  return (n + kDefaultAlignment - 1) / kDefaultAlignment * kDefaultAlignment;
}

bool give_name(int fd, const std::filesystem::path& name) {
  ::unlink(name.c_str());  // of a process that had our number and was killed
  const std::string held = fmt::format("/proc/self/fd/{}", fd);
  return ::linkat(AT_FDCWD, held.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

// A file without a name leaves nothing behind when the process is killed. Not every file system has them, and
// without /proc they stay nameless: found out before the work, with a file of its own.
bool can_name_later(const std::filesystem::path& folder, const std::filesystem::path& name) {
  const int fd = ::open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0644);
  if (fd < 0) {
    return false;
  }
  const bool can = give_name(fd, name);
  if (can) {
    ::unlink(name.c_str());
  }
  ::close(fd);
  return can;
}

}  // namespace

struct Writer::Impl {
  std::filesystem::path path;
  std::filesystem::path partial;  ///< the name to finish under; until then it may exist or not
  int fd = -1;
  std::vector<std::pair<std::string, Value>> values;
  std::vector<Declared> tensors;
  size_t current = 0;    ///< tensor being written
  uint64_t written = 0;  ///< bytes of it
  bool named = false;    ///< `partial` is in its folder
  bool data = false;
  bool done = false;

  ~Impl() {
    if (fd >= 0) {
      ::close(fd);
    }
    if (!done && named) {
      ::unlink(partial.c_str());
    }
  }

  tl::unexpected<Error> os_error(const char* what) const {
    return fail(ErrorCode::io, fmt::format("cannot {} '{}': {}", what, path.string(), std::strerror(errno)));
  }

  // The whole size at once: a full disk is said before the work, not after it.
  Status reserve(uint64_t bytes) const {
    if (::fallocate(fd, 0, 0, static_cast<off_t>(bytes)) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
      const auto error = os_error("write");
      return fail(ErrorCode::io, fmt::format("{} ({} bytes are needed)", error.value().message, bytes));
    }
    return {};
  }

  Status write_all(const void* data_begin, size_t size) const {
    const auto* bytes = static_cast<const char*>(data_begin);
    while (size > 0) {
      const ssize_t n = ::write(fd, bytes, size);
      if (n < 0 && errno == EINTR) {
        continue;
      }
      if (n <= 0) {
        return os_error("write");
      }
      bytes += n;
      size -= static_cast<size_t>(n);
    }
    return {};
  }

  /// The directory of everything declared.
  Status write_head(bool reserved) {
    std::string head = "GGUF";
    put<uint32_t>(head, kVersion);
    put<uint64_t>(head, tensors.size());
    put<uint64_t>(head, values.size());
    for (const auto& [key, value] : values) {
      put_string(head, key);
      put_value(head, value);
    }
    uint64_t offset = 0;
    for (Declared& tensor : tensors) {
      tensor.offset = offset;
      offset += aligned(tensor.bytes);
      put_string(head, tensor.name);
      put<uint32_t>(head, static_cast<uint32_t>(tensor.ne.size()));
      for (int64_t size : tensor.ne) {
        put<int64_t>(head, size);
      }
      put<uint32_t>(head, static_cast<uint32_t>(tensor.type));
      put<uint64_t>(head, tensor.offset);
    }
    data = true;
    if (reserved) {
      FL_TRY(reserve(aligned(head.size()) + offset));
    }
    FL_TRY(write_all(head.data(), head.size()));
    return pad(head.size());
  }

  /// Syncs and gives the file its name.
  Status publish() {
    if (::fsync(fd) != 0) {
      return os_error("sync");
    }
    if (!named) {
      if (!give_name(fd, partial)) {
        return os_error("name");
      }
      named = true;
    }
    if (::rename(partial.c_str(), path.c_str()) != 0) {
      return os_error("rename to");
    }
    done = true;
    return {};
  }

  Status pad(uint64_t n) const {
    static constexpr char kZeros[kDefaultAlignment] = {};
    return write_all(kZeros, aligned(n) - n);
  }
};

Writer::Writer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;
Writer::~Writer() = default;

Result<Writer> Writer::create(const std::filesystem::path& path) {
  std::error_code ignored;
  const std::filesystem::file_status status = std::filesystem::status(path, ignored);
  if (path.filename().empty() ||
      (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))) {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format("'{}': expected the name of a file to write, found a folder or a device", path.string()));
  }
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->partial = path.string() + fmt::format(".partial-{}", ::getpid());
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (can_name_later(folder, impl->partial)) {
    impl->fd = ::open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0644);
  } else {
    impl->fd = ::open(impl->partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    impl->named = impl->fd >= 0;
  }
  if (impl->fd < 0) {
    return impl->os_error("create");
  }
  return Writer(std::move(impl));
}

void Writer::set(std::string key, Value value) {
  FL_CHECK(!impl_->data, "metadata comes before the data");
  for (auto& [name, held] : impl_->values) {
    if (name == key) {
      held = std::move(value);
      return;
    }
  }
  impl_->values.emplace_back(std::move(key), std::move(value));
}

void Writer::declare(std::string name, DType type, std::vector<int64_t> ne) {
  FL_CHECK(!impl_->data && !ne.empty() && ne.size() <= 4,
           "a tensor is declared before the data, with 1 to 4 dimensions");
  FL_CHECK(ne[0] % dtype_info(type).block_elems == 0, "a row of '" + name + "' holds whole blocks");
  Declared tensor{std::move(name), type, std::move(ne)};
  tensor.bytes = row_bytes(type, static_cast<uint64_t>(tensor.ne[0]));
  for (size_t i = 1; i < tensor.ne.size(); ++i) {
    tensor.bytes *= static_cast<uint64_t>(tensor.ne[i]);
  }
  impl_->tensors.push_back(std::move(tensor));
}

Status Writer::begin_data() {
  FL_CHECK(!impl_->data, "begin_data once");
  FL_TRY(impl_->write_head(true));
  return {};
}

Status Writer::write(std::span<const std::byte> bytes) {
  Impl& impl = *impl_;
  FL_CHECK(impl.data, "begin_data comes first");
  while (!bytes.empty()) {
    FL_CHECK(impl.current < impl.tensors.size(), "more data than declared");
    const Declared& tensor = impl.tensors[impl.current];
    const size_t n = static_cast<size_t>(std::min<uint64_t>(bytes.size(), tensor.bytes - impl.written));
    FL_TRY(impl.write_all(bytes.data(), n));
    impl.written += n;
    bytes = bytes.subspan(n);
    if (impl.written == tensor.bytes) {
      FL_TRY(impl.pad(tensor.bytes));
      ++impl.current;
      impl.written = 0;
    }
  }
  return {};
}

Status Writer::finish() {
  Impl& impl = *impl_;
  if (!impl.data) {
    FL_TRY(begin_data());
  }
  if (impl.current < impl.tensors.size()) {
    return fail(ErrorCode::internal, fmt::format("'{}': the data of '{}' is missing", impl.path.string(),
                                                 impl.tensors[impl.current].name));
  }
  return impl.publish();
}

Status Writer::finish_hollow() {
  Impl& impl = *impl_;
  FL_CHECK(!impl.data, "a hollow file has no data");
  FL_TRY(impl.write_head(false));
  uint64_t bytes = 0;
  for (const Declared& tensor : impl.tensors) {
    bytes += aligned(tensor.bytes);
  }
  const off_t head = ::lseek(impl.fd, 0, SEEK_END);
  if (head < 0 || ::ftruncate(impl.fd, head + static_cast<off_t>(bytes)) != 0) {
    return impl.os_error("extend");
  }
  return impl.publish();
}

}  // namespace fl::gguf
