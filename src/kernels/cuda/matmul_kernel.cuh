// The product kernel: weights stream once through shared memory, whatever the number of tokens.
//
// A share is a contiguous run of row tiles (as many as any other or one more, the first ones; where types
// mix, equal bytes). A group of eight warps works through one in steps of two tiles. The input dimension is
// cut into classes (matmul_params.h). With eight classes each of the eight warps has one class of both tiles,
// with four a warp has one class of one tile. An SM has two groups: two blocks, or one whose groups have
// nothing in common but the activations (decision 0067).
// Each warp has its own ring of tiles and its own sums, so the warps drift apart freely. Finished sums go to
// shared memory; one step later they are added pairwise and meet the epilogue. No row is shared between
// blocks, between a block's groups at most one tile (Lending): there is no scratch in global memory, no
// ticket, no atomic, and the bits of a row depend neither on the grid nor on the number of tokens.
#pragma once

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/matmul_steps.cuh"
#include "kernels/cuda/tile_math.cuh"

namespace fl::cuda {

// Activations of one superblock as the products' second operand; lanes of absent tokens read the last one.
template <int NT>
struct SharedActivations {
  const uint8_t* superblock;
  int step;         ///< bytes of a sub-block: n_tokens * 64
  int lane_offset;  ///< NT == 1
  __device__ uint4 load(int s, int) const { return load16(superblock + s * step + lane_offset); }
};
// kL1: a fence has emptied L1 of what an earlier kernel read there.
template <int NT, bool kL1>
struct GlobalActivations {
  const uint8_t* superblock;
  int step;
  int lane_offset[NT];
  __device__ uint4 load(int s, int nt) const {
    const auto* from = reinterpret_cast<const uint4*>(superblock + s * step + lane_offset[nt]);
    return kL1 ? __ldca(from) : __ldcg(from);
  }
};

// A warp that has nothing left to do asks L2 for its part of what its share's number begins with in the
// launch behind this one: memory is idle while the last blocks end and the next ones start (decision 0066).
// The very first tiles are left out, since the next shares' rings ask for them as early.
inline constexpr int kAskedBytes = 32 * 128;  // a warp, a line a lane
inline constexpr int kAskedFrom = 8192;       // bytes of a share

// Arrivals of a warp at the barrier of the activations that it fetches: one with a bulk copy, otherwise every
// lane's.
inline constexpr int kFetchArrivals = kDeviceArch >= 90 ? 1 : 32;
__device__ __forceinline__ void ask_for_next(const NextLaunch& next, int share, int warp, int lane) {
  if (share >= next.n_shares) {
    return;
  }
  const int tile = first_tile_of(next, share);
  int i = 0;
  while (i + 1 < next.n_segments && tile >= next.segments[i + 1].first) {
    ++i;
  }
  const NextLaunch::Segment& s = next.segments[i];
  const int end = i + 1 < next.n_segments ? next.segments[i + 1].first : next.n_tiles;
  const int64_t row_tile_bytes = static_cast<int64_t>(next.n_superblocks) * s.tile_bytes;
  const bool pairs = s.w_up != nullptr;
  const int64_t at =
      (tile - s.first) * row_tile_bytes + kAskedFrom + (pairs ? warp >> 1 : warp) * kAskedBytes + lane * 128;
  if (at < (end - s.first) * row_tile_bytes) {
    prefetch_l2((pairs && (warp & 1) != 0 ? s.w_up : s.w) + at);
  }
}

// 1 / sqrt(mean(x²) + eps) of each token, by the warp whose turn the token is; kTogether tokens' loads are
// under way together.
template <int kTogether>
__device__ __forceinline__ void rms_factors(const MatmulParams& p, float* factors, int warp, int lane) {
  const float* parts = p.scale.sum_of_squares;
#pragma unroll 1
  for (int first = warp; first < p.n_tokens; first += kTogether * kMatmulWarps) {
    float factor = 1.0f;
    if (parts != nullptr) {
      float sum[kTogether] = {};
#pragma unroll 4
      for (int i = lane; i < p.scale.n_partials; i += 32) {
#pragma unroll
        for (int u = 0; u < kTogether; ++u) {
          const int token = min(first + u * kMatmulWarps, p.n_tokens - 1);
          sum[u] += __ldcg(parts + static_cast<int64_t>(token) * p.scale.n_partials + i);
        }
      }
      float mine = 0;  // lane u keeps the sum of token u
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
#pragma unroll
        for (int o = 16; o > 0; o /= 2) {
          sum[u] += __shfl_xor_sync(~0U, sum[u], o);
        }
        mine = lane == u ? sum[u] : mine;
      }
      factor = 1.0f / sqrtf(mine / static_cast<float>(p.scale.n) + p.scale.eps);
    }
    const int token = first + lane * kMatmulWarps;
    if (lane < kTogether && token < p.n_tokens) {
      factors[token] = factor / kActivationScale;
    }
  }
}

__device__ __forceinline__ float silu(float x) {
  return __fdividef(x, 1.0f + __expf(-x));
}

template <bool kGlobal>
__device__ __forceinline__ float4 load_sums(const float* at) {
  const auto* from = reinterpret_cast<const float4*>(at);
  return kGlobal ? __ldcg(from) : *from;  // what other blocks wrote is not in this SM's L1
}
template <bool kGlobal, int kCount>
__device__ __forceinline__ float4 sum_pairwise(const float* partial, int class_stride) {
  float4 v[kCount];
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    v[c] = load_sums<kGlobal>(partial + c * class_stride);
  }
#pragma unroll
  for (int o = 1; o < kCount; o *= 2) {
#pragma unroll
    for (int c = 0; c < kCount; c += 2 * o) {
      v[c].x += v[c + o].x;
      v[c].y += v[c + o].y;
      v[c].z += v[c + o].z;
      v[c].w += v[c + o].w;
    }
  }
  return v[0];
}
template <bool kGlobal>
__device__ __forceinline__ float4 sum_classes(const float* partial, int class_stride, int classes) {
  return classes == 8   ? sum_pairwise<kGlobal, 8>(partial, class_stride)
         : classes == 4 ? sum_pairwise<kGlobal, 4>(partial, class_stride)
                        : load_sums<kGlobal>(partial);
}

__device__ __forceinline__ void store_rows4(float* to, int n, float4 v) {
  if (n >= 4 && (reinterpret_cast<uintptr_t>(to) & 15U) == 0) {
    *reinterpret_cast<float4*>(to) = v;
    return;
  }
  to[0] = v.x;
  if (n > 1) {
    to[1] = v.y;
  }
  if (n > 2) {
    to[2] = v.z;
  }
  if (n > 3) {
    to[3] = v.w;
  }
}
__device__ __forceinline__ float4 load_rows4(const float* from, int n) {  // past L1, as load_sums
  if (n >= 4 && (reinterpret_cast<uintptr_t>(from) & 15U) == 0) {
    return __ldcg(reinterpret_cast<const float4*>(from));
  }
  return {__ldcg(from), n > 1 ? __ldcg(from + 1) : 0.0f, n > 2 ? __ldcg(from + 2) : 0.0f,
          n > 3 ? __ldcg(from + 3) : 0.0f};
}

// What four rows of a token are joined with: the residual that they are added to, the next norm's weights.
// Asked for before the sums are there, since both come from far.
struct RowInputs {
  float4 residual;
  float4 norm;
};
__device__ __forceinline__ RowInputs row_inputs(const MatmulParams& p, const MatmulSegment& segment,
                                                int row_tile, int token) {
  const int row = row_tile * kTileRows + static_cast<int>(threadIdx.x & 3U) * 4;
  const int n = segment.rows - row;
  RowInputs in{};
  if ((p.epilogue == Epilogue::add || p.epilogue == Epilogue::add_and_norm) && token < p.n_tokens && n > 0) {
    in.residual = load_rows4(segment.y + token * segment.stride + row, n);
    if (p.epilogue == Epilogue::add_and_norm) {
      in.norm = load_rows4(p.norm_weight + row, 4);
    }
  }
  return in;
}

// Four rows of one token to their output: v their sums, up those of the same rows of up (swiglu). Four
// neighbouring lanes hold the 16 rows of a tile; row_tile: in the segment.
__device__ __forceinline__ void finish_token(const MatmulParams& p, float4 v, float4 up, const RowInputs& in,
                                             float factor, const MatmulSegment& segment, int row_tile,
                                             int token) {
  const int quad = threadIdx.x & 3;
  const int row = row_tile * kTileRows + quad * 4;
  const int n = segment.rows - row;
  v = {v.x * factor, v.y * factor, v.z * factor, v.w * factor};
  if (p.epilogue == Epilogue::swiglu) {
    v = {silu(v.x) * (up.x * factor), silu(v.y) * (up.y * factor), silu(v.z) * (up.z * factor),
         silu(v.w) * (up.w * factor)};
    const ActivationWriter out{p.out, p.out_tokens, p.out_padded_cols, p.out_records != 0};
    store_activations4(out, p.out_first_token + token, row, v);
    return;
  }
  float* y = segment.y + token * segment.stride + row;
  if (p.epilogue == Epilogue::store) {
    if (n > 0) {
      store_rows4(y, n, v);
    }
    return;
  }
  v = {v.x + in.residual.x, v.y + in.residual.y, v.z + in.residual.z, v.w + in.residual.w};
  if (n > 0) {
    store_rows4(y, n, v);
  }
  if (p.epilogue ==
      Epilogue::add_and_norm) {  // rows are a multiple of 16: whole groups of four lanes are here
    float squares = (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    const unsigned group = 0xFU << (threadIdx.x & 28U);
    squares += __shfl_xor_sync(group, squares, 1);
    squares += __shfl_xor_sync(group, squares, 2);
    if (quad == 0) {
      p.sum_of_squares[static_cast<int64_t>(token) * (segment.rows / kTileRows) + row_tile] = squares;
    }
    const ActivationWriter out{p.out, p.out_tokens, p.out_padded_cols, p.out_records != 0};
    store_activations4(out, p.out_first_token + token, row,
                       {v.x * in.norm.x, v.y * in.norm.y, v.z * in.norm.z, v.w * in.norm.w});
  }
}

// The sums of one tile (of gate, with those of up one tile further, for swiglu) to their outputs, by one
// warp: four neighbouring lanes take the 16 rows of a token. partial: [class][tile][token][16], at the tile;
// row_tile: in the segment; in: of this lane's token and rows.
__device__ __forceinline__ void finish_tile(const MatmulParams& p, const float* partial, int class_stride,
                                            int classes, const float* factors, const MatmulSegment& segment,
                                            int row_tile, const RowInputs& in) {
  const int token = static_cast<int>(threadIdx.x & 31U) >> 2;
  if (token >= p.n_tokens) {
    return;
  }
  const float* from = partial + token * kTileRows + (threadIdx.x & 3U) * 4;
  const float4 v = sum_classes<false>(from, class_stride, classes);
  float4 up{0, 0, 0, 0};
  if (p.epilogue == Epilogue::swiglu) {
    up = sum_classes<false>(from + p.n_tokens * kTileRows, class_stride, classes);
  }
  finish_token(p, v, up, in, factors[token], segment, row_tile, token);
}

template <int NT, int MT, typename Acts>
__device__ __forceinline__ void unit(Accumulators<NT, MT>& acc, int type, const uint8_t* const (&w)[MT],
                                     const Acts& acts, int lane) {
  OwnSums<NT, MT> to{acc};
  switch (static_cast<PackedType>(type)) {
    case PackedType::q4_k:
      unit_k45<NT, MT, false>(to, w, acts, lane);
      break;
    case PackedType::q5_k:
      unit_k45<NT, MT, true>(to, w, acts, lane);
      break;
    case PackedType::q6_k:
      unit_q6<NT, MT>(to, w, acts, lane);
      break;
    case PackedType::q8_0:
      unit_q8<NT, MT>(acc, w, acts, lane);
      break;
    case PackedType::f16:
      unit_f16<NT, MT>(acc, w, acts, lane);
      break;
  }
}

// The same for another warp, which has the sums.
template <int kType, bool kFew, typename Acts>
__device__ __forceinline__ void lend_unit(LentSums<kFew>& to, const uint8_t* const (&w)[1], const Acts& acts,
                                          int lane) {
  if constexpr (kType == static_cast<int>(PackedType::q6_k)) {
    unit_q6<1, 1>(to, w, acts, lane);
  } else {
    unit_k45<1, 1, false>(to, w, acts, lane);
  }
}

/// NT: tiles of 8 tokens. kResident: all activations lie in shared memory (NT == 1). kType: the one
/// PackedType of the launch, whose kernel is a fifth of the code, or kAnyType. kFew: at most four tokens,
/// which lie in the even columns of the matrix instructions (NT == 1): half of what is added to sums is then
/// nobody's, and the compiler leaves it out. kGroups: of a block, each with its own share. kTokens: their
/// number, where it has kernels of its own, whose addresses need no multiplications; otherwise 0.
inline constexpr int kAnyType = -1;
template <int NT, bool kResident, int kType, bool kFew, int kGroups, int kTokens>
__device__ __forceinline__ void matmul_share(const MatmulParams& p) {
  extern __shared__ __align__(128) uint8_t block_shared[];
  let_next_start();
  constexpr bool kLends = kGroups > 1 && !kResident && kType != kAnyType;
  const int n_tokens = kTokens > 0 ? kTokens : p.n_tokens;
  const int group = kGroups == 1 ? 0 : __shfl_sync(~0U, static_cast<int>(threadIdx.x) / kMatmulThreads, 0);
  const int share = static_cast<int>(blockIdx.x) + group * static_cast<int>(gridDim.x);
  const int first = first_tile_of(p, share);
  const int end = kGroups == 1 ? first_tile_of(p, share + 1) : min(first_tile_of(p, share + 1), p.n_tiles);
  if (kGroups == 1 && first >= end) {
    return;  // fewer tiles than blocks; nothing may be under way to a block that has ended
  }
  // From a shuffle the compiler knows that all lanes have it: what follows from it is worked out once a warp.
  const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0) % kMatmulWarps;
  const int lane = threadIdx.x % 32;
  constexpr int kTileBytes = kType == kAnyType ? 0 : tile_bytes(static_cast<PackedType>(kType));
  const int slot_bytes = kType == kAnyType ? p.slot_bytes : slot_bytes_of(kTileBytes, kDeviceArch);
  const SharedPlan plan = shared_plan(n_tokens, p.n_superblocks, kResident && kGroups == 1, p.partial_slots,
                                      p.ring_slots, slot_bytes);
  uint8_t* const shared = block_shared + group * plan.total;
  // of a class's activations: all groups wait for them, the first one fetches them
  uint64_t* class_barriers = reinterpret_cast<uint64_t*>(block_shared);
  uint64_t* step_barriers = reinterpret_cast<uint64_t*>(shared) + kMatmulWarps;
  uint64_t* lent_barriers = reinterpret_cast<uint64_t*>(block_shared) + kMatmulWarps + kMaxPartialSlots;
  uint8_t* const resident = block_shared + (kGroups == 1 ? plan.activations : kGroups * plan.total);
  float* factors = reinterpret_cast<float*>(shared + plan.factors);
  float* partials = reinterpret_cast<float*>(shared + plan.partials);

  const int bits = class_bits(p.n_superblocks);
  TileRing ring(shared + plan.rings + warp * p.ring_slots * slot_bytes, p.ring_slots, slot_bytes, lane);
  if (lane == 0) {
    if (group == 0) {
      barrier_init(class_barriers + warp, (kMatmulWarps >> bits) * kFetchArrivals);
      if (kLends) {
        barrier_init(lent_barriers + warp, 32);
      }
    }
    if (warp < p.partial_slots) {
      barrier_init(step_barriers + warp, kMatmulThreads);
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }
  __syncwarp();
  StepStart at(p, first);
  const Lending lending = kLends ? lending_of(p, group) : Lending::none;
  RunFeeder<kTileBytes, kLends> feeder(p, at, end, bits, warp, lending);
  feeder.fill(p, end, bits, warp, lending, ring);
  if (p.epilogue == Epilogue::add_and_norm) {  // weights, so they may be asked for before the wait
    for (int tile = first + warp * 32 + lane; tile < end; tile += kMatmulThreads) {
      prefetch_l2(p.norm_weight + static_cast<int64_t>(tile) * kTileRows);
    }
  }
  __syncthreads();
  wait_for_previous();
  constexpr bool kL1 = !kResident && kGroups > 1;  // the other group may have read the same just before
  if constexpr (kL1) {
    if (threadIdx.x < 32) {
      __threadfence();  // L1 may hold what an earlier kernel read there; one warp's fence empties it
    }
    __syncthreads();
  }
  if (kGroups > 1 && first >= end && lending != Lending::helps) {
    return;  // a second group without tiles
  }

  const int record = n_tokens * kRecordBytes;
  const int classes = n_classes(p.n_superblocks);
  if (kResident && group == 0) {
    // each warp fetches an eighth (two warps a class when there are four), waited for where a class is used
    uint64_t* const barrier = class_barriers + (warp >> (kMaxClassBits - bits));
    const int from = p.n_superblocks * warp / kMatmulWarps;
    const int bytes = (p.n_superblocks * (warp + 1) / kMatmulWarps - from) * record;
    uint8_t* to = resident + from * record;
    const uint8_t* source = p.activations + static_cast<int64_t>(from) * record;
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      barrier_expect(barrier, static_cast<uint32_t>(bytes));
      if (bytes > 0) {
        bulk_copy(to, source, static_cast<uint32_t>(bytes), barrier);
      }
    }
#else
    for (int byte = lane * 16; byte < bytes; byte += 32 * 16) {
      *reinterpret_cast<uint4*>(to + byte) = __ldcg(reinterpret_cast<const uint4*>(source + byte));
    }
    barrier_arrive(barrier);  // every lane for what it has stored
#endif
  }

  using Acts = std::conditional_t<kResident, SharedActivations<NT>, GlobalActivations<NT, kL1>>;
  Acts acts;
  acts.step = n_tokens * 64;
  if constexpr (kResident) {
    acts.lane_offset = min(lane >> (kFew ? 3 : 2), n_tokens - 1) * 64 + (lane & 3) * 16;
  } else {
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      acts.lane_offset[nt] = min(nt * 8 + (lane >> (kFew ? 3 : 2)), n_tokens - 1) * 64 + (lane & 3) * 16;
    }
  }
  const uint8_t* activations = kResident ? resident : p.activations;

  const int tile_stride = n_tokens * kTileRows;
  const int slot_stride = classes * 2 * tile_stride;
  const int slot_mask = p.partial_slots - 1;  // a power of two
  const auto step_barrier = [&](int step) { return step_barriers + (step & slot_mask); };
  const auto wait_step = [&](int step) {
    barrier_wait(step_barrier(step), static_cast<uint32_t>(step & (slot_mask + 1)) != 0 ? 1U : 0U);
  };
  // one warp finishes a step, the others go on
  const auto finish = [&](const StepStart& of, int step) {
    if ((step & (kMatmulWarps - 1)) != warp) {
      return;
    }
    const int count = p.epilogue == Epilogue::swiglu ? 1 : of.count(p, end);
    const MatmulSegment& segment = p.segments[of.segment];
    const int row_tile = of.tile_in_segment(p);
    const float* sums = partials + (step & slot_mask) * slot_stride;
    wait_step(step);
    for (int tile = 0; tile < count; ++tile) {
      finish_tile(p, sums + tile * tile_stride, 2 * tile_stride, classes, factors, segment, row_tile + tile,
                  row_inputs(p, segment, row_tile + tile, lane >> 2));
    }
  };

  // where the sums of superblock i of a class's lent part lie
  const auto lent_place = [&](int c, int i) {
    return reinterpret_cast<float4*>(block_shared + kGroups * plan.total) +
           (c * lent_part(most_in_class(p.n_superblocks)) + i) * LentSums<kFew>::kPieces * 32;
  };

  StepStart before = at;
  int step = 0;
#pragma unroll 1
  for (; at.tile < end; ++step) {
    const WarpShare share(bits, warp, step, at.count(p, end));
    const int type = kType == kAnyType ? p.segments[at.segment].type : kType;
    const int c = share.class_index;
    const int first_k = class_start(p, bits, c);
    const int end_k = class_start(p, bits, c + 1);
    if constexpr (kResident) {
      barrier_wait(class_barriers + c, 0);
    }
    bool opened = false;  // the step's slot is ours to write
    for (int tile = share.first_tile; tile < share.end_tile || !opened; ++tile) {
      Accumulators<NT, 1> acc;
      clear<NT, 1>(acc);
      const bool present = tile < share.end_tile;
      if (present) {
        acts.superblock = activations + static_cast<int64_t>(first_k) * record;
        int n_lent = 0;
        if (kLends && lending == Lending::lends && at.tile + tile == end - 1) {
          n_lent = lent_part(end_k - first_k);
        }
        for (int k = first_k; k < end_k - n_lent; ++k) {
          const uint8_t* const tiles[1] = {ring.current()};
          unit<NT, 1>(acc, type, tiles, acts, lane);
          ring.done();
          feeder.refill(p, end, bits, warp, lending, ring);
          ring.next();
          acts.superblock += record;
        }
        if constexpr (kLends) {
          if (n_lent > 0) {
            barrier_wait(lent_barriers + c, 0);
            for (int i = 0; i < n_lent; ++i) {
              LentSums<kFew>(lent_place(c, i), lane).join(acc);
            }
          }
        }
      }
      if (!opened) {
        opened = true;
        if (step == 0) {
          rms_factors<1>(p, factors, warp, lane);
        } else {
          finish(before, step - 1);
        }
        if (step > slot_mask) {
          wait_step(step - slot_mask);  // whoever read this slot's last step has gone on since
        }
      }
      if (present) {
        float* mine =
            partials + (step & slot_mask) * slot_stride + (c * 2 + tile) * tile_stride + (lane >> 2);
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
          for (int i = 0; i < 4; i += kFew ? 2 : 1) {
            const int token = kFew ? lane & 3 : nt * 8 + 2 * (lane & 3) + (i & 1);
            if (token < n_tokens) {
              mine[token * kTileRows + 8 * (i >> 1)] = acc[0][nt][i];
            }
          }
        }
      }
    }
    barrier_arrive(step_barrier(step));  // every lane for its own sums
    before = at;
    at.next(p, end);
  }
  if constexpr (kLends) {
    if (lending == Lending::helps) {
      const int end_k = class_start(p, bits, warp + 1);
      const int n_lent = lent_part(end_k - class_start(p, bits, warp));
      acts.superblock = activations + static_cast<int64_t>(end_k - n_lent) * record;
      for (int i = 0; i < n_lent; ++i) {
        const uint8_t* const tiles[1] = {ring.current()};
        LentSums<kFew> to(lent_place(warp, i), lane);
        lend_unit<kType, kFew>(to, tiles, acts, lane);
        ring.done();
        feeder.refill(p, end, bits, warp, lending, ring);
        ring.next();
        acts.superblock += record;
      }
      barrier_arrive(lent_barriers + warp);
    }
  }
  ask_for_next(p.next, share, warp, lane);
  if (!kLends || step > 0) {
    finish(before, step - 1);
  }
}

template <int NT, bool kResident, int kType, bool kFew, int kGroups, int kTokens = 0>
__global__ void __launch_bounds__(kGroups* kMatmulThreads, 2 / kGroups)
    matmul_kernel(const __grid_constant__ MatmulParams p) {
#ifdef __CUDA_ARCH__
  constexpr bool kEverywhere = kGroups == 1 && kTokens == 0;
  if constexpr (kEverywhere || has_more_instances(kDeviceArch)) {
    matmul_share<NT, kResident, kType, kFew, kGroups, kTokens>(p);
  } else {
    __trap();  // the host does not choose it
  }
#endif
}

}  // namespace fl::cuda
