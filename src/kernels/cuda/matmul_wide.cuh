// The product kernel for many tokens: activations are read once for 128 rows.
//
// A block's warps take eight row tiles together (four of gate and four of up for swiglu) and walk the same
// superblocks, so that each activation record crosses from L2 once for all of them; weights come through a
// ring of each warp's own, as in matmul_kernel.cuh. The unit of work is one class of one group of tiles; each
// block owns a contiguous run of units of equal bytes. Sums of a group that one block owns are added pairwise
// as they come. A group that several blocks share meets in scratch: every class's sums are written there, and
// whoever arrives last adds them in the same pairwise order. So a row's bits are those of the other kernel,
// whatever the grid.
#pragma once

#include "kernels/cuda/matmul_kernel.cuh"

namespace fl::cuda {

// Units of a launch: [segment][group][class]. The fields `first` of segments and `n_tiles` count units.
class UnitCursor {
 public:
  __device__ UnitCursor(const MatmulParams& p, int first, int end, int warp)
      : unit_(first), end_(end), warp_(warp), bits_(class_bits(p.n_superblocks)) {
    open(p);
  }
  __device__ bool valid() const { return unit_ < end_; }
  __device__ void next(const MatmulParams& p) {
    ++unit_;
    if (valid()) {
      open(p);
    }
  }

  __device__ int segment() const { return segment_; }
  __device__ int group() const { return group_; }  ///< in its segment
  __device__ int class_index() const { return class_; }
  __device__ int first_unit() const { return unit_ - class_; }  ///< of the group
  __device__ bool present() const { return present_; }          ///< this warp's tile exists
  __device__ int first_superblock(const MatmulParams& p) const { return (p.n_superblocks * class_) >> bits_; }
  __device__ int end_superblock(const MatmulParams& p) const {
    return (p.n_superblocks * (class_ + 1)) >> bits_;
  }
  __device__ const uint8_t* tile(const MatmulParams& p) const {
    const MatmulSegment& s = p.segments[segment_];
    const bool up = p.epilogue == Epilogue::swiglu && warp_ >= kMatmulWarps / 2;
    return (up ? s.w_up : s.w) +
           (static_cast<int64_t>(tile_) * p.n_superblocks + first_superblock(p)) * s.tile_bytes;
  }

 private:
  __device__ void open(const MatmulParams& p) {
    while (segment_ + 1 < p.n_segments && unit_ >= p.segments[segment_ + 1].first) {
      ++segment_;
    }
    const MatmulSegment& s = p.segments[segment_];
    const int local = unit_ - s.first;
    group_ = local >> bits_;
    class_ = local - (group_ << bits_);
    tile_ = p.epilogue == Epilogue::swiglu ? group_ * (kMatmulWarps / 2) + warp_ % (kMatmulWarps / 2)
                                           : group_ * kMatmulWarps + warp_;
    present_ = tile_ * kTileRows < s.rows;
  }

  int unit_;
  int end_;
  int warp_;
  int bits_;
  int segment_ = 0;
  int group_ = 0;
  int class_ = 0;
  int tile_ = 0;
  bool present_ = false;
};

// Fills a warp's ring with the tiles of its units.
class UnitFeeder {
 public:
  __device__ UnitFeeder(const MatmulParams& p, const UnitCursor& start) : cursor_(start) { open(p); }
  __device__ void fill(const MatmulParams& p, TileRing& ring) {
    while (ring.free_slots() > 0 && left_ > 0) {
      ring.fill(from_, bytes_);
      from_ += bytes_;
      if (--left_ == 0) {
        cursor_.next(p);
        open(p);
      }
    }
  }

 private:
  __device__ void open(const MatmulParams& p) {
    for (; cursor_.valid(); cursor_.next(p)) {
      left_ = cursor_.end_superblock(p) - cursor_.first_superblock(p);
      if (cursor_.present() && left_ > 0) {
        from_ = cursor_.tile(p);
        bytes_ = p.segments[cursor_.segment()].tile_bytes;
        return;
      }
    }
    left_ = 0;
  }

  UnitCursor cursor_;
  const uint8_t* from_ = nullptr;
  int bytes_ = 0;
  int left_ = 0;
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

  __device__ ActivationStages(const MatmulParams& p, uint8_t* stages, uint64_t* full, uint64_t* empty,
                              int n_stages, const UnitCursor& start)
      : stages_(stages),
        full_(full),
        empty_(empty),
        n_stages_(n_stages),
        cursor_(start),
        k_(start.first_superblock(p)) {
    skip_empty(p);
  }

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
    const int bytes = p.n_tokens * 576;
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
      *reinterpret_cast<uint4*>(to + at) = __ldcg(reinterpret_cast<const uint4*>(from + at));
    }
    barrier_arrive(full_ + stage_);
#endif
    ++issued_;
    if (++stage_ == n_stages_) {
      stage_ = 0;
      empty_parity_ ^= 1U;
    }
    if (++k_ == cursor_.end_superblock(p)) {
      cursor_.next(p);
      skip_empty(p);
    }
  }

  __device__ const uint8_t* take(int record_bytes) {
    barrier_wait(full_ + take_, parity_);
    return stages_ + take_ * record_bytes;
  }
  __device__ void release(int lane) {
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(empty_ + take_);
    }
    if (++take_ == n_stages_) {
      take_ = 0;
      parity_ ^= 1U;
    }
  }

 private:
  __device__ void skip_empty(const MatmulParams& p) {
    for (; cursor_.valid(); cursor_.next(p)) {
      k_ = cursor_.first_superblock(p);
      if (k_ < cursor_.end_superblock(p)) {
        return;
      }
    }
  }

  uint8_t* stages_;
  uint64_t* full_;
  uint64_t* empty_;
  int n_stages_;
  UnitCursor cursor_;
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

// The share whose start cuts the group first: its place in the scratch is the group's.
__device__ __forceinline__ int scratch_region(const MatmulParams& p, int share, int first_unit) {
  int b = share;
  if (first_tile(p, static_cast<uint32_t>(b) * p.cost_per_block) <= first_unit) {
    return b + 1;  // the group starts in this block; the next one's start cuts it
  }
  while (first_tile(p, static_cast<uint32_t>(b - 1) * p.cost_per_block) > first_unit) {
    --b;
  }
  return b;
}

/// NT: tiles of 8 tokens.
template <int NT, int kBlocksPerSm>
__global__ void __launch_bounds__(kMatmulThreads, kBlocksPerSm)
    wide_kernel(const __grid_constant__ MatmulParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ int last_to_arrive;
  let_next_start();
  const int share = share_of_block(p);
  const int first = first_tile(p, static_cast<uint32_t>(share) * p.cost_per_block);
  const int end = first_tile(p, static_cast<uint32_t>(share + 1) * p.cost_per_block);
  if (first >= end) {
    return;
  }
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const WidePlan plan = wide_plan(p.n_tokens, p.partial_slots, p.ring_slots, p.slot_bytes);
  uint64_t* ring_barriers = reinterpret_cast<uint64_t*>(shared) + warp * kMaxRingSlots;
  uint64_t* full = reinterpret_cast<uint64_t*>(shared) + kMatmulWarps * kMaxRingSlots;
  uint64_t* empty = full + ActivationStages::kMaxStages;
  float* factors = reinterpret_cast<float*>(shared + plan.factors);
  float* sums = reinterpret_cast<float*>(shared + plan.sums);
  if (lane == 0) {
    for (int i = 0; i < p.ring_slots; ++i) {
      barrier_init(ring_barriers + i, 1);
    }
    if (warp < p.partial_slots) {
      barrier_init(full + warp, ActivationStages::kArrivals);
      barrier_init(empty + warp, kMatmulWarps);
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }
  __syncwarp();
  UnitCursor now(p, first, end, warp);
  TileRing ring(shared + plan.rings + warp * p.ring_slots * p.slot_bytes, ring_barriers, p.ring_slots,
                p.slot_bytes, lane);
  UnitFeeder feeder(p, now);
  feeder.fill(p, ring);
  __syncthreads();
  wait_for_previous();
  ActivationStages stages(p, shared + plan.stages, full, empty, p.partial_slots, now);
  for (int i = 0; i + 1 < p.partial_slots; ++i) {
    stages.issue(p, warp, lane);
  }
  rms_factors(p, factors, warp, lane);

  const int record = p.n_tokens * 576;
  StagedActivations<NT> acts;
  acts.step = p.n_tokens * 64;
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    acts.lane_offset[nt] = min(nt * 8 + (lane >> 2), p.n_tokens - 1) * 64 + (lane & 3) * 16;
  }
  const int classes = n_classes(p.n_superblocks);
  const bool pairs = p.epilogue == Epilogue::swiglu;
  const int tile_stride = p.n_tokens * kTileRows;
  const int class_stride = kMatmulWarps * tile_stride;
  const int per_group = pairs ? kMatmulWarps / 2 : kMatmulWarps;  // tiles, or pairs of tiles
  // of a finished group each warp takes a tile, or half of the tokens of a pair of tiles
  const int tile = warp % per_group;
  const int first_token = (lane >> 2) + (pairs ? 8 * (warp / per_group) : 0);
  const int token_step = pairs ? 16 : 8;
  const auto put = [&](float* to, const Accumulators<NT, 1>& acc, bool global) {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = nt * 8 + 2 * (lane & 3) + (i & 1);
        if (token < p.n_tokens) {
          float* at = to + token * kTileRows + (lane >> 2) + 8 * (i >> 1);
          if (global) {
            __stcg(at, acc[0][nt][i]);
          } else {
            *at = acc[0][nt][i];
          }
        }
      }
    }
  };

  float4 saved[3][NT];  // sums of 1, 2 and 4 classes that wait for their right neighbours; seldom touched,
                        // not in registers
  float* region = nullptr;
  int arrived = 0;  // classes of a shared group that this block has written
  for (; now.valid(); now.next(p)) {
    const MatmulSegment& segment = p.segments[now.segment()];
    const int type = segment.type;
    Accumulators<NT, 1> acc;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[0][nt][i] = 0.0f;
      }
    }
    const int end_k = now.end_superblock(p);
    for (int k = now.first_superblock(p); k < end_k; ++k) {
      stages.issue(p, warp, lane);
      acts.superblock = stages.take(record);
      if (now.present()) {
        const uint8_t* tiles[1];
        ring.take<1>(1, tiles);
        unit<NT, 1>(acc, type, tiles, acts, lane);
        ring.release(1);
        feeder.fill(p, ring);
      }
      stages.release(lane);
    }
    const int c = now.class_index();
    const int group = now.group();
    const int first_unit = now.first_unit();
    const int local = group * per_group;
    const int count = min(per_group, (segment.rows + kTileRows - 1) / kTileRows - local);
    if (first_unit >= first && first_unit + classes <= end) {  // all of the group is ours
      int level = 0;
      for (int done = c; (done & 1) != 0; done >>= 1, ++level) {
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
          const float4 left = saved[level][nt];
          acc[0][nt][0] = left.x + acc[0][nt][0];
          acc[0][nt][1] = left.y + acc[0][nt][1];
          acc[0][nt][2] = left.z + acc[0][nt][2];
          acc[0][nt][3] = left.w + acc[0][nt][3];
        }
      }
      if (c < classes - 1) {
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
          saved[level][nt] = {acc[0][nt][0], acc[0][nt][1], acc[0][nt][2], acc[0][nt][3]};
        }
      }
      if (c == classes - 1) {
        __syncthreads();  // everyone has read the group before
        put(sums + warp * tile_stride, acc, false);
        __syncthreads();
        if (tile < count) {
          finish_tile<false>(p, sums + tile * tile_stride, 0, 1, per_group, factors, segment, local + tile,
                             first_token, token_step);
        }
      }
      continue;
    }
    if (arrived == 0) {
      region =
          p.scratch + static_cast<int64_t>(scratch_region(p, share, first_unit)) * classes * class_stride;
    }
    if (now.present()) {
      put(region + c * class_stride + warp * tile_stride, acc, true);
    }
    ++arrived;
    const int at = first_unit + c;
    if (c < classes - 1 && at + 1 < end) {
      continue;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();  // for all threads: the barrier orders their writes before it
      int* ticket = p.tickets + (segment.first >> class_bits(p.n_superblocks)) + group;
      const int before = atomicAdd(ticket, arrived);
      __threadfence();
      last_to_arrive = before + arrived == classes ? 1 : 0;
      if (last_to_arrive != 0) {
        *ticket = 0;
      }
    }
    __syncthreads();
    arrived = 0;
    if (last_to_arrive != 0) {
      if (tile < count) {
        finish_tile<true>(p, region + tile * tile_stride, class_stride, classes, per_group, factors, segment,
                          local + tile, first_token, token_step);
      }
    }
    __syncthreads();
  }
}

}  // namespace fl::cuda
