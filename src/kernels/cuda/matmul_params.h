// What one launch of the product kernel is told. Shared by the host's dispatch and the kernel's instances.
#pragma once

#include <cstdint>

#include "kernels/cuda/matmul.h"

namespace fl::cuda {

enum class Epilogue : int32_t { store, add, add_and_norm, swiglu };

/// Rows of one matrix in a launch. For swiglu one segment holds gate and up: tile i of both is one step of
/// the work.
struct MatmulSegment {
  const uint8_t* w;
  const uint8_t* w_up;
  float* y;
  int64_t stride;
  int32_t type;        ///< PackedType
  int32_t tile_bytes;  ///< of this type
  int32_t first;       ///< tiles (wide kernel: groups) of the segments before it
  int32_t rows;
  uint32_t cost;  ///< 16-byte pieces of a tile; wide kernel: of a group's superblock
};

/// What the shares of the launch behind this one begin with (NextProduct); none: it is not known.
struct NextLaunch {
  struct Segment {
    const uint8_t* w;
    const uint8_t* w_up;
    int32_t tile_bytes;
    int32_t first;
    uint32_t cost;
  };
  Segment segments[Matmul::kMaxOutputs];
  int32_t n_segments;
  int32_t n_tiles;
  int32_t n_superblocks;
  int32_t n_units;
  int32_t tiles_per_share;
  int32_t shares_with_more;
  uint32_t cost_per_block;
  int32_t n_shares;
};

struct MatmulParams {
  MatmulSegment segments[Matmul::kMaxOutputs];
  int32_t n_segments;
  int32_t n_tiles;  ///< of all segments (wide kernel: groups)
  int32_t n_superblocks;
  int32_t n_units;  ///< 1; wide kernel: superblocks, at which the borders of blocks cut groups
  int32_t n_tokens;
  // narrow kernel, where all tiles cost the same: tiles of a share (else 0), and how many of the first shares
  // have one more
  int32_t tiles_per_share;
  int32_t shares_with_more;
  uint32_t cost_per_block;  ///< narrow kernel: of a share
  const uint8_t* activations;
  RmsScale scale;
  Epilogue epilogue;
  // add_and_norm, swiglu
  std::byte* out;
  int32_t out_tokens;
  int32_t out_padded_cols;
  int32_t out_records;
  int32_t out_first_token;
  const float* norm_weight;
  float* sum_of_squares;
  // what blocks of the wide kernel share
  float* carries;            ///< [block][warp] sums of a class that the next block ends
  int32_t* handed_on;        ///< [block][warp] they are there; zero between launches
  float* scratch;            ///< [region][class][warp] sums
  int32_t region_per_group;  ///< regions are numbered as groups; else as the block that first cuts a group
  int32_t* tickets;          ///< [group][warp] classes that have arrived; zero between launches
  NextLaunch next;           ///< kernel for up to 8 tokens
  int32_t lends;             ///< likewise: a block's second group may take parts of the first one's last tile
  // shared memory
  int32_t ring_slots;     ///< tiles that each warp holds or awaits
  int32_t slot_bytes;     ///< of a ring, for the largest tile of the launch
  int32_t partial_slots;  ///< steps whose partial sums are kept apart: 1, 2 or 4; wide kernel: stages of
                          ///< activations
  int32_t by_count;       ///< kernel for up to 8 tokens: the device has instances for their number
  int32_t largest_tile;   ///< bytes, of the segments
};

/// Devices with the instances of the kernel for up to 8 tokens for two groups a block, which SMs of others do
/// not hold, and for 1, 2, 4 and 8 tokens, whose fewer instructions matter where an SM's memory is fast: an
/// RTX 4090 brings a quarter of an H200's bytes to an SM. The others' would only take time to compile.
constexpr bool has_more_instances(int arch) {
  return arch >= 90 && arch < 120;
}

inline constexpr int kMatmulWarps = 8;
inline constexpr int kMatmulThreads = 32 * kMatmulWarps;
/// The input dimension of a product is cut into classes: contiguous runs of superblocks. Each run is one
/// chain of sums, and the chains are added pairwise. The number of classes follows from the number of
/// superblocks alone; this order of sums is part of the contract.
inline constexpr int kMaxClassBits = 3;
inline constexpr int kMaxClasses = 1 << kMaxClassBits;
constexpr int class_bits(int n_superblocks) {
  return n_superblocks >= 24 ? 3 : n_superblocks >= 4 ? 2 : 0;
}
constexpr int n_classes(int n_superblocks) {
  return 1 << class_bits(n_superblocks);
}

constexpr int tile_bytes(PackedType type) {
  switch (type) {
    case PackedType::q4_k:
      return 2304;
    case PackedType::q5_k:
      return 2816;
    case PackedType::q6_k:
      return 3360;
    case PackedType::q8_0:
      return 4352;
    case PackedType::f16:
      return 8192;
  }
  return 0;
}

/// Bytes of a ring's slot for tiles of so many. Where tiles come by bulk copies (sm_90 and up) a barrier lies
/// behind the tile, and slots begin at multiples of 128, without which copies to them are slow.
inline constexpr int kSlotBarrierBytes = 8;
constexpr int slot_bytes_of(int tile_bytes, int arch) {
  return arch < 90 ? tile_bytes : (tile_bytes + kSlotBarrierBytes + 127) / 128 * 128;
}

/// Of one token's activations of a superblock: values and sums (activations.cuh).
inline constexpr int kRecordBytes = 576;

/// Offsets in the shared memory of a block; of a group where a block has two, whose activations lie behind
/// both.
struct SharedPlan {
  int factors;   ///< [n_tokens] f32
  int partials;  ///< [slot][class][2 tiles][token][16] f32
  int activations;
  int rings;  ///< [warp][slot]
  int total;
};

constexpr int kBarrierBytes = 1024;  ///< [8 classes of activations], [4 partial slots], [8 lent runs], 8
                                     ///< bytes each; wide kernel: stages
inline constexpr int kMaxPartialSlots = 4;

constexpr SharedPlan shared_plan(int n_tokens, int n_superblocks, bool resident, int partial_slots,
                                 int ring_slots, int slot_bytes) {
  SharedPlan plan{};
  plan.factors = kBarrierBytes;
  plan.partials = plan.factors + (n_tokens * 4 + 127) / 128 * 128;
  plan.activations = plan.partials + partial_slots * n_classes(n_superblocks) * 2 * n_tokens * kTileRows * 4;
  plan.rings = plan.activations + (resident ? n_superblocks * n_tokens * kRecordBytes : 0);
  plan.rings = (plan.rings + 127) / 128 * 128;
  plan.total = plan.rings + kMatmulWarps * ring_slots * slot_bytes;
  return plan;
}
inline constexpr int kMaxRingSlots = 12;

/// Superblocks that a warp takes of the run of another group's warp.
constexpr int lent_part(int run) {
  return run / 2;
}
constexpr int most_in_class(int n_superblocks) {
  return (n_superblocks + n_classes(n_superblocks) - 1) / n_classes(n_superblocks);
}
/// Shared memory for the sums of lent parts, LentSums of each of them.
constexpr int lent_bytes(int n_tokens, int n_superblocks) {
  return kMatmulWarps * lent_part(most_in_class(n_superblocks)) * (n_tokens <= 4 ? 2 : 3) * 32 * 16;
}

/// Offsets of the wide kernel: barriers, factors, a buffer of each warp to turn sums, stages of activations,
/// rings.
struct WidePlan {
  int factors;
  int turns;
  int stages;
  int rings;
  int total;
};
inline constexpr int kTurnFloats = 2 * 8 * kTileRows;  ///< two tiles of 8 tokens
constexpr WidePlan wide_plan(int n_tokens, int n_stages, int ring_slots, int slot_bytes) {
  WidePlan plan{};
  plan.factors = kBarrierBytes;
  plan.turns = plan.factors + (n_tokens * 4 + 127) / 128 * 128;
  plan.stages = plan.turns + kMatmulWarps * kTurnFloats * 4;
  plan.rings = plan.stages + (n_stages * n_tokens * kRecordBytes + 127) / 128 * 128;
  plan.total = plan.rings + kMatmulWarps * ring_slots * slot_bytes;
  return plan;
}
constexpr int token_tiles(int n_tokens) {
  return n_tokens <= 8 ? 1 : n_tokens <= 16 ? 2 : n_tokens <= 32 ? 4 : 8;
}
/// Sums of one class of a group (a warp's share: an eighth), for row_tiles tiles a warp.
constexpr int64_t class_sums_bytes(int n_tokens, int row_tiles) {
  return int64_t{kMatmulWarps} * row_tiles * token_tiles(n_tokens) * 8 * kTileRows * 4;
}

/// The instances. One to eight tokens, all activations in shared memory or read from L2, by the types of the
/// launch:
void launch_resident_any(cudaStream_t stream, bool overlap, int grid, int shared_bytes,
                         const MatmulParams& p);
void launch_resident_q4(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_resident_q6(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_l2_any(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_l2_q4(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_l2_q6(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
/// The same with two groups a block and one block an SM; what does not fit shared memory is read through L1.
void launch_pair_any(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_pair_q4(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_pair_q6(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_pair_l1_any(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_pair_l1_q4(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_pair_l1_q6(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
/// The wide kernel, by tokens and row tiles of a warp:
void launch_wide_8_1(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_wide_16_1(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_wide_32_1(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_wide_32_2(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_wide_64_1(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);
void launch_wide_64_2(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const MatmulParams& p);

}  // namespace fl::cuda
