// Element types of GGUF tensors and the byte layout of their blocks.
// Source of ids and sizes: ggml-org/llama.cpp, ggml/include/ggml.h and ggml/src/ggml-common.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace fl {

/// The value is the ggml type id as stored in a file.
enum class DType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
};

struct DTypeInfo {
  DType type;
  std::string_view name;  ///< as ggml prints it: "F32", "Q4_K", "IQ4_XS"
  uint32_t block_elems;   ///< elements in a block; a row length is a multiple of it
  uint32_t block_bytes;
};

/// The description of a supported type.
const DTypeInfo& dtype_info(DType type);

/// The supported type with this file id, or nothing.
std::optional<DType> dtype_from_id(uint32_t id);

/// A name for any id that ggml has ever used, supported or not ("IQ2_XXS", "NVFP4"); "type 99" is the
/// caller's to write.
std::optional<std::string_view> ggml_type_name(uint32_t id);

/// Case-insensitive inverse of `name` ("q8_0", "Q4_K").
std::optional<DType> dtype_from_name(std::string_view name);

/// Bytes of a row of `n` elements. `n` is a multiple of block_elems (checked when a tensor is bound).
inline uint64_t row_bytes(DType type, uint64_t n) {
  const DTypeInfo& info = dtype_info(type);
  return n / info.block_elems * info.block_bytes;
}

}  // namespace fl
