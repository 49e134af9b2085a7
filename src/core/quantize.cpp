// From floats to blocks. The 32-element types are rounded with the scale that the largest magnitude asks for,
// as their published encoders do; the K types search their scales (quantize_k.cpp).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/result.h"
#include "core/half.h"
#include "core/quantize_k.h"
#include "core/quants.h"

namespace fl {
namespace {

using Out = uint8_t*;

void put_u16(Out out, uint16_t value) {
  out[0] = static_cast<uint8_t>(value & 0xFF);
  out[1] = static_cast<uint8_t>(value >> 8);
}

int rounded(float value, int low, int high) {
  return std::clamp(static_cast<int>(std::lround(value)), low, high);
}

// The element of largest magnitude, with its sign.
float extreme(std::span<const float> x) {
  float best = 0;
  for (float value : x) {
    if (std::fabs(value) > std::fabs(best)) {
      best = value;
    }
  }
  return best;
}

void put_nibbles(Out out, const std::array<int, 32>& q) {
  for (size_t j = 0; j < 16; ++j) {
    out[j] = static_cast<uint8_t>((q[j] & 15) | (q[j + 16] & 15) << 4);
  }
}

void put_fifth_bits(Out out, const std::array<int, 32>& q) {
  uint32_t high = 0;
  for (size_t e = 0; e < 32; ++e) {
    high |= static_cast<uint32_t>(q[e] >> 4 & 1) << e;
  }
  std::memcpy(out, &high, sizeof high);
}

// Signed types: the extreme element takes the code -offset exactly.
std::array<int, 32> encode_signed(std::span<const float> x, int offset, Out scale) {
  const uint16_t d16 = float_to_f16(extreme(x) / static_cast<float>(-offset));
  const float d = f16_to_float(d16);
  put_u16(scale, d16);
  std::array<int, 32> q{};
  for (size_t e = 0; e < 32; ++e) {
    q[e] = rounded(d != 0 ? x[e] / d : 0, -offset, offset - 1) + offset;
  }
  return q;
}

std::array<int, 32> encode_with_min(std::span<const float> x, int levels, Out scale, Out min) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const uint16_t d16 = float_to_f16((*high - *low) / static_cast<float>(levels));
  const uint16_t m16 = float_to_f16(*low);
  const float d = f16_to_float(d16);
  put_u16(scale, d16);
  put_u16(min, m16);
  std::array<int, 32> q{};
  for (size_t e = 0; e < 32; ++e) {
    q[e] = rounded(d != 0 ? (x[e] - f16_to_float(m16)) / d : 0, 0, levels);
  }
  return q;
}

void encode_q8_0(std::span<const float> x, Out out) {
  const uint16_t d16 = float_to_f16(std::fabs(extreme(x)) / 127.0F);
  const float d = f16_to_float(d16);
  put_u16(out, d16);
  for (size_t e = 0; e < 32; ++e) {
    out[2 + e] = static_cast<uint8_t>(static_cast<int8_t>(rounded(d != 0 ? x[e] / d : 0, -127, 127)));
  }
}

void encode_block_32(DType type, std::span<const float> x, Out out) {
  switch (type) {
    case DType::q4_0:
      put_nibbles(out + 2, encode_signed(x, 8, out));
      return;
    case DType::q4_1:
      put_nibbles(out + 4, encode_with_min(x, 15, out, out + 2));
      return;
    case DType::q5_0: {
      const std::array<int, 32> q = encode_signed(x, 16, out);
      put_fifth_bits(out + 2, q);
      put_nibbles(out + 6, q);
      return;
    }
    case DType::q5_1: {
      const std::array<int, 32> q = encode_with_min(x, 31, out, out + 2);
      put_fifth_bits(out + 4, q);
      put_nibbles(out + 8, q);
      return;
    }
    default:
      encode_q8_0(x, out);
  }
}

// NaN -> 0, infinities and what fp16 scales cannot hold -> the largest finite magnitude of the block that
// they can.
std::vector<float> finite(std::span<const float> in) {
  constexpr float kLargest = 60000.0F;
  std::vector<float> out(in.begin(), in.end());
  float largest = 0;
  for (float value : out) {
    if (std::isfinite(value)) {
      largest = std::max(largest, std::min(std::fabs(value), kLargest));
    }
  }
  for (float& value : out) {
    value = std::isnan(value) ? 0 : std::clamp(value, -largest, largest);
  }
  return out;
}

void encode_16_bit(DType type, std::span<const float> in, Out out) {
  for (size_t i = 0; i < in.size(); ++i) {
    put_u16(out + 2 * i, type == DType::f16 ? float_to_f16(in[i]) : float_to_bf16(in[i]));
  }
}

}  // namespace

void quantize_row(DType type, std::span<const float> in, std::span<const float> importance,
                  std::byte* blocks) {
  const DTypeInfo& info = dtype_info(type);
  FL_CHECK(in.size() % info.block_elems == 0, "a row holds whole blocks");
  FL_CHECK(importance.empty() || importance.size() == in.size(), "one weight per element");
  auto* out = reinterpret_cast<Out>(blocks);
  if (type == DType::f32) {
    std::memcpy(out, in.data(), in.size_bytes());
    return;
  }
  if (type == DType::f16 || type == DType::bf16) {
    encode_16_bit(type, in, out);
    return;
  }
  for (size_t at = 0; at < in.size(); at += info.block_elems, out += info.block_bytes) {
    const std::vector<float> x = finite(in.subspan(at, info.block_elems));
    const std::span<const float> weights =
        importance.empty() ? importance : importance.subspan(at, info.block_elems);
    if (type == DType::iq4_nl) {
      encode_iq4_nl(x, weights, out);
    } else if (info.block_elems == 32) {
      encode_block_32(type, x, out);
    } else {
      encode_k(type, x, weights, out);
    }
  }
}

}  // namespace fl
