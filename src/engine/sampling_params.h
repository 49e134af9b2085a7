// How the next token is chosen. Names, defaults and definitions are llama-server's (ggml-org/llama.cpp,
// common/common.h and src/llama-sampling.cpp).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fl::engine {

enum class SamplerKind : uint8_t {
  penalties,
  dry,
  top_n_sigma,
  top_k,
  typical_p,
  top_p,
  min_p,
  xtc,
  temperature
};

/// penalties, dry, top_n_sigma, top_k, typical_p, top_p, min_p, xtc, temperature.
std::vector<SamplerKind> default_samplers();

struct SamplingParams {
  std::vector<SamplerKind> samplers = default_samplers();
  uint32_t seed = 0xFFFFFFFF;  ///< 0xFFFFFFFF: the engine draws one and reports it
  int32_t top_k = 40;          ///< <= 0: all
  float top_p = 0.95F;
  float min_p = 0.05F;
  float typical_p = 1.0F;
  float top_n_sigma = -1.0F;  ///< <= 0: off
  float xtc_probability = 0.0F;
  float xtc_threshold = 0.1F;
  float temperature = 0.8F;  ///< <= 0: greedy
  float dynatemp_range = 0.0F;
  float dynatemp_exponent = 1.0F;
  int32_t repeat_last_n = 64;  ///< 0: off, -1: the whole context
  float repeat_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float dry_multiplier = 0.0F;
  float dry_base = 1.75F;
  int32_t dry_allowed_length = 2;
  int32_t dry_penalty_last_n = -1;
  std::vector<std::vector<int32_t>> dry_breakers;  ///< token sequences that end a repetition
  int32_t mirostat = 0;                            ///< 0 or 2
  float mirostat_tau = 5.0F;
  float mirostat_eta = 0.1F;
  int32_t min_keep = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< (token, added to its logit; -inf forbids)
};

/// Whether a sampler would change anything with these parameters.
bool active(const SamplingParams& params, SamplerKind kind);

/// True when every draw is the largest logit left after bias, masks and penalties: nothing in the chain can
/// drop it.
bool is_greedy(const SamplingParams& params);

}  // namespace fl::engine
