// How much device memory products need beside weights, activations and results.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/matmul_params.h"

namespace fl::cuda {

inline uint64_t aligned(uint64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

inline constexpr int kMostForTwo = 16;  // tokens up to which the kernels' registers allow two blocks an SM

inline constexpr int kMaxTickets = 65536;  // row tiles of a launch
inline constexpr int kMaxBlocks = 2048;    // of a launch
inline constexpr uint64_t kTicketBytes = (kMaxTickets + kMaxBlocks * kMatmulWarps) * 4;

// What the wide kernel keeps in device memory. A launch has two blocks an SM, a row tile a warp, up to
// kMostForTwo tokens, and at most one block and two row tiles beyond: as much at 16 tokens as at 32, twice
// that at 64.

inline uint64_t block_sums_bytes(int n_sms, int n_tokens) {
  return static_cast<uint64_t>(n_sms) *
         static_cast<uint64_t>(class_sums_bytes(std::max(n_tokens, kMostForTwo), 2));
}
/// Sums of groups: for each block's start a region of all classes of a group that it cuts, and for each block
/// one for the groups that are its own. Room for four classes: matrices with eight are long and have few
/// groups.
inline uint64_t shared_sums_bytes(int n_sms, int n_tokens) {
  return aligned(4 * (2 * block_sums_bytes(n_sms, n_tokens) + block_sums_bytes(1, n_tokens)));
}
/// The same for swiglu, where every group has its own: up to kMostForTwo tokens gate and up of a tile are of
/// two warps, of which one may be a group ahead.
inline uint64_t swiglu_sums_bytes(int n_tokens, int64_t rows) {
  const int64_t tiles = 2 * ((rows + kTileRows - 1) / kTileRows);
  const int64_t groups = (tiles + 2 * kMatmulWarps - 1) / (2 * kMatmulWarps) + 1;
  return aligned(kMaxClasses *
                 static_cast<uint64_t>(groups * class_sums_bytes(std::max(n_tokens, kMostForTwo), 2)));
}
/// Sums that a block hands on to the next.
inline uint64_t carries_bytes(int n_sms, int n_tokens) {
  return aligned(block_sums_bytes(n_sms, n_tokens));
}

inline uint64_t slices_bytes(int32_t max_tokens, int64_t max_cols) {
  const int32_t n = std::min(max_tokens, int32_t{kMaxColumns});
  return aligned(activation_bytes(n, max_cols)) + aligned(activation_bytes((n + 1) / 2 + 8, max_cols));
}

inline uint64_t gate_and_up_bytes(int32_t max_tokens, int64_t rows) {
  return aligned(static_cast<uint64_t>(std::min(max_tokens, int32_t{kMaxColumns})) *
                 static_cast<uint64_t>(rows) * 8);
}

}  // namespace fl::cuda
