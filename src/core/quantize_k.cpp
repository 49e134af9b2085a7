#include "core/quantize_k.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/result.h"
#include "core/half.h"

namespace fl {
namespace {

using Out = uint8_t*;

constexpr size_t kBlock = 256;
constexpr std::array<int, 16> kIq4Values{-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};

void put_f16(Out out, float value) {
  const uint16_t bits = float_to_f16(value);
  std::memcpy(out, &bits, sizeof bits);
}

float stored_f16(float value) {
  return f16_to_float(float_to_f16(value));
}

int nearest(float value, int low, int high) {
  return std::clamp(static_cast<int>(std::lround(value)), low, high);
}

// Errors of large weights cost more: they meet larger products. With an importance, that times the same
// magnitude term.
std::vector<float> error_weights(std::span<const float> x, std::span<const float> importance) {
  float square = 0;
  for (float value : x) {
    square += value * value;
  }
  const float rms = std::sqrt(square / static_cast<float>(x.size()));
  std::vector<float> weights(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    weights[i] =
        importance.empty() ? std::fabs(x[i]) + rms : importance[i] * std::sqrt(rms * rms + x[i] * x[i]);
    weights[i] = std::max(weights[i], 1e-30F);
  }
  return weights;
}

// ---- x ~ scale * q - min, q in [0, levels], scale and min >= 0
// -------------------------------------------------------

struct ScaleMin {
  float scale = 0;
  float min = 0;
};

// Weighted least squares for given codes; false when the codes are all equal.
bool fit(std::span<const float> x, std::span<const float> w, std::span<const int> q, ScaleMin& out) {
  double sw = 0, sq = 0, sqq = 0, sx = 0, sqx = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sw += w[i];
    sq += double(w[i]) * q[i];
    sqq += double(w[i]) * q[i] * q[i];
    sx += double(w[i]) * x[i];
    sqx += double(w[i]) * q[i] * x[i];
  }
  const double det = sw * sqq - sq * sq;
  if (det <= 0) {
    return false;
  }
  double scale = (sw * sqx - sq * sx) / det;
  double min = (sq * sqx - sqq * sx) / det;
  if (min < 0) {
    min = 0;
    scale = sqq > 0 ? sqx / sqq : 0;
  }
  if (!(scale > 0)) {
    return false;
  }
  out = {static_cast<float>(scale), static_cast<float>(min)};
  return true;
}

double error_of(std::span<const float> x, std::span<const float> w, ScaleMin s, int levels,
                std::span<int> q) {
  double error = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    q[i] = s.scale > 0 ? nearest((x[i] + s.min) / s.scale, 0, levels) : 0;
    const double diff = double(s.scale) * q[i] - s.min - x[i];
    error += w[i] * diff * diff;
  }
  return error;
}

ScaleMin search_scale_min(std::span<const float> x, std::span<const float> w, int levels) {
  const auto [low_at, high_at] = std::minmax_element(x.begin(), x.end());
  const float low = std::min(*low_at, 0.0F);
  const float range = *high_at - low;
  if (!(range > 0)) {
    return {0, -low};
  }
  std::vector<int> q(x.size());
  ScaleMin best{range / static_cast<float>(levels), -low};
  double best_error = error_of(x, w, best, levels, q);
  constexpr int kSteps = 10;  // slightly more and fewer levels than the range asks for
  for (int step = -kSteps; step <= kSteps; ++step) {
    ScaleMin trial{range / (static_cast<float>(levels) + 0.1F * static_cast<float>(step)), -low};
    error_of(x, w, trial, levels, q);
    if (!fit(x, w, q, trial)) {
      continue;
    }
    if (const double error = error_of(x, w, trial, levels, q); error < best_error) {
      best_error = error;
      best = trial;
    }
  }
  return best;
}

// The scales and minima of all sub-blocks, themselves quantised to `scale_levels` and `min_levels`, and the
// codes.
struct MinBlock {
  float d = 0;
  float dmin = 0;
  std::vector<int> scales;
  std::vector<int> mins;
  std::array<int, kBlock> q{};
};

MinBlock encode_min_block(std::span<const float> x, std::span<const float> w, size_t sub, int levels,
                          int scale_levels) {
  MinBlock block;
  std::vector<ScaleMin> found;
  float largest_scale = 0;
  float largest_min = 0;
  for (size_t at = 0; at < kBlock; at += sub) {
    found.push_back(search_scale_min(x.subspan(at, sub), w.subspan(at, sub), levels));
    largest_scale = std::max(largest_scale, found.back().scale);
    largest_min = std::max(largest_min, found.back().min);
  }
  block.d = stored_f16(largest_scale / static_cast<float>(scale_levels));
  block.dmin = stored_f16(largest_min / static_cast<float>(scale_levels));
  for (size_t k = 0; k < found.size(); ++k) {
    block.scales.push_back(block.d > 0 ? nearest(found[k].scale / block.d, 0, scale_levels) : 0);
    block.mins.push_back(block.dmin > 0 ? nearest(found[k].min / block.dmin, 0, scale_levels) : 0);
    const ScaleMin stored{block.d * static_cast<float>(block.scales[k]),
                          block.dmin * static_cast<float>(block.mins[k])};
    error_of(x.subspan(k * sub, sub), w.subspan(k * sub, sub), stored, levels,
             std::span(block.q).subspan(k * sub, sub));
  }
  return block;
}

void put_scales_6_bit(Out s, const MinBlock& block) {
  for (size_t k = 0; k < 4; ++k) {
    s[k] = static_cast<uint8_t>(block.scales[k] | (block.scales[k + 4] >> 4) << 6);
    s[k + 4] = static_cast<uint8_t>(block.mins[k] | (block.mins[k + 4] >> 4) << 6);
    s[k + 8] = static_cast<uint8_t>((block.scales[k + 4] & 15) | (block.mins[k + 4] & 15) << 4);
  }
}

void put_nibbles_256(Out qs, const std::array<int, kBlock>& q) {
  for (size_t k = 0; k < 8; k += 2) {
    for (size_t l = 0; l < 32; ++l) {
      qs[16 * k + l] = static_cast<uint8_t>((q[32 * k + l] & 15) | (q[32 * k + 32 + l] & 15) << 4);
    }
  }
}

void encode_q2_k(std::span<const float> x, std::span<const float> w, Out out) {
  const MinBlock block = encode_min_block(x, w, 16, 3, 15);
  for (size_t k = 0; k < 16; ++k) {
    out[k] = static_cast<uint8_t>(block.scales[k] | block.mins[k] << 4);
  }
  for (size_t e = 0; e < kBlock; ++e) {
    out[16 + 32 * (e / 128) + e % 32] |= static_cast<uint8_t>(block.q[e] << 2 * (e % 128 / 32));
  }
  put_f16(out + 80, block.d);
  put_f16(out + 82, block.dmin);
}

void encode_q4_k(std::span<const float> x, std::span<const float> w, Out out) {
  const MinBlock block = encode_min_block(x, w, 32, 15, 63);
  put_f16(out, block.d);
  put_f16(out + 2, block.dmin);
  put_scales_6_bit(out + 4, block);
  put_nibbles_256(out + 16, block.q);
}

void encode_q5_k(std::span<const float> x, std::span<const float> w, Out out) {
  const MinBlock block = encode_min_block(x, w, 32, 31, 63);
  put_f16(out, block.d);
  put_f16(out + 2, block.dmin);
  put_scales_6_bit(out + 4, block);
  for (size_t e = 0; e < kBlock; ++e) {
    out[16 + e % 32] |= static_cast<uint8_t>((block.q[e] >> 4) << e / 32);
  }
  put_nibbles_256(out + 48, block.q);
}

// ---- x ~ scale * code, codes from a fixed list or range, scales of either sign
// ---------------------------------------------

struct Range {
  int low;
  int high;
  int operator()(float value) const { return nearest(value, low, high); }
};

struct Iq4 {
  int operator()(float value) const {
    int best = 0;
    for (int i = 1; i < 16; ++i) {
      if (std::fabs(value - static_cast<float>(kIq4Values[static_cast<size_t>(i)])) <
          std::fabs(value - static_cast<float>(kIq4Values[static_cast<size_t>(best)]))) {
        best = i;
      }
    }
    return kIq4Values[static_cast<size_t>(best)];
  }
};

// The scale of least weighted error: the extreme element is put near the code `extreme_code`, then least
// squares.
template <typename Codes>
float search_scale(std::span<const float> x, std::span<const float> w, const Codes& codes, float extreme_code,
                   float step) {
  float extreme = 0;
  for (float value : x) {
    if (std::fabs(value) > std::fabs(extreme)) {
      extreme = value;
    }
  }
  if (extreme == 0) {
    return 0;
  }
  constexpr int kSteps = 9;
  float best = 0;
  double best_gain = -1;
  for (const float sign : {1.0F, -1.0F}) {
    for (int i = -kSteps; i <= kSteps; ++i) {
      const float inverse = sign * (extreme_code + step * static_cast<float>(i)) / extreme;
      double xq = 0;
      double qq = 0;
      for (size_t k = 0; k < x.size(); ++k) {
        const int q = codes(x[k] * inverse);
        xq += double(w[k]) * x[k] * q;
        qq += double(w[k]) * q * q;
      }
      // With the best scale xq / qq the error is the constant sum of w x x less this.
      if (qq > 0 && xq * xq / qq > best_gain) {
        best_gain = xq * xq / qq;
        best = static_cast<float>(xq / qq);
      }
    }
  }
  return best;
}

// Scales of sub-blocks as signed codes in [-limit, limit - 1] times one d.
template <typename Codes>
float quantise_scales(std::span<const float> x, std::span<const float> w, size_t sub, const Codes& codes,
                      float extreme_code, float step, int limit, std::vector<int>& scales) {
  std::vector<float> found;
  float extreme = 0;
  for (size_t at = 0; at < kBlock; at += sub) {
    found.push_back(search_scale(x.subspan(at, sub), w.subspan(at, sub), codes, extreme_code, step));
    if (std::fabs(found.back()) > std::fabs(extreme)) {
      extreme = found.back();
    }
  }
  const float d = stored_f16(extreme / static_cast<float>(-limit));
  for (float scale : found) {
    scales.push_back(d != 0 ? nearest(scale / d, -limit, limit - 1) : 0);
  }
  return d;
}

void encode_q3_k(std::span<const float> x, std::span<const float> w, Out out) {
  std::vector<int> scales;
  const Range codes{-4, 3};
  const float d = quantise_scales(x, w, 16, codes, -4, 0.1F, 32, scales);
  for (size_t e = 0; e < kBlock; ++e) {
    const float scale = d * static_cast<float>(scales[e / 16]);
    const int q = scale != 0 ? codes(x[e] / scale) : 0;
    const size_t j = e % 128 / 32;
    out[32 + 32 * (e / 128) + e % 32] |= static_cast<uint8_t>((q & 3) << 2 * j);
    if (q >= 0) {
      out[e % 32] |= static_cast<uint8_t>(1U << (4 * (e / 128) + j));
    }
  }
  for (size_t k = 0; k < 16; ++k) {
    const int code = scales[k] + 32;
    out[96 + k % 8] |= static_cast<uint8_t>((code & 15) << (k < 8 ? 0 : 4));
    out[104 + k % 4] |= static_cast<uint8_t>((code >> 4) << 2 * (k / 4));
  }
  put_f16(out + 108, d);
}

void encode_q6_k(std::span<const float> x, std::span<const float> w, Out out) {
  std::vector<int> scales;
  const Range codes{-32, 31};
  const float d = quantise_scales(x, w, 16, codes, -32, 0.1F, 128, scales);
  for (size_t e = 0; e < kBlock; ++e) {
    const float scale = d * static_cast<float>(scales[e / 16]);
    const int q = (scale != 0 ? codes(x[e] / scale) : 0) + 32;
    const size_t half = e / 128;
    const size_t g = e % 128 / 32;
    const size_t l = e % 32;
    out[64 * half + 32 * (g & 1) + l] |= static_cast<uint8_t>((q & 15) << (g < 2 ? 0 : 4));
    out[128 + 32 * half + l] |= static_cast<uint8_t>((q >> 4) << 2 * g);
  }
  for (size_t k = 0; k < 16; ++k) {
    out[192 + k] = static_cast<uint8_t>(static_cast<int8_t>(scales[k]));
  }
  put_f16(out + 208, d);
}

uint8_t iq4_index(int value) {
  return static_cast<uint8_t>(std::find(kIq4Values.begin(), kIq4Values.end(), value) - kIq4Values.begin());
}

void put_iq4(std::span<const float> x, float scale, Out qs) {
  for (size_t e = 0; e < 32; ++e) {
    const uint8_t index = iq4_index(Iq4{}(scale != 0 ? x[e] / scale : 0));
    qs[e % 16] |= static_cast<uint8_t>(index << (e < 16 ? 0 : 4));
  }
}

constexpr float kIq4Extreme = -127;
constexpr float kIq4Step = 2;

void encode_iq4_xs(std::span<const float> x, std::span<const float> w, Out out) {
  std::vector<int> scales;
  const float d = quantise_scales(x, w, 32, Iq4{}, kIq4Extreme, kIq4Step, 32, scales);
  put_f16(out, d);
  uint16_t high = 0;
  for (size_t k = 0; k < 8; ++k) {
    const int code = scales[k] + 32;
    out[4 + k / 2] |= static_cast<uint8_t>((code & 15) << 4 * (k & 1));
    high = static_cast<uint16_t>(high | (code >> 4) << 2 * k);
    put_iq4(x.subspan(32 * k, 32), d * static_cast<float>(scales[k]), out + 8 + 16 * k);
  }
  std::memcpy(out + 2, &high, sizeof high);
}

}  // namespace

void encode_iq4_nl(std::span<const float> x, std::span<const float> importance, uint8_t* out) {
  std::memset(out, 0, dtype_info(DType::iq4_nl).block_bytes);
  const std::vector<float> w = error_weights(x, importance);
  const float d = stored_f16(search_scale(x, w, Iq4{}, kIq4Extreme, kIq4Step));
  put_f16(out, d);
  put_iq4(x, d, out + 2);
}

void encode_k(DType type, std::span<const float> x, std::span<const float> importance, uint8_t* out) {
  std::memset(out, 0, dtype_info(type).block_bytes);
  const std::vector<float> w = error_weights(x, importance);
  switch (type) {
    case DType::q2_k:
      return encode_q2_k(x, w, out);
    case DType::q3_k:
      return encode_q3_k(x, w, out);
    case DType::q4_k:
      return encode_q4_k(x, w, out);
    case DType::q5_k:
      return encode_q5_k(x, w, out);
    case DType::q6_k:
      return encode_q6_k(x, w, out);
    case DType::iq4_xs:
      return encode_iq4_xs(x, w, out);
    default:
      FL_CHECK(false, "encode_k is for 256-element types");
  }
}

}  // namespace fl
