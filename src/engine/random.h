// A counter-based generator: a draw is a pure function of (seed, position, purpose), so it depends on no
// other request, on no schedule and on no draw before it.
#pragma once

#include <array>
#include <cstdint>

namespace fl::engine {

/// Philox 4x32 with 10 rounds. Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3"
/// (SC'11).
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint32_t kMul0 = 0xD2511F53;
  constexpr uint32_t kMul1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9;
  constexpr uint32_t kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMul0} * counter[0];
    const uint64_t p1 = uint64_t{kMul1} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32U) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32U) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

/// What a draw is for; each purpose is a stream of its own.
enum class Draw : uint32_t { token = 0, xtc = 1 };

/// A float in [0, 1) of 24 random bits. `position` is the index in the sequence of the token to be chosen.
inline float uniform(uint32_t seed, int32_t position, Draw purpose) {
  const auto bits =
      philox({static_cast<uint32_t>(position), static_cast<uint32_t>(purpose), 0, 0}, {seed, 0});
  return static_cast<float>(bits[0] >> 8U) * 0x1p-24F;
}

}  // namespace fl::engine
