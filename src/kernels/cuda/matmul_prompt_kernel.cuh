// The kernel of matmul_prompt.h. A block has one warpgroup that brings weights and activations into two rings
// of stages, and two that multiply 64 rows each with the same activations. A multiplying warp decodes its
// tile's next 64 columns while the tensor cores work on the last: two sets of operand registers.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_prompt.h"
#include "kernels/cuda/matmul_prompt_decode.cuh"
#include "kernels/cuda/matmul_rows_store.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/stage_ring.cuh"
#include "kernels/cuda/wgmma_products.cuh"

namespace fl::cuda::prompt {

constexpr int kThreads = 384;
constexpr int kConsumerWarps = 8;
constexpr int kProducerRegisters = 24;
constexpr int kConsumerRegisters = 240;

__device__ __forceinline__ PromptSchedule schedule_of(const PromptParams& p) {
  return {p.split, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x)};
}

/// Where a tile lies.
struct Place {
  int segment;
  int group;  ///< of the segment
  int token_block;
};
__device__ __forceinline__ Place place_of(const PromptParams& p, int tile) {
  Place place;
  const int band = min(kPromptBand, p.n_token_blocks);
  const int blocks_before = tile / (p.n_groups * band) * band;
  const int in_band = tile - p.n_groups * blocks_before;
  const int blocks = min(band, p.n_token_blocks - blocks_before);
  const int group = in_band / blocks;
  place.token_block = blocks_before + in_band - group * blocks;
  place.segment = 0;
  while (place.segment + 1 < p.n_segments && group >= p.segments[place.segment + 1].first) {
    ++place.segment;
  }
  place.group = group - p.segments[place.segment].first;
  return place;
}

template <int N, bool kPair>
__device__ __forceinline__ void bring_weights(const PromptParams& p, StageRing ring, int lane) {
  PromptSchedule schedule = schedule_of(p);
  const uint64_t once = evict_first_policy();
  PromptWork work;
  while (schedule.next(work)) {
    const Place place = place_of(p, work.tile);
    const PromptSegment& s = p.segments[place.segment];
    const int n_tiles = padded_rows(s.rows) / kTileRows;
    constexpr int kTiles = kPair ? kPromptGroupTiles / 2 : kPromptGroupTiles;
    const int here = min(kTiles, n_tiles - place.group * kTiles);
    const bool mine = lane < kPromptGroupTiles && (kPair ? lane % kTiles : lane) < here;
    const uint8_t* from =
        (kPair && lane >= kTiles ? s.w_up : s.w) +
        (static_cast<int64_t>(place.group * kTiles + (kPair ? lane % kTiles : lane)) * p.split.n_superblocks +
         work.k0) *
            s.tile_bytes;
    for (int k = work.k0; k < work.k1; ++k) {
      barrier_wait(ring.empty + ring.stage, ring.parity ^ 1U);
      if (lane == 0) {
        barrier_expect(ring.full + ring.stage, static_cast<uint32_t>(here * s.tile_bytes * (kPair ? 2 : 1)));
      }
      __syncwarp();
      if (mine) {
        uint8_t* to = ring.data() + lane * p.slot_bytes;
        if (p.n_token_blocks == 1) {
          bulk_copy_streamed(to, from, static_cast<uint32_t>(s.tile_bytes), ring.full + ring.stage, once);
        } else {
          bulk_copy(to, from, static_cast<uint32_t>(s.tile_bytes), ring.full + ring.stage);
        }
      }
      from += s.tile_bytes;
      ring.advance();
    }
  }
}

template <int N>
__device__ __forceinline__ void bring_tokens(const PromptParams& p, const CUtensorMap& x, StageRing ring) {
  PromptSchedule schedule = schedule_of(p);
  PromptWork work;
  while (schedule.next(work)) {
    const int token = place_of(p, work.tile).token_block * N;
    for (int k = work.k0 * kStepsPerSuperblock; k < work.k1 * kStepsPerSuperblock; ++k) {
      barrier_wait(ring.empty + ring.stage, ring.parity ^ 1U);
      barrier_expect(ring.full + ring.stage, static_cast<uint32_t>(ring.stage_bytes));
      tensor_copy(ring.data(), x, k * kSwizzledColumns, token, ring.full + ring.stage);
      ring.advance();
    }
  }
}

/// A consumer warp's view of both rings.
struct Rings {
  StageRing weights;
  StageRing tokens;
};

// 64 columns: a stage of activations. `follows`: another stage was multiplied before, and is free when it is
// finished.
template <int N, int kStep, typename Decoder, typename Source>
__device__ __forceinline__ void step(float (&d)[N / 2], Decoder& decoder, const Source& source,
                                     Fragment& lower, Fragment& upper, Rings& rings, bool follows) {
  barrier_wait(rings.tokens.full + rings.tokens.stage, rings.tokens.parity);
  const uint64_t b = swizzled_operand(rings.tokens.data());
  half_step<N, kStep, 0>(d, decoder, source, lower, upper, b);
  if (source.lane == 0 && follows) {
    barrier_arrive(rings.tokens.empty + rings.tokens.before());
  }
  half_step<N, kStep, 1>(d, decoder, source, upper, lower, b);
  rings.tokens.advance();
}

// d += the superblocks of a part of a tile. `tiles`: offsets of the warp's one or two tiles in a stage of
// weights.
template <int N, PackedType kType, bool kPair>
__device__ __forceinline__ void chain(float (&d)[N / 2], int n, const int (&tiles)[2], int half, int lane,
                                      Rings& rings) {
  Fragment lower = {};
  Fragment upper = {};
  FragmentDecoder<kType, kPair> decoder;
  for (int k = 0; k < n; ++k) {
    barrier_wait(rings.weights.full + rings.weights.stage, rings.weights.parity);
    const uint8_t* stage = rings.weights.data();
    const FragmentSource<kPair> source{{stage + tiles[0], stage + tiles[1]}, half, lane};
    decoder.begin(source);
    step<N, 0>(d, decoder, source, lower, upper, rings, k > 0);
    step<N, 1>(d, decoder, source, lower, upper, rings, true);
    step<N, 2>(d, decoder, source, lower, upper, rings, true);
    step<N, 3>(d, decoder, source, lower, upper, rings, true);
    barrier_arrive(rings.weights.empty + rings.weights.stage);  // all lanes, each of which has read
    rings.weights.advance();
  }
  wgmma_wait<0>(upper);
  if (lane == 0) {
    barrier_arrive(rings.tokens.empty + rings.tokens.before());
  }
}

/// Where a warpgroup's thread keeps its sums of a tile in memory: [place][warpgroup][N / 8][thread] float4.
template <int N>
__device__ __forceinline__ float4* sums_at(float* all, int place, int warpgroup, int thread) {
  return reinterpret_cast<float4*>(all) + static_cast<int64_t>(place * 2 + warpgroup) * (N / 8) * kWarpgroup +
         thread;
}
template <int N>
__device__ __forceinline__ void keep_sums(float4* to, const float (&d)[N / 2]) {
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    __stcg(to + i * kWarpgroup, make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
  }
}

/// All threads of a warpgroup: what they wrote is there for who sees the flag.
__device__ __forceinline__ void raise(int32_t* flag, int value, int warpgroup, int thread) {
  __threadfence();
  group_barrier(1 + warpgroup, kWarpgroup);
  if (thread == 0) {
    atomicExch(flag, value);
  }
}
__device__ __forceinline__ void await(int32_t* flag, int value, int warpgroup, int thread) {
  if (thread == 0) {
    while (*static_cast<volatile int32_t*>(flag) != value) {
    }
    __threadfence();
  }
  group_barrier(1 + warpgroup, kWarpgroup);
}

template <int N>
__device__ __forceinline__ void leave_head(const PromptParams& p, const float (&d)[N / 2], int warpgroup,
                                           int thread) {
  const int block = static_cast<int>(blockIdx.x);
  keep_sums<N>(sums_at<N>(p.heads, block, warpgroup, thread), d);
  raise(p.heads_there + block * 2 + warpgroup, 1, warpgroup, thread);
}

// d += the chains of the tile before this one, whichever block had them. False: there are more, for which the
// sum is kept.
template <int N>
__device__ __forceinline__ bool join_chains(const PromptParams& p, const PromptWork& work, float (&d)[N / 2],
                                            int warpgroup, int thread) {
  const bool last = work.chain + 1 == p.split.n_chains;
  const int place = work.shared ? work.tile : p.split.n_shared + static_cast<int>(blockIdx.x);
  int32_t* const flag = p.chains_added + work.tile * 2 + warpgroup;
  float4* const sums = sums_at<N>(p.totals, place, warpgroup, thread);
  if (work.chain > 0) {
    if (work.shared) {
      await(flag, work.chain, warpgroup, thread);
      if (last && thread == 0) {
        *flag = 0;
      }
    }
    constexpr int kAtOnce = N / 8 % 8 == 0 ? 8 : 4;  // as many as registers hold: each wait is a long one
#pragma unroll
    for (int first = 0; first < N / 8; first += kAtOnce) {
      float4 v[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        v[i] = __ldcg(sums + (first + i) * kWarpgroup);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        d[4 * (first + i)] += v[i].x;
        d[4 * (first + i) + 1] += v[i].y;
        d[4 * (first + i) + 2] += v[i].z;
        d[4 * (first + i) + 3] += v[i].w;
      }
    }
  }
  if (!last) {
    keep_sums<N>(sums, d);
    if (work.shared) {
      raise(flag, work.chain + 1, warpgroup, thread);
    }
  }
  return last;
}

// Four sums, or zeros: one instruction stream for both, since sums that come from two branches make the
// assembler serialise every wgmma (message C7515).
__device__ __forceinline__ float4 load_or_zero(const float4* from, bool load) {
  float4 v;
  asm volatile(
      "{ .reg .pred there; setp.ne.b32 there, %5, 0; mov.f32 %0, 0f00000000; mov.f32 %1, 0f00000000; "
      "mov.f32 %2, 0f00000000; mov.f32 %3, 0f00000000; @there ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4]; }"
      : "=&f"(v.x), "=&f"(v.y), "=&f"(v.z), "=&f"(v.w)
      : "l"(from), "r"(load ? 1 : 0)
      : "memory");
  return v;
}

// d = what the block before left, or zeros.
template <int N>
__device__ __forceinline__ void begin_sums(const PromptParams& p, float (&d)[N / 2], bool resumes,
                                           int warpgroup, int thread) {
  const int block = static_cast<int>(blockIdx.x) - 1;
  if (resumes) {
    int32_t* const flag = p.heads_there + block * 2 + warpgroup;
    await(flag, 1, warpgroup, thread);
    if (thread == 0) {
      *flag = 0;
    }
  }
  const float4* from = sums_at<N>(p.heads, block, warpgroup, thread);
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const float4 v = load_or_zero(from + i * kWarpgroup, resumes);
    d[4 * i] = v.x;
    d[4 * i + 1] = v.y;
    d[4 * i + 2] = v.z;
    d[4 * i + 3] = v.w;
  }
  hold_sums(d);
}

// y = the tile. Lanes of one t hold eight rows in a row: a store fills whole sectors.
template <int N>
__device__ __forceinline__ void store_floats(const PromptSegment& s, const float (&d)[N / 2], int row,
                                             int token, int n_tokens) {
  const bool upper = row < s.rows;
  const bool lower = row + 8 < s.rows;
  float* y = s.y + token * s.stride + row;
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (token + 8 * i + e < n_tokens) {
        float* at = y + e * s.stride;
        if (upper) {
          *at = d[4 * i + e] * kUnscaleActivations;
        }
        if (lower) {
          at[8] = d[4 * i + 2 + e] * kUnscaleActivations;
        }
      }
    }
    y += 8 * s.stride;
  }
}

// y += the tile. Nobody else writes it meanwhile; many are loaded before one is stored. (Atomic additions
// keep nobody waiting, but L2 does few of them at a time: decision 0082.)
template <int N>
__device__ __forceinline__ void add_floats(const PromptSegment& s, const float (&d)[N / 2], int row,
                                           int token, int n_tokens) {
  constexpr int kEighths = N / 8 % 8 == 0 ? 8 : 4;  // so many times 8 tokens are loaded at a time
  static_assert(N / 8 % kEighths == 0);
  const bool upper = row < s.rows;
  const bool lower = row + 8 < s.rows;
  float* y = s.y + token * s.stride + row;
#pragma unroll
  for (int first = 0; first < N / 8; first += kEighths) {
    float old[4 * kEighths];
#pragma unroll
    for (int j = 0; j < kEighths; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const bool there = token + 8 * (first + j) + e < n_tokens;
        const float* at = y + (8 * j + e) * s.stride;
        old[4 * j + e] = there && upper ? __ldcg(at) : 0;
        old[4 * j + 2 + e] = there && lower ? __ldcg(at + 8) : 0;
      }
    }
#pragma unroll
    for (int j = 0; j < kEighths; ++j) {
      const int i = first + j;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (token + 8 * i + e < n_tokens) {
          float* at = y + (8 * j + e) * s.stride;
          if (upper) {
            *at = old[4 * j + e] + d[4 * i + e] * kUnscaleActivations;
          }
          if (lower) {
            at[8] = old[4 * j + 2 + e] + d[4 * i + 2 + e] * kUnscaleActivations;
          }
        }
      }
    }
    y += 8 * kEighths * s.stride;
  }
}

// `row`: the lane's row of slot 0 (its column in the result); the tile exists.
template <int N, bool kPair, bool kKept>
__device__ __forceinline__ void write_halves(const PromptParams& p, const float (&d)[N / 2], int row,
                                             int token, int n_tokens) {
  const bool odd_row = (row & 1) != 0;
  const int mine = token + (odd_row ? 1 : 0);
  std::byte* to = p.out + static_cast<int64_t>(mine) * p.out_padded_cols * 2;
  const int at0 = row_position(row & ~1) * 2;
  const int at1 = row_position((row & ~1) + 8) * 2;
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const bool there = mine + 8 * i < n_tokens;
    if constexpr (kPair) {
      write_pair<false>(to + at0, there, odd_row,
                        swiglu_of(d[4 * i] * kUnscaleActivations, d[4 * i + 2] * kUnscaleActivations),
                        swiglu_of(d[4 * i + 1] * kUnscaleActivations, d[4 * i + 3] * kUnscaleActivations));
    } else {
      write_pair<kKept>(to + at0, there, odd_row, d[4 * i] * kUnscaleActivations,
                        d[4 * i + 1] * kUnscaleActivations);
      write_pair<kKept>(to + at1, there, odd_row, d[4 * i + 2] * kUnscaleActivations,
                        d[4 * i + 3] * kUnscaleActivations);
    }
    to += static_cast<int64_t>(p.out_padded_cols) * 16;
  }
}

template <int N, bool kPair>
__device__ __forceinline__ void multiply(const PromptParams& p, Rings rings, int warpgroup, int thread) {
  const int lane = thread % 32;
  const int warp = thread / 32;
  // kPair: two warps share a tile of gate and one of up, eight rows of each.
  const int half = kPair ? warp & 1 : 0;
  const int slot = kPair ? warpgroup * 2 + (warp >> 1) : warpgroup * 4 + warp;
  constexpr int kTiles = kPair ? kPromptGroupTiles / 2 : kPromptGroupTiles;
  const int tiles[2] = {slot * p.slot_bytes, (kPair ? slot + kTiles : slot) * p.slot_bytes};
  PromptSchedule schedule = schedule_of(p);
  PromptWork work;
  wait_for_previous();
  while (schedule.next(work)) {
    const Place place = place_of(p, work.tile);
    const PromptSegment& s = p.segments[place.segment];
    float d[N / 2];
    begin_sums<N>(p, d, work.resumes, warpgroup, thread);
    const int n = work.k1 - work.k0;
    switch (static_cast<PackedType>(s.type)) {
      case PackedType::q4_k:
        chain<N, PackedType::q4_k, kPair>(d, n, tiles, half, lane, rings);
        break;
      case PackedType::q5_k:
        chain<N, PackedType::q5_k, kPair>(d, n, tiles, half, lane, rings);
        break;
      case PackedType::q6_k:
        chain<N, PackedType::q6_k, kPair>(d, n, tiles, half, lane, rings);
        break;
      case PackedType::q8_0:
        chain<N, PackedType::q8_0, kPair>(d, n, tiles, half, lane, rings);
        break;
      case PackedType::f16:
        chain<N, PackedType::f16, kPair>(d, n, tiles, half, lane, rings);
        break;
    }
    hold_sums(d);
    if (work.stops) {
      leave_head<N>(p, d, warpgroup, thread);
      continue;
    }
    if (p.split.n_chains > 1 && !join_chains<N>(p, work, d, warpgroup, thread)) {
      continue;
    }
    const int tile = place.group * kTiles + slot;
    const int row = tile * kTileRows + 8 * half + (lane >> 2);
    const int token = place.token_block * N + 2 * (lane & 3);
    const bool exists = tile * kTileRows < s.rows;
    if constexpr (kPair) {
      if (exists) {
        write_halves<N, true, false>(p, d, row, token, p.n_tokens);
      }
    } else if (exists) {
      switch (p.epilogue) {
        case PromptEpilogue::store:
          store_floats<N>(s, d, row, token, p.n_tokens);
          break;
        case PromptEpilogue::add:
          add_floats<N>(s, d, row, token, p.n_tokens);
          break;
        case PromptEpilogue::keep_gate:
          write_halves<N, false, false>(p, d, row, token, p.n_tokens);
          break;
        default:
          write_halves<N, false, true>(p, d, row, token, p.n_tokens);
          break;
      }
    }
  }
}

template <int N, bool kPair>
__global__ void __launch_bounds__(kThreads, 1)
    prompt_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ PromptParams p) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (-shared_address(unaligned) & 1023U);
  auto* const barriers = reinterpret_cast<uint64_t*>(shared);
  let_next_start();
  Rings rings{{barriers, barriers + kMaxStages, nullptr, p.weight_stages, kPromptGroupTiles * p.slot_bytes},
              {barriers + 2 * kMaxStages, barriers + 3 * kMaxStages, shared + kBarrierSpace, p.token_stages,
               N * kSwizzledColumns * 2}};
  rings.weights.stages = rings.tokens.stages + rings.tokens.n * rings.tokens.stage_bytes;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 4 * kMaxStages) {
    const int ring = thread / kMaxStages;  // full, empty of weights, then of tokens
    barrier_init(barriers + thread, ring == 1 ? kConsumerWarps * kWarp : ring == 3 ? kConsumerWarps : 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (thread < kWarpgroup) {
    give_registers<kProducerRegisters>();
    if (thread < 32) {
      bring_weights<N, kPair>(p, rings.weights, thread);
    } else if (thread == 32) {
      wait_for_previous();
      bring_tokens<N>(p, x, rings.tokens);
    }
  } else {
    take_registers<kConsumerRegisters>();
    multiply<N, kPair>(p, rings, thread / kWarpgroup - 1, thread % kWarpgroup);
  }
}

template <int N>
void launch_instance(cudaStream_t stream, bool overlap, int grid, int shared_bytes, const CUtensorMap& x,
                     const PromptParams& p) {
  const LaunchShape shape{dim3(static_cast<unsigned>(grid)), dim3(kThreads), shared_bytes};
  if (p.epilogue == PromptEpilogue::swiglu) {
    prepare_shared(prompt_kernel<N, true>, shared_bytes, "prompt product");
    launch(prompt_kernel<N, true>, shape, stream, overlap, "prompt product", x, p);
  } else {
    prepare_shared(prompt_kernel<N, false>, shared_bytes, "prompt product");
    launch(prompt_kernel<N, false>, shape, stream, overlap, "prompt product", x, p);
  }
}

}  // namespace fl::cuda::prompt
