// The gated delta rule of kernels/gated_delta.h on the device, with the convolution of kernels/causal_conv.h
// in front and the gated norm behind. All pointers are device memory.
//
// A row of state holds, per layer, S [n_value_heads][key_dim][value_dim] and the convolution's ring: the
// input of the token with cache index p lies in slot p % kernel of [kernel][conv_channels]. A ring needs no
// shifting, so the heads that share a key head can read their history while one of them writes the new input.
// Inputs before index 0 and the state before index 0 count as zero, whatever the row holds.
#pragma once

#include <cstdint>

#include "kernels/cuda/matmul.h"
#include "kernels/cuda/queue.h"
#include "kernels/gated_delta.h"

namespace fl::cuda {

/// One layer's weights; f32.
struct DeltaWeights {
  const float* conv = nullptr;  ///< [conv_channels][kernel], as in the file
  const float* a = nullptr;     ///< [n_value_heads], negative
  const float* dt = nullptr;    ///< [n_value_heads]
  const float* norm = nullptr;  ///< [value_dim]
  int conv_kernel = 4;
  float eps = 0;
};

/// State of one layer: row r begins at base + r * row_stride floats.
struct DeltaState {
  float* base = nullptr;
  int64_t row_stride = 0;
  int64_t ring_offset = 0;  ///< from the row's begin; a multiple of 4, like row_stride
};

/// Projections of the step's tokens; f32.
struct DeltaProjections {
  const float* qkv = nullptr;    ///< [n_tokens][conv_channels], before the convolution
  const float* z = nullptr;      ///< [n_tokens][v_channels]
  const float* alpha = nullptr;  ///< [n_tokens][gate_stride]
  const float* beta = nullptr;   ///< [n_tokens][gate_stride]
  int64_t gate_stride = 0;
};

/// A run of consecutive tokens of one sequence.
struct DeltaRun {
  int32_t first = 0;     ///< its first token in the step
  int32_t n_tokens = 0;  ///< 0: nothing to do (padding)
  int32_t n_cached = 0;  ///< cache index of the first token
  int32_t state_row = 0;
};

/// The result of a step's tokens, v_channels wide. With fused activations (delta_fuses) only `activations` is
/// written, else only `y` [n_tokens][v_channels], and the caller stores it.
struct DeltaOutput {
  float* y = nullptr;
  Activations activations;
};
bool delta_fuses(const DeltaShape& shape);

/// Where a step keeps the states that it works on: by how many there are, or in shared memory if the device
/// can, by a block for each state or by blocks that go from one to the next. The bits are the same.
enum class DeltaStates { best, in_shared_memory, by_staying_blocks };

/// One token of each run (n_tokens is 0 or 1): convolution, rule, norm.
void gated_delta_step(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                      const DeltaState& state, const DeltaProjections& in, const DeltaRun* runs, int n_runs,
                      const DeltaOutput& out, DeltaStates states = DeltaStates::best);

// Prompts. The steps below, in this order, do the same for runs of any length; `runs` are whole slices.

/// mixed [n_tokens][conv_channels]: convolved, SiLU, q and k normalised (q also by 1 / sqrt(key_dim)). Then
/// the rings are brought up to date. Tokens outside all runs are left alone.
void delta_convolve(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                    const DeltaState& state, const float* qkv, const DeltaRun* runs, int n_runs,
                    int max_run_tokens, float* mixed);

/// Token by token: o (before the norm) takes the place of v in `mixed`. Runs are pieces of slices.
void delta_recurrent(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                     const DeltaState& state, const DeltaProjections& in, const DeltaRun* runs, int n_runs,
                     float* mixed);

/// How the chunked form goes through a sequence's chunks: by what the device has, or as every device can.
enum class DeltaScan { best, portable };
/// True when the chunked form below exists for this shape (key_dim = value_dim = 128).
bool delta_chunked_supported(const DeltaShape& shape);
/// Chunks of at most kDeltaChunk tokens: `chunks` in the order of the tokens, sequence after sequence;
/// sequence i has the chunks [sequence_begin[i], sequence_begin[i + 1]). `spare` [n_tokens][conv_channels]
/// may be the projections' qkv, which is no longer needed after delta_convolve.
void delta_chunked(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                   const DeltaState& state, const DeltaProjections& in, const DeltaRun* chunks, int n_chunks,
                   const int32_t* sequence_begin, int n_sequences, float* mixed, float* spare,
                   DeltaScan scan = DeltaScan::best);

/// The gated norm of o, for the tokens of the runs.
void delta_norm(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w, const float* mixed,
                const float* z, const DeltaRun* runs, int n_runs, int max_run_tokens, const DeltaOutput& out);

}  // namespace fl::cuda
