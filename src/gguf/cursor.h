// Reads a byte range front to back; every read is checked against what is left, nothing is assumed about the
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "base/result.h"

namespace fl::gguf {

class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes, size_t at = 0) : bytes_(bytes), at_(at) {}

  size_t offset() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }

  template <typename T>
  Result<T> number(const char* what) {
    if (left() < sizeof(T)) {
      return short_of(what, sizeof(T));
    }
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  /// A 64-bit length and its bytes.
  Result<std::string_view> string(const char* what) {
    const size_t start = at_;
    FL_ASSIGN(const uint64_t length, number<uint64_t>(what));
    if (length > left()) {
      at_ = start;
      return fail(ErrorCode::bad_file,
                  fmt::format("offset {}: {} of {} bytes, but {} are left", start, what, length, left()));
    }
    const auto* text = reinterpret_cast<const char*>(bytes_.data() + at_);
    at_ += length;
    return std::string_view(text, length);
  }

  Status skip(uint64_t count, uint64_t size, const char* what) {
    if (size != 0 && count > left() / size) {
      return fail(ErrorCode::bad_file,
                  fmt::format("offset {}: {} of {} elements of {} bytes, but {} bytes are left", at_, what,
                              count, size, left()));
    }
    at_ += count * size;
    return {};
  }

 private:
  tl::unexpected<Error> short_of(const char* what, size_t size) const {
    return fail(ErrorCode::bad_file, fmt::format("offset {}: the file ends in {} ({} bytes needed, {} left)",
                                                 at_, what, size, left()));
  }

  std::span<const std::byte> bytes_;
  size_t at_;
};

}  // namespace fl::gguf
