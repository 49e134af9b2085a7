#include "engine/candidates.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "model/runner.h"

namespace fl::engine {

namespace {

constexpr int64_t kBlock = 256;  ///< logits whose largest is kept: 970 blocks for the family's vocabulary
constexpr float kSmallestExponent = -87.0F;  ///< below it exp() is no normal float
constexpr float kInf = std::numeric_limits<float>::infinity();

// Four floats in a register, which every machine has; four registers at a time hide the latency. The compiler
// does not find this by itself: it may not reorder a maximum or a sum of floats.
constexpr int64_t kWidth = 4;
constexpr int64_t kUnroll = 4;
using Floats = float __attribute__((vector_size(kWidth * sizeof(float))));
using Ints = int32_t __attribute__((vector_size(kWidth * sizeof(float))));

inline Floats load(const float* x) {
  Floats v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

inline Floats splat(float x) {
  return Floats{x, x, x, x};
}

struct BlockMax {
  float max = -kInf;
  bool bad = false;  ///< a NaN or +inf
};

BlockMax block_max(const float* x, int64_t n) {
  Floats max[kUnroll];
  Ints finite[kUnroll];
  for (int64_t j = 0; j < kUnroll; ++j) {
    max[j] = splat(-kInf);
    finite[j] = Ints{-1, -1, -1, -1};
  }
  int64_t i = 0;
  for (; i + kWidth * kUnroll <= n; i += kWidth * kUnroll) {
    for (int64_t j = 0; j < kUnroll; ++j) {
      const Floats v = load(x + i + j * kWidth);
      max[j] = v > max[j] ? v : max[j];
      finite[j] &= v < splat(kInf);
    }
  }
  BlockMax result;
  for (int64_t j = 0; j < kUnroll; ++j) {
    for (int64_t k = 0; k < kWidth; ++k) {
      result.max = max[j][k] > result.max ? max[j][k] : result.max;
      result.bad |= finite[j][k] == 0;
    }
  }
  for (; i < n; ++i) {
    result.max = x[i] > result.max ? x[i] : result.max;
    result.bad |= !(x[i] < kInf);
  }
  return result;
}

}  // namespace

SelectScratch::SelectScratch(int32_t n_vocab) {
  block_max.reserve(n_vocab / kBlock + 1);
  order.reserve(n_vocab / kBlock + 1);
  pool.reserve(n_vocab);
}

float largest(std::span<const float> logits, std::span<const float> maxima) {
  const std::span<const float> from = maxima.empty() ? logits : maxima;
  const BlockMax all = block_max(from.data(), static_cast<int64_t>(from.size()));
  return all.bad ? std::numeric_limits<float>::quiet_NaN() : all.max;
}

int32_t argmax(std::span<const float> logits, std::span<const float> maxima) {
  if (!maxima.empty()) {
    const int32_t best = argmax(maxima);
    if (best < 0) {
      return -1;
    }
    const auto first = logits.begin() + int64_t{best} * model::kLogitBlock;
    return static_cast<int32_t>(std::find(first, logits.end(), maxima[static_cast<size_t>(best)]) -
                                logits.begin());
  }
  const auto n = static_cast<int64_t>(logits.size());
  float best = -kInf;
  int64_t block = -1;
  for (int64_t i = 0; i < n; i += kBlock) {
    const BlockMax m = block_max(logits.data() + i, std::min(kBlock, n - i));
    if (m.bad) {
      return -1;
    }
    if (m.max > best) {
      best = m.max;
      block = i;
    }
  }
  if (block < 0) {
    return -1;
  }
  return static_cast<int32_t>(std::find(logits.begin() + block, logits.end(), best) - logits.begin());
}

bool select_top(std::span<const float> logits, int32_t k, SelectScratch& scratch, std::vector<Candidate>& out,
                std::span<const float> maxima) {
  const auto n = static_cast<int64_t>(logits.size());
  out.clear();
  scratch.block_max.clear();
  static_assert(kBlock % model::kLogitBlock == 0);
  const std::span<const float> from = maxima.empty() ? logits : maxima;
  const auto n_from = static_cast<int64_t>(from.size());
  const int64_t step = maxima.empty() ? kBlock : kBlock / model::kLogitBlock;
  for (int64_t i = 0; i < n_from; i += step) {
    const BlockMax m = block_max(from.data() + i, std::min(step, n_from - i));
    if (m.bad) {
      return false;
    }
    scratch.block_max.push_back(m.max);
  }
  // The k-th largest of the blocks' maxima is at most the k-th largest logit, so only blocks that reach it
  // matter.
  float threshold = -kInf;
  if (static_cast<int64_t>(scratch.block_max.size()) > k) {
    scratch.order.assign(scratch.block_max.begin(), scratch.block_max.end());
    std::nth_element(scratch.order.begin(), scratch.order.begin() + (k - 1), scratch.order.end(),
                     std::greater<>());
    threshold = scratch.order[k - 1];
  }
  scratch.pool.clear();
  for (size_t b = 0; b < scratch.block_max.size(); ++b) {
    if (scratch.block_max[b] < threshold) {
      continue;
    }
    const int64_t end = std::min(n, static_cast<int64_t>(b + 1) * kBlock);
    for (int64_t i = static_cast<int64_t>(b) * kBlock; i < end; ++i) {
      if (logits[i] >= threshold && logits[i] > -kInf) {
        scratch.pool.push_back({logits[i], static_cast<int32_t>(i)});
      }
    }
  }
  const auto kept = std::min<int64_t>(k, static_cast<int64_t>(scratch.pool.size()));
  if (kept < static_cast<int64_t>(scratch.pool.size())) {
    std::nth_element(scratch.pool.begin(), scratch.pool.begin() + kept, scratch.pool.end(), before);
  }
  std::sort(scratch.pool.begin(), scratch.pool.begin() + kept, before);
  out.assign(scratch.pool.begin(), scratch.pool.begin() + kept);
  return true;
}

static inline Floats exp_poly(Floats x) {
  constexpr float kLog2e = 1.44269504088896341F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats low = splat(kSmallestExponent);
  const Floats clamped = x > low ? x : low;
  const Floats n = (clamped * kLog2e + kRound) - kRound;
  const Floats r = (clamped - n * kLn2High) - n * kLn2Low;
  Floats p = splat(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const Floats e = p * r * r + r + 1.0F;
  const Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x > low ? e * scale : splat(0.0F);
}

float exp_negative(float x) {
  return exp_poly(splat(x))[0];
}

double sum_exp(std::span<const float> logits, float shift) {
  const auto n = static_cast<int64_t>(logits.size());
  const float* x = logits.data();
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    Floats sum = splat(0.0F);
    int64_t i = begin;
    for (; i + kWidth <= end; i += kWidth) {
      sum += exp_poly(load(x + i) - shift);
    }
    for (int64_t k = 0; k < kWidth; ++k) {
      total += sum[k];
    }
    for (; i < end; ++i) {
      total += exp_negative(x[i] - shift);
    }
  }
  return total;
}

void scale_all(std::span<float> logits, float divisor) {
  for (float& v : logits) {
    v /= divisor;
  }
}

}  // namespace fl::engine
