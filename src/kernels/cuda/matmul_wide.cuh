// The product kernel for many tokens: activations are read once for a group of row tiles.
//
// Each of a block's warps takes MT row tiles of a group (for swiglu a tile of gate and the same of up) and
// all walk the same superblocks, so that each activation record crosses from L2 once for all of them and from
// shared memory once for MT tiles; weights come through a ring of each warp's own, as in matmul_kernel.cuh.
// The work of a launch is one line of superblocks, [segment][group][class][superblock], and each block has a
// piece of it, of equal bytes whatever the borders of groups and classes: a class that a border cuts is one
// chain of sums all the same, since its first block, which begins with it, hands its sums on to the second,
// which ends with it. Sums of a group that one block owns are added pairwise as they come; a group that
// several blocks share meets in scratch, where the last warp to arrive adds each tile's classes in the same
// pairwise order. So a row's bits are those of the other kernel, whatever the grid. Only the activations are
// common to the warps of a block.
#pragma once

#include "kernels/cuda/matmul_kernel.cuh"

namespace fl::cuda {

// The block whose start is the first to cut a group, given the group's first superblock: the one after the
// last whose target is the cost before the group or less.
__device__ __forceinline__ int first_cut(const MatmulParams& p, int group) {
  uint32_t before = 0;
  for (int i = 0; i < p.n_segments; ++i) {
    const MatmulSegment& s = p.segments[i];
    const int end = i + 1 < p.n_segments ? p.segments[i + 1].first : p.n_tiles;
    before += static_cast<uint32_t>((min(end, group) - s.first) * p.n_superblocks) * s.cost;
    if (group < end) {
      break;
    }
  }
  return static_cast<int>(before / p.cost_per_block) + 1;
}

// A block's share, cut into pieces of one class each, in the order of work: the class that the next block
// ends, whole classes, the class that the block before has begun.
class PieceCursor {
 public:
  __device__ PieceCursor(const MatmulParams& p, int first, int end)
      : first_(first), share_end_(end), n_(p.n_superblocks), bits_(class_bits(p.n_superblocks)) {
    const Chain last = chain(end - 1);
    const Chain head = chain(first);
    middle_ = head.begin < first ? head.end : first;
    middle_end_ = last.end > end ? last.begin : end;
    head_end_ = head.begin < first && head.end <= end ? head.end : first;
    if (last.end > end) {
      begin_ = max(last.begin, first);
      end_ = end;
      from_other_ = last.begin < first;
      to_other_ = true;
      open(p);
    } else {
      next(p);
    }
  }
  __device__ bool valid() const { return begin_ < end_; }
  __device__ void next(const MatmulParams& p) {
    to_other_ = false;
    if (middle_ < middle_end_) {
      begin_ = middle_;
      end_ = middle_ = chain(middle_).end;
    } else {
      begin_ = first_;
      end_ = head_end_;
      head_end_ = first_;
      from_other_ = true;
    }
    if (valid()) {
      open(p);
    }
  }

  __device__ int segment() const { return segment_; }
  __device__ int group() const { return group_; }  ///< in the launch
  __device__ int class_index() const { return class_; }
  __device__ int begin() const { return begin_ - group_ * n_; }  ///< superblocks of the matrix
  __device__ int end() const { return end_ - group_ * n_; }
  __device__ bool from_other() const { return from_other_; }  ///< the block before has begun this class
  __device__ bool to_other() const { return to_other_; }      ///< the next block ends it
  __device__ bool owned() const { return group_ * n_ >= first_ && (group_ + 1) * n_ <= share_end_; }
  /// The next piece is of the same group.
  __device__ bool more_of_group() const { return middle_ < middle_end_ && middle_ < (group_ + 1) * n_; }

 private:
  struct Chain {
    int begin;
    int end;
  };
  __device__ Chain chain(int superblock) const {
    const int start = superblock / n_ * n_;
    const int c = (((superblock - start + 1) << bits_) - 1) / n_;
    return {start + ((n_ * c) >> bits_), start + ((n_ * (c + 1)) >> bits_)};
  }
  __device__ void open(const MatmulParams& p) {
    group_ = begin_ / n_;
    class_ = (((begin_ - group_ * n_ + 1) << bits_) - 1) / n_;
    segment_ = 0;
    while (segment_ + 1 < p.n_segments && group_ >= p.segments[segment_ + 1].first) {
      ++segment_;
    }
  }

  int first_;
  int share_end_;
  int n_;
  int bits_;
  int middle_;
  int middle_end_;
  int head_end_;
  int begin_ = 0;
  int end_ = 0;
  int segment_ = 0;
  int group_ = 0;
  int class_ = 0;
  bool from_other_ = false;
  bool to_other_ = false;
};

// A warp's tiles of a group. Store and add: tiles of the group in turn; swiglu: one of gate and the same of
// up, by one warp (MT = 2) or by warps w and w + 4.
template <int MT>
struct WarpTiles {
  int first;  ///< row tile in the segment
  int count;  ///< 0 .. MT
  __device__ WarpTiles(const MatmulParams& p, const PieceCursor& at, int warp) {
    const MatmulSegment& s = p.segments[at.segment()];
    const int group = at.group() - s.first;
    const int tiles = (s.rows + kTileRows - 1) / kTileRows;
    if (p.epilogue == Epilogue::swiglu) {
      constexpr int kPairs = kMatmulWarps * MT / 2;
      first = group * kPairs + warp % kPairs;
      count = first < tiles ? MT : 0;
    } else {
      first = (group * kMatmulWarps + warp) * MT;
      count = max(0, min(MT, tiles - first));
    }
  }
  __device__ static const uint8_t* at(const MatmulParams& p, const PieceCursor& piece, int first, int warp,
                                      int mt) {
    const MatmulSegment& s = p.segments[piece.segment()];
    const bool pairs = p.epilogue == Epilogue::swiglu;
    const bool up = pairs && (MT == 2 ? mt == 1 : warp >= kMatmulWarps / 2);
    const int64_t tile = first + (pairs ? 0 : mt);
    return (up ? s.w_up : s.w) + (tile * p.n_superblocks + piece.begin()) * s.tile_bytes;
  }
};

// Fills a warp's ring with the tiles of its pieces: MT tiles a superblock.
template <int MT>
class PieceFeeder {
 public:
  __device__ PieceFeeder(const MatmulParams& p, const PieceCursor& start, int warp)
      : cursor_(start), warp_(warp) {
    open(p);
  }
  __device__ void fill(const MatmulParams& p, TileRing& ring) {
    while (left_ > 0 && ring.free_slots() >= count_) {
#pragma unroll
      for (int mt = 0; mt < MT; ++mt) {
        if (mt < count_) {
          ring.fill(from_[mt], bytes_);
          from_[mt] += bytes_;
        }
      }
      if (--left_ == 0) {
        cursor_.next(p);
        open(p);
      }
    }
  }

 private:
  __device__ void open(const MatmulParams& p) {
    for (; cursor_.valid(); cursor_.next(p)) {
      const WarpTiles<MT> tiles(p, cursor_, warp_);
      if (tiles.count > 0) {
        count_ = tiles.count;
        left_ = cursor_.end() - cursor_.begin();
        bytes_ = p.segments[cursor_.segment()].tile_bytes;
#pragma unroll
        for (int mt = 0; mt < MT; ++mt) {
          from_[mt] = WarpTiles<MT>::at(p, cursor_, tiles.first, warp_, mt);
        }
        return;
      }
    }
    left_ = 0;
  }

  PieceCursor cursor_;
  const uint8_t* from_[MT] = {};
  int warp_;
  int bytes_ = 0;
  int left_ = 0;
  int count_ = 0;
};

// The stages of activations that all warps share. Every warp calls issue() and take() with the same sequence;
// on sm_90 one lane of warp 0 copies for all, before every thread copies its part.
class ActivationStages {
 public:
  static constexpr int kMaxStages = 4;
  static constexpr int kArrivals =
#if __CUDA_ARCH__ >= 900
      1;
#else
      kMatmulThreads;
#endif

  __device__ ActivationStages(uint8_t* stages, uint64_t* full, uint64_t* empty, int n_stages,
                              const PieceCursor& start)
      : stages_(stages), full_(full), empty_(empty), n_stages_(n_stages), cursor_(start), k_(start.begin()) {}

  /// The next superblock's record starts on its way, if its stage is free to take (waits for the slowest
  /// warp).
  __device__ void issue(const MatmulParams& p, int warp, int lane) {
#if __CUDA_ARCH__ >= 900
    if (warp != 0 || !cursor_.valid()) {
      return;
    }
#else
    if (!cursor_.valid()) {
      return;
    }
#endif
    if (issued_ >= n_stages_) {
      barrier_wait(empty_ + stage_, empty_parity_);
    }
    const int bytes = p.n_tokens * kRecordBytes;
    const uint8_t* from = p.activations + static_cast<int64_t>(k_) * bytes;
    uint8_t* to = stages_ + stage_ * bytes;
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      barrier_expect(full_ + stage_, static_cast<uint32_t>(bytes));
      bulk_copy(to, from, static_cast<uint32_t>(bytes), full_ + stage_);
    }
    __syncwarp();
#else
    for (int at = (warp * 32 + lane) * 16; at < bytes; at += kMatmulThreads * 16) {
      copy16(to + at, from + at);
    }
    arrive_after_copies(full_ + stage_);
#endif
    ++issued_;
    if (++stage_ == n_stages_) {
      stage_ = 0;
      empty_parity_ ^= 1U;
    }
    if (++k_ == cursor_.end()) {
      cursor_.next(p);
      k_ = cursor_.begin();
    }
  }

  __device__ const uint8_t* take(int record_bytes) {
    barrier_wait(full_ + take_, parity_);
    return stages_ + take_ * record_bytes;
  }
  /// All lanes, each of which has read.
  __device__ void release() {
    barrier_arrive(empty_ + take_);
    if (++take_ == n_stages_) {
      take_ = 0;
      parity_ ^= 1U;
    }
  }

 private:
  uint8_t* stages_;
  uint64_t* full_;
  uint64_t* empty_;
  int n_stages_;
  PieceCursor cursor_;
  int k_;
  int issued_ = 0;
  uint32_t empty_parity_ = 1;  // the first round waits for nothing and makes it 0
  int stage_ = 0;
  int take_ = 0;
  uint32_t parity_ = 0;
};

template <int NT>
struct StagedActivations {
  const uint8_t* superblock;
  int step;
  int lane_offset[NT];
  __device__ uint4 load(int s, int nt) const { return load16(superblock + s * step + lane_offset[nt]); }
};

/// A warp's sums in global memory, as its lanes hold them: [mt][nt][lane][4].
template <int NT, int MT>
__device__ __forceinline__ void put_sums(float* to, const Accumulators<NT, MT>& acc, int lane) {
#pragma unroll
  for (int i = 0; i < MT * NT; ++i) {
    const float(&v)[4] = acc[i / NT][i % NT];
    __stcg(reinterpret_cast<float4*>(to) + i * 32 + lane, float4{v[0], v[1], v[2], v[3]});
  }
}
template <int NT, int MT>
__device__ __forceinline__ void get_sums(Accumulators<NT, MT>& acc, const float* from, int lane) {
#pragma unroll
  for (int i = 0; i < MT * NT; ++i) {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(from) + i * 32 + lane);
    float(&to)[4] = acc[i / NT][i % NT];
    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
  }
}

// Sums of 8 tokens as the lanes hold them to four rows of one token a lane: token lane / 4, rows 4 (lane %
// 4)..
__device__ __forceinline__ void write_turned(float* turn, float4 v, int lane) {
  float* at = turn + 2 * (lane & 3) * kTileRows + (lane >> 2);
  at[0] = v.x;
  at[kTileRows] = v.y;
  at[8] = v.z;
  at[kTileRows + 8] = v.w;
}
__device__ __forceinline__ float4 read_turned(const float* turn, int lane) {
  return *reinterpret_cast<const float4*>(turn + lane * 4);
}

/// The classes' sums of one tile (for swiglu of gate, `up` those of up) added pairwise and to their outputs,
/// by one warp. sums: as put_sums left them; class_stride: in floats. kTogether: tiles of 8 tokens whose
/// loads are under way together.
template <int NT, int kTogether>
__device__ __forceinline__ void finish_sums(const MatmulParams& p, const float* sums, const float* up,
                                            int class_stride, int classes, const float* factors,
                                            const MatmulSegment& segment, int row_tile, float* turn,
                                            int lane) {
  const bool pairs = p.epilogue == Epilogue::swiglu;
#pragma unroll 1
  for (int first = 0; first < NT && first * 8 < p.n_tokens; first += kTogether) {
    RowInputs in[kTogether];
    float4 v[kTogether];
    float4 v_up[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      in[i] = row_inputs(p, segment, row_tile, (first + i) * 8 + (lane >> 2));
      const int at = ((first + i) * 32 + lane) * 4;
      v[i] = sum_classes<true>(sums + at, class_stride, classes);
      v_up[i] = pairs ? sum_classes<true>(up + at, class_stride, classes) : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      write_turned(turn, v[i], lane);
      if (pairs) {
        write_turned(turn + 8 * kTileRows, v_up[i], lane);
      }
      __syncwarp();
      const float4 rows = read_turned(turn, lane);
      const float4 up_rows = pairs ? read_turned(turn + 8 * kTileRows, lane) : float4{0, 0, 0, 0};
      __syncwarp();
      const int token = (first + i) * 8 + (lane >> 2);
      if (token < p.n_tokens) {
        finish_token(p, rows, up_rows, in[i], factors[token], segment, row_tile, token);
      }
    }
  }
}

/// NT: tiles of 8 tokens; MT: row tiles of a warp.
template <int NT, int MT, int kBlocksPerSm>
__global__ void __launch_bounds__(kMatmulThreads, kBlocksPerSm)
    wide_kernel(const __grid_constant__ MatmulParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_start();
  const int block = static_cast<int>(blockIdx.x);
  const int first = unit_at(p, static_cast<uint32_t>(block) * p.cost_per_block);
  const int end = unit_at(p, static_cast<uint32_t>(block + 1) * p.cost_per_block);
  if (first >= end) {
    return;
  }
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const WidePlan plan = wide_plan(p.n_tokens, p.partial_slots, p.ring_slots, p.slot_bytes);
  uint64_t* full = reinterpret_cast<uint64_t*>(shared);
  static_assert(ActivationStages::kMaxStages <= kMatmulWarps);
  uint64_t* empty = full + kMatmulWarps;
  float* factors = reinterpret_cast<float*>(shared + plan.factors);
  float* turn = reinterpret_cast<float*>(shared + plan.turns) + warp * kTurnFloats;
  TileRing ring(shared + plan.rings + warp * p.ring_slots * p.slot_bytes, p.ring_slots, p.slot_bytes, lane);
  if (lane == 0) {
    // One of each for every warp, though there are fewer stages: where some warps leave an initialisation
    // out, compute-sanitizer's racecheck counts it for them, too, at an address of what came before.
    barrier_init(full + warp, ActivationStages::kArrivals);
    barrier_init(empty + warp, kMatmulThreads);
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }
  __syncwarp();
  PieceCursor now(p, first, end);
  PieceFeeder<MT> feeder(p, now, warp);
  feeder.fill(p, ring);
  __syncthreads();
  wait_for_previous();
  ActivationStages stages(shared + plan.stages, full, empty, p.partial_slots, now);
  // the stage that is filled next was left two steps ago, where there are enough: the slowest warp has that
  // long
  for (int i = 0; i < max(1, p.partial_slots - 2); ++i) {
    stages.issue(p, warp, lane);
  }
  rms_factors<NT <= 2 ? 2 : 4>(p, factors, warp, lane);
  __syncthreads();

  const int record = p.n_tokens * kRecordBytes;
  StagedActivations<NT> acts;
  acts.step = p.n_tokens * 64;
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    acts.lane_offset[nt] = min(nt * 8 + (lane >> 2), p.n_tokens - 1) * 64 + (lane & 3) * 16;
  }
  const int classes = n_classes(p.n_superblocks);
  const bool pairs = p.epilogue == Epilogue::swiglu;
  const bool split_pairs = pairs && MT == 1;  // gate and up of a tile are of two warps
  constexpr int kWarpFloats = MT * NT * 128;
  constexpr int kClassFloats = kMatmulWarps * kWarpFloats;

  float* region = nullptr;
  int region_group = -1;
  int arrived = 0;  // classes of a shared group that this warp has written
  for (; now.valid(); now.next(p)) {
    const MatmulSegment& segment = p.segments[now.segment()];
    const int type = segment.type;
    const WarpTiles<MT> mine(p, now, warp);
    Accumulators<NT, MT> acc;
    if (now.from_other() && mine.count > 0) {
      const int slot = (block - 1) * kMatmulWarps + warp;
      if (lane == 0) {
        wait_flag(p.handed_on + slot);
      }
      __syncwarp();
      get_sums<NT, MT>(acc, p.carries + static_cast<int64_t>(slot) * kWarpFloats, lane);
    } else {
      clear<NT, MT>(acc);
    }
    const int end_k = now.end();
    for (int k = now.begin(); k < end_k; ++k) {
      stages.issue(p, warp, lane);
      acts.superblock = stages.take(record);
      if (mine.count > 0) {
        const uint8_t* tiles[MT];
        ring.take<MT>(mine.count, tiles);
        unit<NT, MT>(acc, type, tiles, acts, lane);
        ring.release(mine.count);
        feeder.fill(p, ring);
      }
      stages.release();
    }
    if (mine.count == 0) {
      continue;
    }
    if (now.to_other()) {
      const int slot = block * kMatmulWarps + warp;
      put_sums<NT, MT>(p.carries + static_cast<int64_t>(slot) * kWarpFloats, acc, lane);
      __syncwarp();
      if (lane == 0) {
        raise_flag(p.handed_on + slot);
      }
      continue;
    }
    const bool owned = now.owned() && !split_pairs;
    if (now.group() != region_group) {
      region_group = now.group();
      const int place = p.region_per_group != 0 ? region_group
                        : owned                 ? static_cast<int>(gridDim.x) + 1 + block
                                                : first_cut(p, region_group);
      region = p.scratch + static_cast<int64_t>(place) * classes * kClassFloats;
    }
    put_sums<NT, MT>(region + now.class_index() * kClassFloats + warp * kWarpFloats, acc, lane);
    ++arrived;
    if (now.more_of_group()) {
      continue;
    }
    bool last = owned;
    if (!owned) {
      __syncwarp();
      int all = 0;
      if (lane == 0) {
        constexpr int kTicketWarps = kMatmulWarps / 2;
        int* ticket = p.tickets + region_group * kMatmulWarps + (split_pairs ? warp % kTicketWarps : warp);
        __threadfence();  // for all lanes: the barrier orders their writes before it
        const int before = atomicAdd(ticket, arrived);
        __threadfence();
        all = before + arrived == classes * (split_pairs ? 2 : 1) ? 1 : 0;
        if (all != 0) {
          *ticket = 0;
        }
      }
      last = __shfl_sync(~0U, all, 0) != 0;
    }
    arrived = 0;
    if (last) {
      constexpr int kTogether = kBlocksPerSm == 1 && NT >= 4 ? 4 : NT >= 2 ? 2 : 1;
      constexpr int kTileFloats = NT * 128;
      const float* sums = region + (split_pairs ? warp % (kMatmulWarps / 2) : warp) * kWarpFloats;
      const float* up = sums + (split_pairs ? kMatmulWarps / 2 * kWarpFloats : kTileFloats);
#pragma unroll 1
      for (int mt = 0; mt < (pairs ? 1 : mine.count); ++mt) {
        finish_sums<NT, kTogether>(p, sums + mt * kTileFloats, up, kClassFloats, classes, factors, segment,
                                   mine.first + mt, turn, lane);
      }
    }
  }
}

}  // namespace fl::cuda
