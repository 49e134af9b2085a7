// One query token of each sequence, from its projections to its gated output. For heads of 256 with keys and
// values in f16 or q8_0: 384 threads take one KV head with all its query heads and a run of the sequence's KV
// blocks, so that keys and values are read once. They norm and rotate these queries, and those that have the
// sequence's last block the new key, which they store with the value. The products are S^T = K Q^T and
// O^T = V^T P^T on tensor cores: keys and values are the wide operand, and both lie in the cache as the
// fragments want them, so they go from memory to registers directly. The last run of a sequence to finish
// adds all of them up, in order, and applies the output gate.
#include <algorithm>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/attention_head.cuh"
#include "kernels/cuda/attention_stretch.cuh"

namespace fl::cuda {
namespace {

using namespace decode;  // NOLINT: the two headers are parts of this file

__device__ __forceinline__ void team_barrier(int team) {
  asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(kThreads) : "memory");
}

struct DecodeShared {
  __half q[kMaxGroup][kQueryRow];
  __half p[kTeams][kMaxGroup][kProbRow];
  float warp_largest[kTeams][kWarps][kMaxGroup];
  float warp_total[kTeams][kWarps][kMaxGroup];
  float team_largest[kTeams][kMaxGroup];
  union {
    float o[kTeams][kMaxGroup * kHeadDim];
    float rows[kTeams * kWarps][kHeadDim];  ///< heads while they are normed and rotated, one a warp
  };
  float weight[kMaxSplits][kMaxGroup];  ///< of runs in the joined output
  int last;
  Stretch stretch;
};

// The warp's head of the step's token, normed and rotated: queries to shared memory; the key and the value to
// the cache, by the block that has the token's place.
template <DType kTypeK, DType kTypeV>
__device__ __forceinline__ void prepare_heads(const Args& a, const Stretch& of, bool stores,
                                              int64_t block_head, DecodeShared& shared, int unit, int lane) {
  const int group = a.heads / a.kv_heads;
  const PrepareAttention& in = a.in;
  if (unit >= group + (stores ? 2 : 0)) {
    return;
  }
  const bool is_query = unit < group;
  const bool is_value = unit == group + 1;
  const int64_t token = of.token;
  const int64_t of_kv = token * in.kv_stride + int64_t{kHeadDim} * of.kv_head;
  const float* const from = is_query ? in.queries.q + token * in.queries.stride +
                                           (static_cast<int64_t>(of.kv_head) * group + unit) * 2 * kHeadDim
                            : is_value ? in.v + of_kv
                                       : in.k + of_kv;
  const float* const norm = is_value ? nullptr : is_query ? in.q_norm : in.k_norm;
  constexpr int kPerLane = kHeadDim / kWarp;
  float x[kPerLane];
  load_head(from, norm, in.cos_sin + token * 2 * in.pairs, in.pairs, in.eps, kHeadDim, shared.rows[unit],
            lane, x);
  const int at = (of.n_keys - 1) % kBlock;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = kWarp * i + lane;
    if (is_query) {
      shared.q[unit][d] = __float2half_rn(x[i] * (a.scale * kLog2E));
    } else if (is_value) {
      kv_store<false>(kTypeV, a.cache.v + block_head * kv_bytes(kTypeV, kHeadDim), kHeadDim, at, d, x[i],
                      true);
    } else {
      kv_store<true>(kTypeK, a.cache.k + block_head * kv_bytes(kTypeK, kHeadDim), kHeadDim, at, d, x[i],
                     true);
    }
  }
}

__device__ __forceinline__ void prefetch_l2(const std::byte* from, int64_t bytes, int thread) {
  constexpr int kLine = 128;
  for (int64_t at = int64_t{kLine} * thread; at < bytes; at += int64_t{kLine} * kThreads) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + at));
  }
}

// The way to L2 of the first blocks that this thread's team takes. It may begin before the projections are
// there; to registers they come when the last one has this step's token.
template <DType kTypeK, DType kTypeV>
__device__ __forceinline__ void start_stretch(const Args& a, const Stretch& of, int thread) {
  const int64_t bytes_k = kv_bytes(kTypeK, kHeadDim);
  const int64_t bytes_v = kv_bytes(kTypeV, kHeadDim);
  const int block = of.begin_block() + thread / kThreads;
  if (block < of.end_block()) {
    const int64_t block_head = of.block_head(a, block);
    prefetch_l2(a.cache.k + block_head * bytes_k, bytes_k, thread % kThreads);
    prefetch_l2(a.cache.v + block_head * bytes_v, bytes_v, thread % kThreads);
  }
}

__device__ __forceinline__ void store_gated(const Args& a, const Stretch& of, int e, const float4& y) {
  const int group = a.heads / a.kv_heads;
  const int64_t head = static_cast<int64_t>(of.kv_head) * group + e / kHeadDim;
  const float* const gate =
      a.in.queries.q + of.token * a.in.queries.stride + (2 * head + 1) * kHeadDim + e % kHeadDim;
  store_activations4(a.out, of.token, of.kv_head * group * kHeadDim + e,
                     make_float4(y.x * sigmoid(gate[0]), y.y * sigmoid(gate[1]), y.z * sigmoid(gate[2]),
                                 y.w * sigmoid(gate[3])));
}

template <DType kTypeK, DType kTypeV>
__device__ __forceinline__ void attend(const Args& a, const Stretch& of, DecodeShared& shared, int thread) {
  const int team = thread / kThreads;
  const int warp = thread % kThreads / kWarp;
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int group = a.heads / a.kv_heads;
  const int64_t bytes_k = kv_bytes(kTypeK, kHeadDim);
  const int64_t bytes_v = kv_bytes(kTypeV, kHeadDim);
  const int token_g = 16 * warp + g;
  const int end_block = of.end_block();
  int block = of.begin_block() + team;
  uint4 raw_k[2][8];
  uint4 scale_k[2];
  uint4 raw_v[8][2];
  uint4 scale_v[2][2];
  const auto fetch = [&] {
    if (block >= end_block) {
      return;
    }
    const int64_t block_head = of.block_head(a, block);
    const std::byte* values = a.cache.v + block_head * bytes_v;
    load_keys<kTypeK>(a.cache.k + block_head * bytes_k, token_g, t, raw_k, scale_k);
    load_values<kTypeV>(values, 64 * warp, g, t, raw_v);
    if (kTypeV == DType::q8_0) {
      const auto* scales = reinterpret_cast<const uint4*>(values + kBlock * kHeadDim);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        scale_v[i][0] = load_once(scales + (2 * warp + i) * (kBlock / 8) + 2 * t);
        scale_v[i][1] = load_once(scales + (2 * warp + i) * (kBlock / 8) + 2 * t + 1);
      }
    }
  };

  const bool stores = of.has_last_block();
  prepare_heads<kTypeK, kTypeV>(a, of, stores, stores ? of.block_head(a, of.n_blocks - 1) : 0, shared,
                                thread / kWarp, lane);
  __syncthreads();
  fetch();

  float o[4][4] = {};
  float largest[2] = {kMasked, kMasked};  // of heads 2t and 2t + 1
  float total[2] = {};                    // this lane's tokens
  // Every team takes as many turns, also one that has no block in the last: the last block of a sequence may
  // be any team's. It passes the barriers all the same, since racecheck counts barriers by thread (decision
  // 0079).
  const int64_t joined = static_cast<int64_t>(of.index) * a.kv_heads + of.kv_head;
  const bool alone = of.n_runs == 1;
  int run = of.run;
  for (int first = of.begin_block(); first < end_block;) {
    if (block < end_block) {
      float s[4];
      score<kTypeK>(raw_k, scale_k, shared.q, g, t, s);
      const int left = of.n_keys - block * kBlock;
      if (left < kBlock) {
        s[0] = token_g < left ? s[0] : kMasked;
        s[1] = token_g < left ? s[1] : kMasked;
        s[2] = token_g + 8 < left ? s[2] : kMasked;
        s[3] = token_g + 8 < left ? s[3] : kMasked;
      }
      float block_max[2] = {fmaxf(s[0], s[2]), fmaxf(s[1], s[3])};
#pragma unroll
      for (int mask = 4; mask < kWarp; mask *= 2) {
        block_max[0] = fmaxf(block_max[0], __shfl_xor_sync(0xFFFFFFFFU, block_max[0], mask));
        block_max[1] = fmaxf(block_max[1], __shfl_xor_sync(0xFFFFFFFFU, block_max[1], mask));
      }
      if (g == 0) {
        shared.warp_largest[team][warp][2 * t] = block_max[0];
        shared.warp_largest[team][warp][2 * t + 1] = block_max[1];
      }
      team_barrier(team);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float next = largest[e];
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          next = fmaxf(next, shared.warp_largest[team][w][2 * t + e]);
        }
        const float factor = exp2f(largest[e] - next);
        largest[e] = next;
        total[e] *= factor;
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          o[m][e] *= factor;
          o[m][2 + e] *= factor;
        }
      }
      const float lift = kTypeV == DType::q8_0 ? kProbLift : 1.0F;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float low = exp2f(s[e] - largest[e]);
        const float high = exp2f(s[2 + e] - largest[e]);
        total[e] += low + high;
        shared.p[team][2 * t + e][token_g] = __float2half_rn(low * lift);
        shared.p[team][2 * t + e][token_g + 8] = __float2half_rn(high * lift);
      }
      team_barrier(team);
      if (left < kBlock) {
        if (kTypeV == DType::q8_0) {
          clear_tail(scale_v[0], t, left);
          clear_tail(scale_v[1], t, left);
        } else {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            clear_tail(raw_v[i], t, left);
          }
        }
      }
      accumulate<kTypeV>(raw_v, scale_v, shared.p[team], g, t, o);
    } else {
      team_barrier(team);
      team_barrier(team);
    }
    first += kTeams;
    block += kTeams;
    fetch();
    if (first < min((run + 1) * of.per_run, end_block)) {
      continue;
    }

    // The team's sums over lanes and warps, then the run's over teams.
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int mask = 4; mask < kWarp; mask *= 2) {
        total[e] += __shfl_xor_sync(0xFFFFFFFFU, total[e], mask);
      }
      if (g == 0) {
        shared.warp_total[team][warp][2 * t + e] = total[e];
        if (warp == 0) {
          shared.team_largest[team][2 * t + e] = largest[e];
        }
      }
    }
    const float unlift = kTypeV == DType::q8_0 ? 1.0F / kProbLift : 1.0F;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        shared.o[team][(2 * t + e % 2) * kHeadDim + 64 * warp + 16 * m + g + e / 2 * 8] = o[m][e] * unlift;
      }
    }
    __syncthreads();
    const auto most_of_teams = [&](int head, float& most) {
      most = kMasked;
#pragma unroll
      for (int i = 0; i < kTeams; ++i) {
        most = fmaxf(most, shared.team_largest[i][head]);
      }
    };
    const auto sum_of_teams = [&](int e) {
      const int head = e / kHeadDim;
      float most;
      most_of_teams(head, most);
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int i = 0; i < kTeams; ++i) {
        const float w = exp2f(shared.team_largest[i][head] - most);
        const float4 v = *reinterpret_cast<const float4*>(&shared.o[i][e]);
        sum.x += w * v.x;
        sum.y += w * v.y;
        sum.z += w * v.z;
        sum.w += w * v.w;
      }
      return sum;
    };
    float* const partial = a.partial + (joined * kMaxSplits + run) * kPartial;
    if (!alone) {
      for (int e = 4 * thread; e < group * kHeadDim; e += 4 * kTeams * kThreads) {
        *reinterpret_cast<float4*>(partial + e) = sum_of_teams(e);
      }
    }
    if (thread < group) {
      float most;
      most_of_teams(thread, most);
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kTeams; ++i) {
        float of_team = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          of_team += shared.warp_total[i][w][thread];
        }
        sum += exp2f(shared.team_largest[i][thread] - most) * of_team;
      }
      if (alone) {
        shared.weight[0][thread] = 1.0F / sum;
      } else {
        partial[kMaxGroup * kHeadDim + thread] = most;
        partial[kMaxGroup * kHeadDim + kMaxGroup + thread] = sum;
      }
    }
    if (alone) {
      __syncthreads();
      for (int e = 4 * thread; e < group * kHeadDim; e += 4 * kTeams * kThreads) {
        const float4 v = sum_of_teams(e);
        const float w = shared.weight[0][e / kHeadDim];
        store_gated(a, of, e, make_float4(w * v.x, w * v.y, w * v.z, w * v.w));
      }
      return;
    }
    __syncthreads();
    ++run;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      largest[e] = kMasked;
      total[e] = 0;
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        o[m][e] = 0;
        o[m][2 + e] = 0;
      }
    }
  }

  // Whoever brings the sequence's last runs joins all of them.
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    const bool last = atomicAdd(a.arrived + joined, of.n) == of.n_runs - of.n;
    shared.last = last ? 1 : 0;
    if (last) {
      a.arrived[joined] = 0;
    }
  }
  __syncthreads();
  if (shared.last == 0) {
    return;
  }
  __threadfence();
  const float* const all = a.partial + joined * kMaxSplits * kPartial;
  const int n_runs = of.n_runs;
  const int head = thread / kWarp;  // a warp takes a head, a lane a run
  if (head < group) {
    const float* const of_run = all + lane * kPartial + kMaxGroup * kHeadDim + head;
    const float largest_of_run = lane < n_runs ? __ldcg(of_run) : kMasked;
    const float sum = lane < n_runs ? __ldcg(of_run + kMaxGroup) : 0.0F;
    const float w = exp2f(largest_of_run - warp_max(largest_of_run));
    shared.weight[lane][head] = w / warp_sum(w * sum);
  }
  __syncthreads();
  for (int e = 4 * thread; e < group * kHeadDim; e += 4 * kTeams * kThreads) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 16
    for (int i = 0; i < n_runs; ++i) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(all + i * kPartial + e));
      const float w = shared.weight[i][e / kHeadDim];
      sum.x += w * v.x;
      sum.y += w * v.y;
      sum.z += w * v.z;
      sum.w += w * v.w;
    }
    store_gated(a, of, e, sum);
  }
}

template <DType kTypeK, DType kTypeV>
__global__ void __launch_bounds__(kTeams* kThreads, 1) decode_256(const Args a) {
  __shared__ __align__(16) DecodeShared shared;
  let_next_start();
  int thread = static_cast<int>(threadIdx.x);
  Stretch& stretch = shared.stretch;
  const auto advance = [&] {
    if (thread == 0) {
      stretch.advance(a);
    }
    __syncthreads();
    if (stretch.n > 0) {
      start_stretch<kTypeK, kTypeV>(a, stretch, thread);
    }
  };
  if (thread < kWarp) {
    stretch.start(a, thread);
  }
  advance();
  for (int e = a.heads / a.kv_heads * kHeadDim + thread; e < kMaxGroup * kHeadDim; e += kTeams * kThreads) {
    shared.q[e / kHeadDim][e % kHeadDim] = __float2half_rn(0.0F);
  }
  wait_for_previous();
  while (stretch.n > 0) {
    // What follows from the thread's number is worked out for each stretch: kept over the loop it would be
    // spilled.
    asm volatile("" : "+r"(thread));
    attend<kTypeK, kTypeV>(a, stretch, shared, thread);
    __syncthreads();
    advance();
  }
}

}  // namespace

bool attention_fuses(const AttentionShape& shape, const KvCache& cache) {
  const auto type = [](DType t) { return t == DType::f16 || t == DType::q8_0; };
  return shape.head_dim == kHeadDim && shape.group() <= kMaxGroup && type(cache.type_k) && type(cache.type_v);
}

int64_t attention_partial_floats(const AttentionShape& shape, int n) {
  return static_cast<int64_t>(n) * shape.n_kv_heads * kMaxSplits * kPartial;
}

void attention_decode(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                      const PrepareAttention& in, const AttentionTile* tiles, int n_tiles,
                      const int32_t* blocks, const AttentionScratch& scratch, const Activations& out) {
  if (n_tiles == 0) {
    return;
  }
  const Args args{static_cast<int>(shape.n_heads),
                  static_cast<int>(shape.n_kv_heads),
                  shape.scale,
                  cache,
                  in,
                  tiles,
                  n_tiles,
                  blocks,
                  scratch.partial,
                  scratch.arrived,
                  writer(out)};
  // One block an SM is all that its registers hold.
  const int n_sms = device_attribute(cudaDevAttrMultiProcessorCount, "number of SMs");
  const int most = kMaxSplits * args.kv_heads * n_tiles;
  const dim3 grid(static_cast<unsigned>(std::min(most, n_sms)));
  const bool quantised_k = cache.type_k == DType::q8_0;
  const bool quantised_v = cache.type_v == DType::q8_0;
  auto* const kernel =
      quantised_k ? (quantised_v ? decode_256<DType::q8_0, DType::q8_0> : decode_256<DType::q8_0, DType::f16>)
                  : (quantised_v ? decode_256<DType::f16, DType::q8_0> : decode_256<DType::f16, DType::f16>);
  launch(queue, kernel, grid, kTeams * kThreads, 0, "attention_decode", args);
}

}  // namespace fl::cuda
