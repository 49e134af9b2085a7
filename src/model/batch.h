// One shape of work for prompt and decode alike: a flat list of tokens, cut into slices of sequences.
// The engine fills it, a Runner executes it. Spans stay valid until Runner::submit returns.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

namespace fl::model {

/// Tokens of one KV block; also the absolute grid on which prompts are cut, so that a recurrent state exists
/// at block borders and results do not depend on scheduling (docs/decisions/0001).
inline constexpr int32_t kBlockTokens = 64;

/// In Batch::tokens: "the token that the previous step sampled on the device", see Batch::feedback.
inline constexpr int32_t kTokenFromDevice = -1;

/// RoPE position of a token (temporal, height, width). Text has all three equal. Not the cache index: after
/// an image positions advance by less than one a token.
struct Position {
  int32_t t = 0;
  int32_t y = 0;
  int32_t x = 0;
};

/// The tokens of one sequence in this step. A sequence appears in at most one slice.
/// Slices of more than one token start at any index but end at a multiple of kBlockTokens or at the prompt's
/// end. Inside a slice the recurrence is cut at absolute multiples of kBlockTokens, so a prompt's slice gives
/// the same bits as the same tokens in several slices, whether or not one of those has a single token
/// (docs/decisions/0082 for what devices promise).
struct Slice {
  int32_t first = 0;     ///< index of its first token in Batch::tokens
  int32_t n_tokens = 0;  ///< >= 1
  int32_t n_cached =
      0;  ///< tokens already in the caches = cache index of the first token; 0 means: state is zero
  int32_t state_row = 0;  ///< row of the recurrent state, [0, Capacity::n_state_rows): not a spare one
  std::span<const int32_t> blocks;  ///< KV blocks holding cache indices [0, n_cached + n_tokens)
  /// Its tokens are a prompt's, not ones that the model chose: set for every slice of a prompt, also of one
  /// token, and for every slice of several tokens.
  bool prompt = false;
};

/// Sampling that a device can do itself, without the logits leaving it. The engine's host path follows the
/// same steps (engine/sampler.h), so both give the same token but for the rounding of exp() and of the sums.
///
/// `bias` first, for both: of each (token, b) in order, l = min(l + b, max(l, 1e30)); -inf forbids the token.
/// greedy: the largest logit; the lowest id among equals.
/// random, in this order:
///   1. Candidates are the top_k largest logits, ordered by (logit descending, id ascending): c_0, c_1, ...
///   2. top_p < 1: p_i = exp(l_i - l_0) / sum over the candidates (no temperature). Keep the shortest prefix
///   whose sum
///      of p reaches top_p (>=); at least c_0.
///   3. min_p > 0: keep the candidates with l_i >= l_0 + ln(min_p); c_0 always.
///   4. w_i = exp((l_i - l_0) / temperature) over those kept.
///   5. The token is the first c_i with w_0 + ... + w_i > uniform * (w_0 + ... + w_last); the last one with w
///   > 0 if
///      rounding leaves none.
/// A row whose largest logit is not finite, or that holds a NaN, gives RowResult::token = -1. Fed back to the
/// next step it counts as token 0: that sequence is over and nothing of it is used any more.
struct DeviceSampling {
  enum class Mode : uint8_t { none, greedy, random };
  Mode mode = Mode::none;
  int32_t top_k = 0;         ///< in [1, Capacity::max_device_top_k] for `random`
  float top_p = 1.0F;        ///< >= 1: off
  float min_p = 0.0F;        ///< <= 0: off
  float temperature = 1.0F;  ///< > 0
  float uniform = 0.0F;      ///< the draw in [0, 1), made by the engine's counter-based generator
  std::span<const std::pair<int32_t, float>> bias;  ///< at most Capacity::max_device_bias
};

/// A token whose logits are needed.
struct Row {
  int32_t token = 0;           ///< index in Batch::tokens
  bool logits_to_host = true;  ///< copy the n_vocab logits to the host
  DeviceSampling sampling;     ///< does not change the logits that go to the host
};

struct Batch {
  std::span<const int32_t> tokens;  ///< [n_tokens], ids or kTokenFromDevice
  /// Empty, or [n_tokens]: for kTokenFromDevice the index in the rows of the step submitted just before this
  /// one, whose sampled token (mode greedy or random) it is; -1 elsewhere.
  std::span<const int32_t> feedback;
  std::span<const Position> positions;  ///< [n_tokens]
  std::span<const Slice> slices;
  std::span<const Row> rows;  ///< may be empty: a step that only fills the caches

  int32_t n_tokens() const { return static_cast<int32_t>(tokens.size()); }
};

}  // namespace fl::model
