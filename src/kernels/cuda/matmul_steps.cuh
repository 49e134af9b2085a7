// In which order the kernel for up to 8 tokens (matmul_kernel.cuh) works through a share of row tiles, and
// the order in which each of its warps therefore wants tiles.
#pragma once

#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tile_ring.cuh"

namespace fl::cuda {

// The unit at which a block starts, given the cost before it: the first whose start costs as much or more. A
// unit is 1 / n_units of a group, or a tile; `first` of segments counts whole ones.
template <typename Params>
__device__ __forceinline__ int unit_at(const Params& p, uint32_t target) {
  uint32_t before = 0;
  for (int i = 0; i < p.n_segments; ++i) {
    const auto& s = p.segments[i];
    const int end = i + 1 < p.n_segments ? p.segments[i + 1].first : p.n_tiles;
    const uint32_t units = static_cast<uint32_t>((end - s.first) * p.n_units);
    if (target <= before + units * s.cost) {
      return s.first * p.n_units + static_cast<int>((target - before + s.cost - 1) / s.cost);
    }
    before += units * s.cost;
  }
  return p.n_tiles * p.n_units;
}

// The tile at which a share of the kernel for up to 8 tokens starts; the grid's end for one past the last.
// Shares with more go first: the places of the grid are given out in order, so they start first, and mostly
// one on an SM, beside one of the later and lighter (decision 0063).
template <typename Params>
__device__ __forceinline__ int first_tile_of(const Params& p, int share) {
  if (p.tiles_per_share > 0) {
    return share * p.tiles_per_share + min(share, p.shares_with_more);
  }
  return unit_at(p, static_cast<uint32_t>(share) * p.cost_per_block);
}

// Where a block's step begins. A step is two neighbouring tiles of a segment, of gate and up for swiglu; one
// tile where a segment or the block's share ends. Only this much is kept from step to step, since the
// products need the registers; the rest is worked out again.
struct StepStart {
  int tile;  ///< of all segments
  int segment;
  __device__ StepStart(const MatmulParams& p, int first) : tile(first), segment(0) { find_segment(p); }
  /// Tiles of the step of a block whose share ends at `end`.
  __device__ int count(const MatmulParams& p, int end) const {
    if (p.epilogue == Epilogue::swiglu) {
      return 2;
    }
    const int segment_end = segment + 1 < p.n_segments ? p.segments[segment + 1].first : p.n_tiles;
    return min(2, min(segment_end, end) - tile);
  }
  __device__ void next(const MatmulParams& p, int end) {
    tile += p.epilogue == Epilogue::swiglu ? 1 : count(p, end);
    if (tile < end) {
      find_segment(p);
    }
  }
  __device__ int tile_in_segment(const MatmulParams& p) const { return tile - p.segments[segment].first; }

 private:
  __device__ void find_segment(const MatmulParams& p) {
    while (segment + 1 < p.n_segments && tile >= p.segments[segment + 1].first) {
      ++segment;
    }
  }
};

// This warp's share of a step: one class of both tiles where there are eight classes, else of one. Which one
// turns from step to step, which evens out runs of unequal length.
struct WarpShare {
  int class_index;
  int first_tile;  ///< of the step
  int end_tile;
  __device__ WarpShare(int bits, int warp, int step, int count) {
    const int share = (warp - step) & (kMatmulWarps - 1);
    class_index = share & ((1 << bits) - 1);
    first_tile = share >> bits;
    end_tile = bits == 3 ? count : min(count, first_tile + 1);
  }
};
__device__ __forceinline__ int class_start(const MatmulParams& p, int bits, int class_index) {
  return (p.n_superblocks * class_index) >> bits;
}

// Where the first group of a block has a tile more than the second, its warps' runs of that tile, its last,
// are cut in two, and the second group's warps, when their own runs are done, take the second parts: warp i
// that of class i of eight. Otherwise half of the block's warps would have nothing to do meanwhile.
enum class Lending : int { none, lends, helps };
__device__ __forceinline__ int last_tile_of(const MatmulParams& p, int share) {
  return first_tile_of(p, share + 1) - 1;
}
/// What a group of this block does.
__device__ __forceinline__ Lending lending_of(const MatmulParams& p, int group) {
  const int share = static_cast<int>(blockIdx.x);
  const int other = share + static_cast<int>(gridDim.x);
  const int tiles = first_tile_of(p, share + 1) - first_tile_of(p, share);
  const int others = min(first_tile_of(p, other + 1), p.n_tiles) - min(first_tile_of(p, other), p.n_tiles);
  return p.lends == 0 || tiles <= others ? Lending::none : group == 0 ? Lending::lends : Lending::helps;
}

// Fills a warp's ring with the tiles of its runs, in the order in which they are taken. kTileBytes: of all
// tiles; 0: they differ.
template <int kTileBytes, bool kLends>
class RunFeeder {
 public:
  __device__ RunFeeder(const MatmulParams& p, const StepStart& start, int end, int bits, int warp,
                       Lending lending)
      : at_(start) {
    open(p, end, bits, warp, lending);
  }
  __device__ void fill(const MatmulParams& p, int end, int bits, int warp, Lending lending, TileRing& ring) {
    while (ring.free_slots() > 0 && left_ > 0) {
      ring.fill(from_, bytes());
      advance(p, end, bits, warp, lending);
    }
  }
  /// Puts the next tile, if there is one, where the ring's current one was.
  __device__ void refill(const MatmulParams& p, int end, int bits, int warp, Lending lending,
                         TileRing& ring) {
    if (left_ > 0) {
      ring.replace(from_, bytes());
      advance(p, end, bits, warp, lending);
    }
  }

 private:
  __device__ int bytes() const { return kTileBytes > 0 ? kTileBytes : bytes_; }
  __device__ __forceinline__ void advance(const MatmulParams& p, int end, int bits, int warp,
                                          Lending lending) {
    from_ += bytes();
    if (--left_ == 0) {
      ++run_;
      open(p, end, bits, warp, lending);
    }
  }
  // The next run, if there is one: the run_-th of this step or the first of a later one, at last the part of
  // another group's.
  __device__ void open(const MatmulParams& p, int end, int bits, int warp, Lending lending) {
    for (; at_.tile < end; at_.next(p, end), ++step_, run_ = 0) {
      const WarpShare share(bits, warp, step_, at_.count(p, end));
      const int i = share.first_tile + run_;
      if (i >= share.end_tile) {
        continue;
      }
      const MatmulSegment& s = p.segments[at_.segment];
      const bool pairs = p.epilogue == Epilogue::swiglu;
      const int64_t row_tile = at_.tile_in_segment(p) + (pairs ? 0 : i);
      const int start = class_start(p, bits, share.class_index);
      bytes_ = s.tile_bytes;
      from_ = (pairs && i > 0 ? s.w_up : s.w) + (row_tile * p.n_superblocks + start) * bytes();
      left_ = class_start(p, bits, share.class_index + 1) - start;
      if (kLends && lending == Lending::lends && at_.tile + i == end - 1) {
        left_ -= lent_part(left_);
      }
      return;
    }
    if (kLends && lending == Lending::helps && run_ == 0) {
      open_lent(p, bits, warp);
    }
  }
  __device__ void open_lent(const MatmulParams& p, int bits, int warp) {
    const int tile = last_tile_of(p, static_cast<int>(blockIdx.x));
    int segment = 0;
    while (segment + 1 < p.n_segments && tile >= p.segments[segment + 1].first) {
      ++segment;
    }
    const MatmulSegment& s = p.segments[segment];
    const int run_end = class_start(p, bits, warp + 1);
    left_ = lent_part(run_end - class_start(p, bits, warp));
    bytes_ = s.tile_bytes;
    from_ = s.w + (static_cast<int64_t>(tile - s.first) * p.n_superblocks + run_end - left_) * bytes();
  }

  StepStart at_;
  const uint8_t* from_ = nullptr;
  int bytes_ = 0;
  int left_ = 0;  // tiles of the run that are not in the ring yet; 0: nothing is left at all
  int step_ = 0;
  int run_ = 0;
};

}  // namespace fl::cuda
