// Chooses the next token of one sequence from its logits: the chain of SamplingParams in llama-server's order
// and definitions (ggml-org/llama.cpp, src/llama-sampler.cpp), drawn with a counter-based generator.
//
// Steps: a token forced by the hook; logit bias; the hook's mask; the chain; the draw. The draw walks the
// candidates in order (logit descending, id ascending) and takes the first whose cumulative weight exceeds
// uniform * total. With mirostat the chain is temperature, then mirostat 2.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/candidates.h"
#include "engine/dry.h"
#include "engine/engine.h"
#include "engine/sampling_params.h"
#include "model/batch.h"
#include "model/runner.h"

namespace fl::engine {

/// Errors name the parameter, its range and the value: NaN, a repeat penalty that is not positive,
/// mirostat 1.
Status check(const SamplingParams& params, int32_t n_vocab);

/// What a device can do of these parameters: mode none when the host must sample. `uniform` is left at 0,
/// `bias` is a view of the parameters' own.
model::DeviceSampling device_sampling(const SamplingParams& params, const model::Capacity& capacity);

/// Working memory shared by all sequences of an engine.
struct SamplerScratch {
  explicit SamplerScratch(int32_t n_vocab) : select(n_vocab) {
    logits.reserve(n_vocab);
    items.reserve(n_vocab);
    weights.reserve(n_vocab);
    extra.reserve(n_vocab);
  }
  SelectScratch select;
  std::vector<float> logits;     ///< copy that bias, masks and penalties may change
  std::vector<Candidate> items;  ///< the candidates left
  std::vector<double> weights;   ///< of items: exp(logit - max)
  double total = 0;              ///< weight of all candidates; `items` may hold only the best of them
  std::vector<Candidate> extra;
  DryScratch dry;
};

class Sampler {
 public:
  /// Prepares for a sequence; all memory it needs later is taken here. `seed` is the one in effect.
  void start(const SamplingParams& params, uint32_t seed, int32_t n_vocab, std::span<const int32_t> prompt);

  /// The token after `history` (prompt and generated so far), or why there is none: logits that are not
  /// numbers, all tokens forbidden. `hook` may be null. Leaves in the scratch what the chain kept: items with
  /// their weights, ordered, at least the best `n_listed` and all up to the chosen one; total is the weight
  /// of all.
  /// `maxima` of the logits, see candidates.h.
  Result<int32_t> sample(std::span<const float> logits, std::span<const int32_t> history, TokenHook* hook,
                         SamplerScratch& scratch, int32_t n_listed = 0, std::span<const float> maxima = {});
  /// Tells the chain of a token that was appended; `history` includes it.
  void accept(std::span<const int32_t> history);

  uint32_t seed() const { return seed_; }
  /// The draw for the token at this index of the sequence.
  float draw(int32_t position) const;

 private:
  struct Pick;
  void count(int32_t token, int32_t by);

  SamplingParams params_;
  uint32_t seed_ = 0;
  int32_t n_vocab_ = 0;
  int32_t window_ = 0;  ///< tokens that the penalties look at; 0: penalties are off
  bool greedy_ = false;
  float mu_ = 0;                   ///< mirostat
  std::vector<int32_t> counts_;    ///< [n_vocab] occurrences in the window
  std::vector<int32_t> distinct_;  ///< tokens with a count
  std::vector<int32_t> where_;     ///< [n_vocab] index in distinct_
};

}  // namespace fl::engine
