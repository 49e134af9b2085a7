// Which kernel multiplies records of so many tokens, with how much shared memory, and how its blocks share
// the tiles.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/runtime.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_params.h"

namespace fl::cuda {

struct KernelChoice {
  using Launcher = void (*)(cudaStream_t, bool, int, int, const MatmulParams&);
  Launcher launch = nullptr;
  bool wide = false;
  int row_tiles = 1;  ///< of a warp, together
  int blocks_per_sm = 1;
  int groups = 1;         ///< of a block of the kernel for up to 8 tokens, each with a share of the tiles
  bool lends = false;     ///< between the two groups of a block
  int partial_slots = 0;  ///< wide: stages of activations
  int ring_slots = 0;
  int shared_bytes = 0;
};

/// What a launch of n_tokens columns uses, its segments added; `launch` is empty when this many do not fit
/// the device.
KernelChoice choose_kernel(const DeviceInfo& device, const MatmulOptions& options, int n_tokens,
                           const MatmulParams& p);

/// `up`: for swiglu; otherwise nullptr.
void add_segment(MatmulParams& p, const PackedMatrix& w, const PackedMatrix* up, float* y, int64_t stride);

/// The shares of the kernel for up to 8 tokens: one for each group of each block. Returns their number.
int share_tiles(MatmulParams& p, const DeviceInfo& device, const KernelChoice& choice);
/// Blocks for so many shares: no SM has two while another has none.
int grid_of(const DeviceInfo& device, const KernelChoice& choice, int n_shares);
/// The same for the wide kernel, in groups of tiles: counts them and returns their cost.
uint64_t count_groups(MatmulParams& p, int row_tiles);
uint32_t cost_per_block(uint64_t cost, int grid);

/// What shares of a launch of n_tokens ask for of the next one with as many; nothing if that is no launch of
/// the kernel for up to 8 tokens.
NextLaunch next_launch(const DeviceInfo& device, const MatmulOptions& options, const NextProduct& next,
                       int n_tokens);

}  // namespace fl::cuda
