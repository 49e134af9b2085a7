// Selecting and weighing tokens among a vocabulary's logits: what the sampler chain and the log-probabilities
// are built of. Order everywhere: logit descending, id ascending among equals, so that no result depends on a
// sort's whims.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fl::engine {

struct Candidate {
  float logit = 0;
  int32_t id = 0;
};

inline bool before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/// Working memory of selections over up to n_vocab logits; reserved once, so that a step allocates nothing.
struct SelectScratch {
  explicit SelectScratch(int32_t n_vocab);
  std::vector<float> block_max;
  std::vector<float> order;
  std::vector<Candidate> pool;
  std::vector<Candidate> best;  ///< for callers without a list of their own
};

// `maxima`: of these logits as in model::RowResult, or empty; the result is the same.

/// The largest logit, or NaN when one is NaN or +inf.
float largest(std::span<const float> logits, std::span<const float> maxima = {});

/// The index of the largest logit, the lowest among equals; -1 when the largest is not finite or one is NaN.
int32_t argmax(std::span<const float> logits, std::span<const float> maxima = {});

/// The k largest, ordered; k >= 1, fewer if there are fewer. Tokens at -inf are left out. False when a logit
/// is NaN or +inf. One pass over the logits plus work in k: no sort of the vocabulary.
bool select_top(std::span<const float> logits, int32_t k, SelectScratch& scratch, std::vector<Candidate>& out,
                std::span<const float> maxima = {});

/// Sum of exp(logit - shift), in blocks of float sums added in double; relative error below 1e-6. shift >=
/// every logit.
double sum_exp(std::span<const float> logits, float shift);

void scale_all(std::span<float> logits, float divisor);

/// exp(x) for x <= 0, relative error below 3e-7; 0 below -87. Cephes' expf: range reduction by ln 2, degree-7
/// polynomial.
float exp_negative(float x);

}  // namespace fl::engine
