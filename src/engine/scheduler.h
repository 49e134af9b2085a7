// Plans a step: which sequences go into it and with how many tokens. A pure function of what is waiting, so
// that its rules can be tested alone.
//
// Rows that decode come first, one token each. What is left of the budget goes to prompts, cut at absolute
// multiples of kBlockTokens (or the prompt's end, or where a checkpoint is wanted). While chats decode, all
// prompts together get at most max_chunk_tokens in a step, so that no prompt stalls a chat by more than one
// chunk. Among prompts the one with the least left goes first (short ones do not wait for long ones), but a
// quarter of the budget is the oldest's, so that a stream of short prompts cannot starve it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fl::engine {

struct PromptWork {
  int32_t sequence = 0;  ///< the caller's index
  uint64_t order = 0;    ///< of arrival
  int32_t position = 0;  ///< tokens already in the caches
  int32_t end = 0;       ///< the prompt's length
  int32_t cut = 0;       ///< a slice must end here if it would cross it; <= position: no such place
};

struct Chunk {
  int32_t sequence = 0;
  int32_t n_tokens = 0;
};

struct StepBudget {
  int32_t step_tokens = 0;   ///< prompt and decode together
  int32_t chunk_tokens = 0;  ///< prompts, in a step that also decodes
  int32_t capacity = 0;  ///< tokens that the runner takes; at least n_decode + kBlockTokens when prompts wait
};

/// Chunks for the prompts beside `n_decode` rows. When a prompt waits, at least one gets a chunk (of up to
/// kBlockTokens even if the budget is smaller).
void plan_prompts(std::span<const PromptWork> waiting, int32_t n_decode, const StepBudget& budget,
                  std::vector<Chunk>& chunks);

}  // namespace fl::engine
