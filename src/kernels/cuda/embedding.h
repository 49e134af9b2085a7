// Rows of the token embedding table on the device. The table may lie in page-locked host memory: a step reads
// a few KiB of it a token.
#pragma once

#include "core/dtype.h"
#include "kernels/cuda/queue.h"

namespace fl::cuda {

/// Rows as in the file; any supported type.
struct EmbeddingTable {
  const std::byte* data = nullptr;  ///< readable by the device; a multiple of 16
  DType type = DType::f32;
  int32_t n_tokens = 0;
  int32_t cols = 0;
};

/// Token ids of a step. An id of -1 is the token that the step before sampled for its row feedback[i].
struct TokenSource {
  const int32_t* ids = nullptr;       ///< [n]
  const int32_t* feedback = nullptr;  ///< [n]
  const int32_t* sampled = nullptr;   ///< of the step before
};

/// out [n][cols]. An id outside the table counts as 0.
void embed(const Queue& queue, const EmbeddingTable& table, const TokenSource& tokens, int n, float* out);

}  // namespace fl::cuda
