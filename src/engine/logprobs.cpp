#include "engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fl::engine {

TokenProb model_logprobs(std::span<const float> logits, int32_t token, int32_t n_probs,
                         SelectScratch& scratch, std::vector<TokenProb>& top) {
  top.clear();
  const float max = largest(logits);
  const double log_sum = max + std::log(sum_exp(logits, max));
  if (n_probs > 0) {
    select_top(logits, std::min(n_probs, static_cast<int32_t>(logits.size())), scratch, scratch.best);
    for (const Candidate& c : scratch.best) {
      top.push_back({c.id, static_cast<float>(c.logit - log_sum)});
    }
  }
  return {token, static_cast<float>(logits[token] - log_sum)};
}

TokenProb sampler_logprobs(std::span<const Candidate> items, std::span<const double> weights, double total,
                           int32_t token, int32_t n_probs, std::vector<TokenProb>& top) {
  top.clear();
  TokenProb chosen{token, -std::numeric_limits<float>::infinity()};
  for (size_t i = 0; i < items.size(); ++i) {
    const auto logprob = static_cast<float>(std::log(weights[i] / total));
    if (items[i].id == token) {
      chosen.logprob = logprob;
    }
    if (weights[i] > 0 && static_cast<int32_t>(top.size()) < n_probs) {
      top.push_back({items[i].id, logprob});
    }
  }
  return chosen;
}

}  // namespace fl::engine
