// DRY: penalises a token that would extend a repetition. p-e-w, "DRY: a modern repetition penalty that
// reliably prevents looping", oobabooga/text-generation-webui #5677.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace fl::engine {

struct DryScratch {
  std::vector<int32_t> reach;
  std::vector<std::pair<int32_t, int32_t>> found;
};

/// Which tokens would extend a suffix of `history` that already occurred in it, and how long that suffix is:
/// (token, length), each token once with its longest, lengths >= `allowed_length`. A match never reaches
/// across the latest breaker. Linear in the history's length.
const std::vector<std::pair<int32_t, int32_t>>& dry_repetitions(
    std::span<const int32_t> history, int32_t allowed_length,
    const std::vector<std::vector<int32_t>>& breakers, DryScratch& scratch);

/// multiplier * base^(length - allowed_length), the exponent held where a float does not overflow.
float dry_penalty(float multiplier, float base, int32_t length, int32_t allowed_length);

}  // namespace fl::engine
