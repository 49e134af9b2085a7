// A view of a stored matrix or vector: no ownership, no strides. Rows are packed; ne[0] is the contiguous
// axis (ggml order), so a GGUF weight [in, out] has `out` rows of `in` elements.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/dtype.h"

namespace fl {

struct TensorView {
  const std::byte* data = nullptr;
  DType type = DType::f32;
  std::array<int64_t, 4> ne{1, 1, 1, 1};
  std::string_view name;

  int64_t cols() const { return ne[0]; }
  int64_t rows() const { return ne[1] * ne[2] * ne[3]; }
  uint64_t bytes() const {
    return row_bytes(type, static_cast<uint64_t>(ne[0])) * static_cast<uint64_t>(rows());
  }
  const std::byte* row(int64_t r) const {
    return data + row_bytes(type, static_cast<uint64_t>(ne[0])) * static_cast<uint64_t>(r);
  }
};

}  // namespace fl
