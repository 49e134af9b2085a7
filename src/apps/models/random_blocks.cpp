#include "apps/models/random_blocks.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/result.h"
#include "core/half.h"
#include "core/quants.h"

namespace fl::apps {
namespace {

// Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  /// About Gaussian, standard deviation 1: the sum of four uniform 16-bit numbers.
  float gaussian() {
    const uint64_t bits = next();
    const auto sum =
        static_cast<float>((bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48));
    constexpr float kMean = 2 * 65535.0F;
    constexpr float kSpread = 37837.2F;  // 65536 / sqrt(12) * 2
    return (sum - kMean) / kSpread;
  }
  void fill(uint8_t* out, size_t n) {
    for (; n >= 8; n -= 8, out += 8) {
      const uint64_t bits = next();
      std::memcpy(out, &bits, 8);
    }
    const uint64_t bits = next();
    std::memcpy(out, &bits, n);
  }

 private:
  uint64_t state_;
};

void put_f16(uint8_t* out, float value) {
  const uint16_t bits = float_to_f16(value);
  std::memcpy(out, &bits, sizeof bits);
}

constexpr float kMeanScale = 47.5F;  // scale codes are drawn from 32 to 63

// Eight scale codes, each also the code of its minimum: with dmin = d * (levels / 2) the values are centred.
void put_scale_pairs(uint8_t* out, Random& random) {
  uint64_t bits = random.next();
  uint8_t codes[8];
  for (uint8_t& code : codes) {
    code = static_cast<uint8_t>(32 + (bits & 31));
    bits >>= 5;
  }
  for (int k = 0; k < 4; ++k) {
    out[k] = static_cast<uint8_t>(codes[k] | (codes[k + 4] >> 4) << 6);
    out[k + 4] = out[k];
    out[k + 8] = static_cast<uint8_t>((codes[k + 4] & 15) | (codes[k + 4] & 15) << 4);
  }
}

void block_q8_0(uint8_t* out, float spread, Random& random) {
  random.fill(out + 2, 32);
  put_f16(out, spread / 73.9F);  // of a uniform signed byte
}

void block_q4_k(uint8_t* out, float spread, Random& random) {
  const float d = spread / (kMeanScale * 4.61F);  // of a uniform nibble
  put_f16(out, d);
  put_f16(out + 2, d * 7.5F);
  put_scale_pairs(out + 4, random);
  random.fill(out + 16, 128);
}

void block_q5_k(uint8_t* out, float spread, Random& random) {
  const float d = spread / (kMeanScale * 9.23F);
  put_f16(out, d);
  put_f16(out + 2, d * 15.5F);
  put_scale_pairs(out + 4, random);
  random.fill(out + 16, 160);
}

void block_q6_k(uint8_t* out, float spread, Random& random) {
  random.fill(out, 192);
  uint64_t bits[2] = {random.next(), random.next()};
  for (int k = 0; k < 16; ++k) {
    out[192 + k] = static_cast<uint8_t>(64 + (bits[k / 8] >> (8 * (k % 8)) & 63));
  }
  put_f16(out + 208, spread / (95.5F * 18.5F));
}

using BlockFn = void (*)(uint8_t*, float, Random&);

BlockFn block_fn(DType type) {
  switch (type) {
    case DType::q8_0:
      return block_q8_0;
    case DType::q4_k:
      return block_q4_k;
    case DType::q5_k:
      return block_q5_k;
    case DType::q6_k:
      return block_q6_k;
    default:
      return nullptr;
  }
}

}  // namespace

void random_blocks(DType type, float spread, uint64_t seed, std::span<std::byte> out) {
  const DTypeInfo& info = dtype_info(type);
  FL_CHECK(out.size() % info.block_bytes == 0, "whole blocks");
  Random random(seed * 0xD1342543DE82EF95U + 1);
  auto* bytes = reinterpret_cast<uint8_t*>(out.data());
  if (const BlockFn make = block_fn(type)) {
    for (size_t at = 0; at < out.size(); at += info.block_bytes) {
      make(bytes + at, spread, random);
    }
    return;
  }
  std::vector<float> row(info.block_elems);
  for (size_t at = 0; at < out.size(); at += info.block_bytes) {
    for (float& value : row) {
      value = spread * random.gaussian();
    }
    quantize_row(type, row, {}, out.data() + at);
  }
}

}  // namespace fl::apps
