// The definition of every block type, element by element. Layouts: ggml-org/llama.cpp,
// ggml/src/ggml-common.h; values: ggml/src/ggml-quants.c (the dequantize_row functions).
#include <array>
#include <cstring>

#include "base/result.h"
#include "core/half.h"
#include "core/quants.h"

namespace fl {
namespace {

using Bytes = const uint8_t*;

constexpr std::array<int8_t, 16> kIq4Values{-127, -104, -83, -65, -49, -35, -22, -10,
                                            1,    13,   25,  38,  53,  69,  89,  113};

uint16_t u16(Bytes p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
uint32_t u32(Bytes p) {
  return uint32_t{u16(p)} | uint32_t{u16(p + 2)} << 16;
}
float f16(Bytes p) {
  return f16_to_float(u16(p));
}

// Element j of a 32-block with 16 bytes of nibbles: low halves first.
int nibble32(Bytes qs, int e) {
  return e < 16 ? qs[e] & 15 : qs[e - 16] >> 4;
}

void block_q4_0(Bytes b, float* out) {
  for (int e = 0; e < 32; ++e) {
    out[e] = f16(b) * static_cast<float>(nibble32(b + 2, e) - 8);
  }
}

void block_q4_1(Bytes b, float* out) {
  for (int e = 0; e < 32; ++e) {
    out[e] = f16(b) * static_cast<float>(nibble32(b + 4, e)) + f16(b + 2);
  }
}

void block_q5_0(Bytes b, float* out) {
  const uint32_t high = u32(b + 2);
  for (int e = 0; e < 32; ++e) {
    out[e] = f16(b) * static_cast<float>((nibble32(b + 6, e) | static_cast<int>(high >> e & 1) << 4) - 16);
  }
}

void block_q5_1(Bytes b, float* out) {
  const uint32_t high = u32(b + 4);
  for (int e = 0; e < 32; ++e) {
    out[e] =
        f16(b) * static_cast<float>(nibble32(b + 8, e) | static_cast<int>(high >> e & 1) << 4) + f16(b + 2);
  }
}

void block_q8_0(Bytes b, float* out) {
  for (int e = 0; e < 32; ++e) {
    out[e] = f16(b) * static_cast<float>(static_cast<int8_t>(b[2 + e]));
  }
}

void block_iq4_nl(Bytes b, float* out) {
  for (int e = 0; e < 32; ++e) {
    out[e] = f16(b) * static_cast<float>(kIq4Values[static_cast<size_t>(nibble32(b + 2, e))]);
  }
}

void block_q2_k(Bytes b, float* out) {
  const float d = f16(b + 80);
  const float dmin = f16(b + 82);
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128;
    const int j = e % 128 / 32;
    const int l = e % 32;
    const int q = b[16 + 32 * half + l] >> (2 * j) & 3;
    const int s = b[e / 16];
    out[e] = d * static_cast<float>((s & 15) * q) - dmin * static_cast<float>(s >> 4);
  }
}

void block_q3_k(Bytes b, float* out) {
  const float d = f16(b + 108);
  Bytes scales = b + 96;
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128;
    const int j = e % 128 / 32;
    const int l = e % 32;
    const int low = b[32 + 32 * half + l] >> (2 * j) & 3;
    const int q = (b[l] >> (4 * half + j) & 1) != 0 ? low : low - 4;
    const int k = e / 16;
    const int scale_low = k < 8 ? scales[k] & 15 : scales[k - 8] >> 4;
    const int scale_high = scales[8 + k % 4] >> (2 * (k / 4)) & 3;
    out[e] = d * static_cast<float>(((scale_low | scale_high << 4) - 32) * q);
  }
}

// Six-bit (scale, min) pair k of Q4_K and Q5_K.
std::array<int, 2> scale_min(Bytes s, int k) {
  if (k < 4) {
    return {s[k] & 63, s[k + 4] & 63};
  }
  return {(s[k + 4] & 15) | (s[k - 4] >> 6) << 4, (s[k + 4] >> 4) | (s[k] >> 6) << 4};
}

void block_q4_k(Bytes b, float* out) {
  const float d = f16(b);
  const float dmin = f16(b + 2);
  for (int e = 0; e < 256; ++e) {
    const int k = e / 32;
    const int byte = b[16 + 32 * (k / 2) + e % 32];
    const int q = k % 2 == 0 ? byte & 15 : byte >> 4;
    const auto [scale, min] = scale_min(b + 4, k);
    out[e] = d * static_cast<float>(scale * q) - dmin * static_cast<float>(min);
  }
}

void block_q5_k(Bytes b, float* out) {
  const float d = f16(b);
  const float dmin = f16(b + 2);
  for (int e = 0; e < 256; ++e) {
    const int k = e / 32;
    const int byte = b[48 + 32 * (k / 2) + e % 32];
    const int q = (k % 2 == 0 ? byte & 15 : byte >> 4) | (b[16 + e % 32] >> k & 1) << 4;
    const auto [scale, min] = scale_min(b + 4, k);
    out[e] = d * static_cast<float>(scale * q) - dmin * static_cast<float>(min);
  }
}

void block_q6_k(Bytes b, float* out) {
  const float d = f16(b + 208);
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128;
    const int g = e % 128 / 32;
    const int l = e % 32;
    const int byte = b[64 * half + 32 * (g & 1) + l];
    const int low = g < 2 ? byte & 15 : byte >> 4;
    const int high = b[128 + 32 * half + l] >> (2 * g) & 3;
    const int scale = static_cast<int8_t>(b[192 + e / 16]);
    out[e] = d * static_cast<float>(scale * ((low | high << 4) - 32));
  }
}

void block_iq4_xs(Bytes b, float* out) {
  const float d = f16(b);
  const int scales_high = u16(b + 2);
  for (int e = 0; e < 256; ++e) {
    const int k = e / 32;
    const int scale = (b[4 + k / 2] >> (4 * (k & 1)) & 15) | (scales_high >> (2 * k) & 3) << 4;
    const int q = nibble32(b + 8 + 16 * k, e % 32);
    out[e] = d * static_cast<float>((scale - 32) * kIq4Values[static_cast<size_t>(q)]);
  }
}

using BlockFn = void (*)(Bytes, float*);

BlockFn block_fn(DType type) {
  switch (type) {
    case DType::q4_0:
      return block_q4_0;
    case DType::q4_1:
      return block_q4_1;
    case DType::q5_0:
      return block_q5_0;
    case DType::q5_1:
      return block_q5_1;
    case DType::q8_0:
      return block_q8_0;
    case DType::q2_k:
      return block_q2_k;
    case DType::q3_k:
      return block_q3_k;
    case DType::q4_k:
      return block_q4_k;
    case DType::q5_k:
      return block_q5_k;
    case DType::q6_k:
      return block_q6_k;
    case DType::iq4_nl:
      return block_iq4_nl;
    case DType::iq4_xs:
      return block_iq4_xs;
    case DType::f32:
    case DType::f16:
    case DType::bf16:
      break;
  }
  return nullptr;
}

}  // namespace

void dequantize_row(DType type, const std::byte* blocks, std::span<float> out) {
  const DTypeInfo& info = dtype_info(type);
  FL_CHECK(out.size() % info.block_elems == 0, "a row holds whole blocks");
  const auto* bytes = reinterpret_cast<Bytes>(blocks);
  if (const BlockFn decode = block_fn(type)) {
    for (size_t at = 0; at < out.size(); at += info.block_elems, bytes += info.block_bytes) {
      decode(bytes, out.data() + at);
    }
    return;
  }
  if (type == DType::f32) {
    std::memcpy(out.data(), bytes, out.size_bytes());
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = type == DType::f16 ? f16(bytes + 2 * i) : bf16_to_float(u16(bytes + 2 * i));
  }
}

}  // namespace fl
