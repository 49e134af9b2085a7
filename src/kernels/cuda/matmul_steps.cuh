// In which order the kernel for up to 8 tokens (matmul_kernel.cuh) works through a share of row tiles, and
// the order in which each of its warps therefore wants tiles.
#pragma once

#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tile_ring.cuh"

namespace fl::cuda {

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

// Fills a warp's ring with the tiles of its runs, in the order in which they are taken. kTileBytes: of all
// tiles; 0: they differ.
template <int kTileBytes>
class RunFeeder {
 public:
  __device__ RunFeeder(const MatmulParams& p, const StepStart& start, int end, int bits, int warp)
      : at_(start) {
    open(p, end, bits, warp);
  }
  __device__ void fill(const MatmulParams& p, int end, int bits, int warp, TileRing& ring) {
    while (ring.free_slots() > 0 && left_ > 0) {
      ring.fill(from_, bytes());
      advance(p, end, bits, warp);
    }
  }
  /// Puts the next tile, if there is one, where the ring's current one was.
  __device__ void refill(const MatmulParams& p, int end, int bits, int warp, TileRing& ring) {
    if (left_ > 0) {
      ring.replace(from_, bytes());
      advance(p, end, bits, warp);
    }
  }

 private:
  __device__ int bytes() const { return kTileBytes > 0 ? kTileBytes : bytes_; }
  __device__ __forceinline__ void advance(const MatmulParams& p, int end, int bits, int warp) {
    from_ += bytes();
    if (--left_ == 0) {
      ++run_;
      open(p, end, bits, warp);
    }
  }
  // The next run, if there is one: the run_-th of this step or the first of a later one.
  __device__ void open(const MatmulParams& p, int end, int bits, int warp) {
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
      return;
    }
  }

  StepStart at_;
  const uint8_t* from_ = nullptr;
  int bytes_ = 0;
  int left_ = 0;  // tiles of the run that are not in the ring yet; 0: nothing is left at all
  int step_ = 0;
  int run_ = 0;
};

}  // namespace fl::cuda
