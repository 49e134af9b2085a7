// Log-probabilities of a chosen token and of the most likely ones.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/candidates.h"
#include "engine/engine.h"

namespace fl::engine {

/// Of the model: natural log of the softmax of the raw logits over the whole vocabulary, before any sampler.
/// `top` gets min(n_probs, n_vocab) entries, best first.
TokenProb model_logprobs(std::span<const float> logits, int32_t token, int32_t n_probs,
                         SelectScratch& scratch, std::vector<TokenProb>& top);

/// Of the sampler: from the candidates, weights and total that the chain left (SamplerScratch); tokens of
/// probability zero are left out. A token that the chain did not keep (a forced one) has -infinity.
TokenProb sampler_logprobs(std::span<const Candidate> items, std::span<const double> weights, double total,
                           int32_t token, int32_t n_probs, std::vector<TokenProb>& top);

}  // namespace fl::engine
