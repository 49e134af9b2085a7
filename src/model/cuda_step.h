// What a step's kernels need to know besides the tensors: one table, filled on the host from a Batch and
// copied to the device in one piece. Its layout follows from the counts, so a recorded graph finds everything
// where it was.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/gated_delta.h"
#include "kernels/cuda/sampling.h"
#include "model/batch.h"

namespace fl::model {

struct StepCounts {
  int32_t n_tokens = 0;
  int32_t n_decode = 0;  ///< slices of one token that is no prompt's
  int32_t n_runs = 0;    ///< slices of prompts
  int32_t n_tiles = 0;   ///< query tiles of the runs
  int32_t n_chunks = 0;  ///< of the runs, in the chunked form
  int32_t n_rows = 0;
  int32_t n_gathered = 0;  ///< distinct tokens with logits; unused when all tokens have them
  int32_t max_run = 0;     ///< tokens of the longest run
  int64_t n_blocks = 0;    ///< block numbers of all slices
};

/// On either side.
struct StepTable {
  int32_t* ids = nullptr;                       ///< [n_tokens]
  int32_t* feedback = nullptr;                  ///< [n_tokens]
  int32_t* positions = nullptr;                 ///< [n_tokens][3]
  cuda::AttentionToken* tokens = nullptr;       ///< [n_tokens]
  cuda::AttentionTile* decode_tiles = nullptr;  ///< [n_decode]
  cuda::DeltaRun* decode_runs = nullptr;        ///< [n_decode]
  cuda::AttentionTile* tiles = nullptr;         ///< [n_tiles]
  cuda::DeltaRun* runs = nullptr;               ///< [n_runs] whole
  cuda::DeltaRun* heads = nullptr;              ///< [n_runs] before the first long chunk (recurrent)
  cuda::DeltaRun* tails = nullptr;              ///< [n_runs] after the last (recurrent)
  cuda::DeltaRun* chunks = nullptr;             ///< [n_chunks]
  int32_t* sequence_begin = nullptr;            ///< [n_runs + 1]
  int32_t* gathered = nullptr;                  ///< [n_gathered] tokens
  cuda::SamplingRow* rows = nullptr;            ///< [n_rows]
  int32_t* blocks = nullptr;                    ///< [n_blocks]

  /// The table at `base` (a multiple of 16), and its size.
  static StepTable at(std::byte* base, const StepCounts& counts, uint64_t* bytes = nullptr);
};

/// Largest table of any batch within the limits.
uint64_t max_table_bytes(int32_t max_tokens, int32_t max_slices, int32_t max_rows, int32_t n_blocks);

/// `chunked`: the model's delta rule has the chunked form; otherwise runs are all head. `bucket` > 0: the
/// step is a decode step of that many tokens, the last ones padding, and all tokens get logits.
StepCounts count_step(const Batch& batch, bool chunked, int32_t bucket);
/// Fills the table of these counts. `decode_stores`: attention of a slice of one token stores the token
/// itself (cuda::attention_fuses), so that its entry of `tokens` stays padding.
void fill_step(const Batch& batch, bool chunked, bool decode_stores, int32_t bucket, const StepCounts& counts,
               const StepTable& table);

}  // namespace fl::model
