// The sampler chain written again, plainly: doubles, full sorts, one loop per definition (server-surface of
// llama-server, src/llama-sampler.cpp). Shares nothing with src/engine but the parameters.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "engine/sampling_params.h"

namespace fl::test {

struct Option {
  int32_t id = 0;
  double logit = 0;
  double p = 0;
};

inline void softmax_sorted(std::vector<Option>& options) {
  std::stable_sort(options.begin(), options.end(), [](const Option& a, const Option& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  double sum = 0;
  for (Option& o : options) {
    o.p = std::exp(o.logit - options[0].logit);
    sum += o.p;
  }
  for (Option& o : options) {
    o.p /= sum;
  }
}

inline double entropy_of(const std::vector<Option>& options) {
  double entropy = 0;
  for (const Option& o : options) {
    entropy -= o.p > 0 ? o.p * std::log(o.p) : 0;
  }
  return entropy;
}

/// Length of the longest suffix of `h` that also ends at index `end` (exclusive), by comparing token by
/// token.
inline int32_t suffix_match(const std::vector<int32_t>& h, size_t end) {
  int32_t n = 0;
  while (n < static_cast<int32_t>(end) && h[end - 1 - n] == h[h.size() - 1 - n]) {
    ++n;
  }
  return n;
}

/// The distribution over tokens after the chain, most likely first. `xtc_draw`: the uniform of that sampler.
inline std::vector<Option> oracle(const engine::SamplingParams& p, const std::vector<float>& logits,
                                  const std::vector<int32_t>& history, double xtc_draw) {
  using engine::SamplerKind;
  std::vector<double> biased(logits.begin(), logits.end());
  for (const auto& [token, bias] : p.logit_bias) {
    biased[token] += bias;
  }
  std::vector<Option> c;
  for (size_t i = 0; i < biased.size(); ++i) {
    if (biased[i] > -std::numeric_limits<double>::infinity()) {
      c.push_back({static_cast<int32_t>(i), biased[i], 0});
    }
  }
  const size_t min_keep = p.min_keep;
  const auto temperature = [&] {
    double t = p.temperature;
    if (p.dynatemp_range > 0 && c.size() > 1) {
      softmax_sorted(c);
      const double low = std::max(0.0, double{p.temperature} - p.dynatemp_range);
      const double high = double{p.temperature} + p.dynatemp_range;
      t = low + (high - low) *
                    std::pow(entropy_of(c) / std::log(static_cast<double>(c.size())), p.dynatemp_exponent);
    }
    softmax_sorted(c);
    if (t <= 0) {
      c.resize(1);
    } else {
      for (Option& o : c) {
        o.logit /= t;
      }
    }
  };
  if (p.mirostat == 2) {
    temperature();
    softmax_sorted(c);
    return c;
  }
  for (const SamplerKind kind : p.samplers) {
    switch (kind) {
      case SamplerKind::penalties: {
        std::map<int32_t, int> counts;
        const size_t window =
            p.repeat_last_n < 0 ? history.size() : std::min<size_t>(p.repeat_last_n, history.size());
        for (size_t i = history.size() - window; i < history.size(); ++i) {
          ++counts[history[i]];
        }
        for (Option& o : c) {
          if (const int n = counts[o.id]; n > 0) {
            o.logit = o.logit > 0 ? o.logit / p.repeat_penalty : o.logit * p.repeat_penalty;
            o.logit -= n * double{p.frequency_penalty} + p.presence_penalty;
          }
        }
        break;
      }
      case SamplerKind::dry: {
        if (p.dry_multiplier == 0) {
          break;
        }
        const size_t window = p.dry_penalty_last_n < 0
                                  ? history.size()
                                  : std::min<size_t>(p.dry_penalty_last_n, history.size());
        const std::vector<int32_t> h(history.end() - static_cast<int64_t>(window), history.end());
        int32_t limit = static_cast<int32_t>(h.size());
        for (const auto& breaker : p.dry_breakers) {
          for (size_t end = breaker.size(); end <= h.size(); ++end) {
            if (std::equal(breaker.begin(), breaker.end(),
                           h.begin() + static_cast<int64_t>(end - breaker.size()))) {
              limit = std::min(limit, static_cast<int32_t>(h.size() - end));
            }
          }
        }
        std::map<int32_t, int32_t> longest;
        for (size_t end = 1; end < h.size(); ++end) {
          const int32_t n = std::min(limit, suffix_match(h, end));
          if (n >= p.dry_allowed_length) {
            longest[h[end]] = std::max(longest[h[end]], n);
          }
        }
        for (Option& o : c) {
          if (longest.count(o.id) != 0 && limit >= p.dry_allowed_length) {
            o.logit -= p.dry_multiplier * std::pow(double{p.dry_base}, longest[o.id] - p.dry_allowed_length);
          }
        }
        break;
      }
      case SamplerKind::top_n_sigma: {
        if (p.top_n_sigma <= 0) {
          break;
        }
        double mean = 0;
        double max = c[0].logit;
        for (const Option& o : c) {
          mean += o.logit / static_cast<double>(c.size());
          max = std::max(max, o.logit);
        }
        double variance = 0;
        for (const Option& o : c) {
          variance += (o.logit - mean) * (o.logit - mean) / static_cast<double>(c.size());
        }
        std::erase_if(c,
                      [&](const Option& o) { return o.logit < max - p.top_n_sigma * std::sqrt(variance); });
        break;
      }
      case SamplerKind::top_k:
        softmax_sorted(c);
        if (p.top_k > 0 && static_cast<size_t>(p.top_k) < c.size()) {
          c.resize(p.top_k);
        }
        break;
      case SamplerKind::typical_p: {
        if (p.typical_p >= 1) {
          break;
        }
        softmax_sorted(c);
        const double entropy = entropy_of(c);
        std::stable_sort(c.begin(), c.end(), [&](const Option& a, const Option& b) {
          return std::abs(-std::log(a.p) - entropy) < std::abs(-std::log(b.p) - entropy);
        });
        double mass = 0;
        for (size_t i = 0; i < c.size(); ++i) {
          mass += c[i].p;
          if (mass > p.typical_p && (min_keep == 0 || i + 1 >= min_keep)) {
            c.resize(i + 1);
          }
        }
        break;
      }
      case SamplerKind::top_p: {
        if (p.top_p >= 1) {
          break;
        }
        softmax_sorted(c);
        double mass = 0;
        for (size_t i = 0; i < c.size(); ++i) {
          mass += c[i].p;
          if (mass >= p.top_p && i + 1 >= min_keep) {
            c.resize(i + 1);
          }
        }
        break;
      }
      case SamplerKind::min_p: {
        if (p.min_p <= 0) {
          break;
        }
        softmax_sorted(c);
        size_t kept = 1;
        while (kept < c.size() && (c[kept].p >= p.min_p * c[0].p || kept < min_keep)) {
          ++kept;
        }
        c.resize(kept);
        break;
      }
      case SamplerKind::xtc: {
        if (p.xtc_probability <= 0 || p.xtc_threshold > 0.5 || c.size() < 2 || xtc_draw > p.xtc_probability) {
          break;
        }
        softmax_sorted(c);
        const auto above = static_cast<size_t>(
            std::ranges::count_if(c, [&](const Option& o) { return o.p >= p.xtc_threshold; }));
        if (above >= 2 && c.size() - (above - 1) >= min_keep) {
          c.erase(c.begin(), c.begin() + static_cast<int64_t>(above - 1));
        }
        break;
      }
      case SamplerKind::temperature:
        temperature();
        break;
    }
  }
  softmax_sorted(c);
  return c;
}

}  // namespace fl::test
