#include "engine/dry.h"

#include <algorithm>
#include <cmath>

namespace fl::engine {

namespace {

/// How many tokens follow the latest breaker: no repetition counts beyond it.
int32_t tokens_since_breaker(std::span<const int32_t> history,
                             const std::vector<std::vector<int32_t>>& breakers) {
  const auto n = static_cast<int32_t>(history.size());
  int32_t since = n;
  for (const std::vector<int32_t>& breaker : breakers) {
    if (breaker.empty()) {
      continue;
    }
    const auto found = std::find_end(history.begin(), history.end(), breaker.begin(), breaker.end());
    if (found != history.end()) {
      const auto end = (found - history.begin()) + static_cast<int64_t>(breaker.size());
      since = std::min(since, n - static_cast<int32_t>(end));
    }
  }
  return since;
}

}  // namespace

const std::vector<std::pair<int32_t, int32_t>>& dry_repetitions(
    std::span<const int32_t> history, int32_t allowed_length,
    const std::vector<std::vector<int32_t>>& breakers, DryScratch& scratch) {
  scratch.found.clear();
  const auto n = static_cast<int32_t>(history.size());
  const int32_t limit = tokens_since_breaker(history, breakers);
  if (limit < allowed_length || n <= allowed_length) {
    return scratch.found;
  }
  // Z-function of the reversed history: reach[i] = how many tokens before (and with) the one i from the end
  // equal the history's own last tokens.
  const auto back = [&](int32_t i) { return history[n - 1 - i]; };
  scratch.reach.assign(n, 0);
  int32_t left = 0;
  int32_t right = 0;
  for (int32_t i = 1; i < n; ++i) {
    int32_t length = i < right ? std::min(right - i, scratch.reach[i - left]) : 0;
    while (i + length < n && back(length) == back(i + length)) {
      ++length;
    }
    if (i + length > right) {
      left = i;
      right = i + length;
    }
    scratch.reach[i] = length;
  }
  for (int32_t i = 1; i < n; ++i) {
    const int32_t length = std::min(scratch.reach[i], limit);
    if (length >= allowed_length) {
      scratch.found.emplace_back(back(i - 1), length);  // the token that followed that occurrence
    }
  }
  std::ranges::sort(scratch.found, [](const auto& a, const auto& b) {
    return a.first < b.first || (a.first == b.first && a.second > b.second);
  });
  const auto same_token = [](const auto& a, const auto& b) { return a.first == b.first; };
  scratch.found.erase(std::unique(scratch.found.begin(), scratch.found.end(), same_token),
                      scratch.found.end());
  return scratch.found;
}

float dry_penalty(float multiplier, float base, int32_t length, int32_t allowed_length) {
  constexpr float kLogOfLargestFloat = 88.7228F;
  float exponent = static_cast<float>(length - allowed_length);
  if (base > 1.000001F) {
    exponent = std::min(exponent, std::floor(kLogOfLargestFloat / std::log(base)));
  }
  return multiplier * std::pow(base, exponent);
}

}  // namespace fl::engine
