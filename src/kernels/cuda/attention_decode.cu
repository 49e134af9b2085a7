// One query token of each sequence. For heads of 256 with keys and values in f16 or q8_0: a block of 128
// threads takes one KV head with all its query heads and a run of the sequence's KV blocks, so that keys and
// values are read once. The products are S^T = K Q^T and O^T = V^T P^T on tensor cores: keys and values are
// the wide operand, and both lie in the cache as the fragments want them, so they go from memory to registers
// directly. The last run of a sequence to finish adds all of them up, in order, and applies the output gate.
#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/kv_layout.cuh"
#include "kernels/cuda/mma.cuh"

namespace fl::cuda {
namespace {

constexpr int kHeadDim = 256;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGroups = kHeadDim / kGroup32;
constexpr int kQueryRow = kHeadDim + 8;  // halves between query heads in shared memory: no bank conflicts
constexpr int kProbRow = kBlock + 8;
constexpr float kLog2E = 1.4426950408889634F;
/// Probabilities times a value's scale stay above f16's subnormals with this; taken out again at the end.
constexpr float kProbLift = 64.0F;
constexpr float kMasked = -1e30F;  // finite, so that differences of two stay numbers

struct Args {
  int heads, kv_heads;
  float scale;
  KvCache cache;
  const float* q;
  int64_t stride;
  const AttentionTile* tiles;
  const int32_t* blocks;
  float* partial;    // [n][kv_heads][kMaxSplits][kPartial]
  int32_t* arrived;  // [n][kv_heads]
  ActivationWriter out;
};

/// Of one run: the output of kMaxGroup heads, then their maxima, then their sums.
constexpr int kPartial = kMaxGroup * kHeadDim + 2 * kMaxGroup;

__device__ __forceinline__ uint4 load_once(const void* p) {
  return __ldcs(reinterpret_cast<const uint4*>(p));
}

// 16 keys (rows g and g + 8 of the tile) against all query heads.
template <DType kType>
__device__ __forceinline__ void load_keys(const std::byte* keys, int token_g, int t, uint4 (&raw)[2][8],
                                          uint4 (&scales)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = token_g + 8 * half;
    if (kType == DType::f16) {
      const auto* row = reinterpret_cast<const uint4*>(keys) + token * (kHeadDim / 8) + t;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        raw[half][i] = load_once(row + 4 * i);
      }
    } else {
      const auto* row = reinterpret_cast<const uint4*>(keys) + token * (kHeadDim / 16) + t;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        raw[half][i] = load_once(row + 4 * i);
      }
      scales[half] = load_once(reinterpret_cast<const uint4*>(keys + kBlock * kHeadDim) + token);
    }
  }
}

__device__ __forceinline__ float half_of(const uint4& v, int i) {
  const uint32_t word = i / 2 == 0 ? v.x : i / 2 == 1 ? v.y : i / 2 == 2 ? v.z : v.w;
  return __half2float(
      __ushort_as_half(static_cast<unsigned short>(i % 2 == 0 ? word & 0xFFFFU : word >> 16)));
}

// raw's 8 dims number `i` (of a group of 32, lane t's share) as two pairs of f16 registers.
template <DType kType>
__device__ __forceinline__ void key_fragment(const uint4 (&raw)[8], int group, uint32_t (&f)[4]) {
  if (kType == DType::f16) {
    f[0] = raw[group].x;
    f[1] = raw[group].y;
    f[2] = raw[group].z;
    f[3] = raw[group].w;
  } else {
    const uint4& r = raw[group / 2];
    int8x4_to_half(group % 2 == 0 ? r.x : r.z, f[0], f[1]);
    int8x4_to_half(group % 2 == 0 ? r.y : r.w, f[2], f[3]);
  }
}

template <DType kType>
__device__ __forceinline__ void score(const uint4 (&raw)[2][8], const uint4 (&scales)[2],
                                      const __half (*q)[kQueryRow], int g, int t, float (&s)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    s[e] = 0;
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    uint32_t low[4];
    uint32_t high[4];
    key_fragment<kType>(raw[0], group, low);
    key_fragment<kType>(raw[1], group, high);
    const uint4 b = *reinterpret_cast<const uint4*>(&q[g][group * kGroup32 + 8 * t]);
    if (kType == DType::f16) {
      mma_f16(s, {low[0], high[0], low[1], high[1]}, b.x, b.y);
      mma_f16(s, {low[2], high[2], low[3], high[3]}, b.z, b.w);
    } else {
      float part[4] = {};
      mma_f16(part, {low[0], high[0], low[1], high[1]}, b.x, b.y);
      mma_f16(part, {low[2], high[2], low[3], high[3]}, b.z, b.w);
      const float scale_g = half_of(scales[0], group);
      const float scale_g8 = half_of(scales[1], group);
      s[0] += scale_g * part[0];
      s[1] += scale_g * part[1];
      s[2] += scale_g8 * part[2];
      s[3] += scale_g8 * part[3];
    }
  }
}

// The warp's 64 dims of all 64 values: per dim row lane t has tokens 16t .. 16t + 15.
template <DType kType>
__device__ __forceinline__ void load_values(const std::byte* values, int dim0, int g, int t,
                                            uint4 (&raw)[8][2]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int dim = dim0 + 8 * i + g;
    if (kType == DType::f16) {
      const auto* row = reinterpret_cast<const uint4*>(values) + dim * (kBlock / 8) + 2 * t;
      raw[i][0] = load_once(row);
      raw[i][1] = load_once(row + 1);
    } else {
      raw[i][0] = load_once(reinterpret_cast<const uint4*>(values) + dim * (kBlock / 16) + t);
    }
  }
}

__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Tokens 16t + 4j .. + 3 of a row as two registers.
template <DType kType>
__device__ __forceinline__ void value_fragment(const uint4 (&raw)[2], int j, uint32_t& low, uint32_t& high) {
  if (kType == DType::f16) {
    low = word_of(raw[j / 2], j % 2 * 2);
    high = word_of(raw[j / 2], j % 2 * 2 + 1);
  } else {
    int8x4_to_half(word_of(raw[0], j), low, high);
  }
}

__device__ __forceinline__ uint32_t multiply_half2(uint32_t a, uint32_t b) {
  const __half2 product =
      __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}

template <DType kTypeV>
__device__ __forceinline__ void accumulate(const uint4 (&raw)[8][2], const uint4 (&scales)[2][2],
                                           const __half (*p)[kProbRow], int g, int t, float (&o)[4][4]) {
  uint4 prob[2];
  prob[0] = *reinterpret_cast<const uint4*>(&p[g][16 * t]);
  prob[1] = *reinterpret_cast<const uint4*>(&p[g][16 * t + 8]);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t b0 = word_of(prob[j / 2], j % 2 * 2);
    const uint32_t b1 = word_of(prob[j / 2], j % 2 * 2 + 1);
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      uint32_t s0 = b0;
      uint32_t s1 = b1;
      if (kTypeV == DType::q8_0) {
        s0 = multiply_half2(b0, word_of(scales[group][j / 2], j % 2 * 2));
        s1 = multiply_half2(b1, word_of(scales[group][j / 2], j % 2 * 2 + 1));
      }
#pragma unroll
      for (int tile = 2 * group; tile < 2 * group + 2; ++tile) {
        uint32_t a0;
        uint32_t a1;
        uint32_t a2;
        uint32_t a3;
        value_fragment<kTypeV>(raw[2 * tile], j, a0, a2);
        value_fragment<kTypeV>(raw[2 * tile + 1], j, a1, a3);
        mma_f16(o[tile], {a0, a1, a2, a3}, s0, s1);
      }
    }
  }
}

// Tokens from `left` on were never written: whatever lies there, NaN too, becomes zero. Lane t's 16 tokens as
// f16.
__device__ __forceinline__ void clear_tail(uint4 (&x)[2], int t, int left) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint32_t* const words[4] = {&x[i].x, &x[i].y, &x[i].z, &x[i].w};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int token = 16 * t + 8 * i + 2 * w;
      *words[w] &= token + 1 < left ? 0xFFFFFFFFU : token < left ? 0xFFFFU : 0U;
    }
  }
}

// How many KV blocks a run has: of the sequence's length alone.
__device__ __forceinline__ int run_blocks(int n_blocks) {
  return (n_blocks + kMaxSplits - 1) / kMaxSplits;
}

/// Blocks of a run are taken in turn by groups of kThreads threads, each with a maximum, sums and an output
/// of its own: while one group multiplies, the others' loads are on their way.
constexpr int kTeams = 3;

__device__ __forceinline__ void team_barrier(int team) {
  asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(kThreads) : "memory");
}

struct DecodeShared {
  __half q[kMaxGroup][kQueryRow];
  __half p[kTeams][kMaxGroup][kProbRow];
  float warp_largest[kTeams][kWarps][kMaxGroup];
  float warp_total[kTeams][kWarps][kMaxGroup];
  float team_largest[kTeams][kMaxGroup];
  float o[kTeams][kMaxGroup * kHeadDim];
  float weight[kMaxSplits][kMaxGroup];
  int last;
};

template <DType kTypeK, DType kTypeV>
__global__ void __launch_bounds__(kTeams* kThreads, 1) decode_256(const Args a) {
  __shared__ __align__(16) DecodeShared shared;
  let_next_start();
  const int split = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const AttentionTile tile = a.tiles[blockIdx.z];
  const int n_keys = tile.first_index + 1;
  const int n_blocks = (n_keys + kBlock - 1) / kBlock;
  const int per_run = run_blocks(n_blocks);
  const int n_runs = (n_blocks + per_run - 1) / per_run;
  wait_for_previous();
  if (tile.n_tokens == 0 || split >= n_runs) {
    return;
  }
  const int thread = static_cast<int>(threadIdx.x);
  const int team = thread / kThreads;
  const int warp = thread % kThreads / kWarp;
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int group = a.heads / a.kv_heads;
  const int64_t bytes_k = kv_bytes(kTypeK, kHeadDim);
  const int64_t bytes_v = kv_bytes(kTypeV, kHeadDim);
  const int token_g = 16 * warp + g;
  const int end_block = min((split + 1) * per_run, n_blocks);
  int block = split * per_run + team;
  uint4 raw_k[2][8];
  uint4 scale_k[2];
  uint4 raw_v[8][2];
  uint4 scale_v[2][2];
  const auto fetch = [&] {
    if (block >= end_block) {
      return;
    }
    const int64_t block_head = static_cast<int64_t>(a.blocks[tile.blocks + block]) * a.kv_heads + kv_head;
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
  fetch();
  const float* query = a.q + tile.first * a.stride + static_cast<int64_t>(kv_head) * group * 2 * kHeadDim;
  for (int e = thread; e < kMaxGroup * kHeadDim; e += kTeams * kThreads) {
    const int h = e / kHeadDim;
    const int d = e % kHeadDim;
    shared.q[h][d] = __float2half_rn(h < group ? query[h * 2 * kHeadDim + d] * (a.scale * kLog2E) : 0.0F);
  }
  __syncthreads();

  float o[4][4] = {};
  float largest[2] = {kMasked, kMasked};  // of heads 2t and 2t + 1
  float total[2] = {};                    // this lane's tokens
  for (; block < end_block; block += kTeams, fetch()) {
    float s[4];
    score<kTypeK>(raw_k, scale_k, shared.q, g, t, s);
    const int left = n_keys - block * kBlock;
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
  }

  // A team without a block in the last round passes its barriers all the same: racecheck counts barriers by
  // thread, and where the counts differ takes none of the block's later ones for common (decision 0079).
  if (block - team < end_block) {
    team_barrier(team);
    team_barrier(team);
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
  const int64_t item = static_cast<int64_t>(blockIdx.z) * a.kv_heads + kv_head;
  float* const partial = a.partial + (item * kMaxSplits + split) * kPartial;
  const auto most_of_teams = [&](int head, float& most) {
    most = kMasked;
#pragma unroll
    for (int i = 0; i < kTeams; ++i) {
      most = fmaxf(most, shared.team_largest[i][head]);
    }
  };
  for (int e = 4 * thread; e < group * kHeadDim; e += 4 * kTeams * kThreads) {
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
    *reinterpret_cast<float4*>(partial + e) = sum;
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
    partial[kMaxGroup * kHeadDim + thread] = most;
    partial[kMaxGroup * kHeadDim + kMaxGroup + thread] = sum;
  }
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    shared.last = atomicAdd(a.arrived + item, 1) == n_runs - 1 ? 1 : 0;
  }
  __syncthreads();
  if (shared.last == 0) {
    return;
  }
  if (thread == 0) {
    a.arrived[item] = 0;
  }
  __threadfence();
  const float* const all = a.partial + item * kMaxSplits * kPartial;
  const float* const gate = query + kHeadDim;
  if (thread < group) {
    float most = kMasked;
    for (int i = 0; i < n_runs; ++i) {
      most = fmaxf(most, __ldcg(all + i * kPartial + kMaxGroup * kHeadDim + thread));
    }
    float sum = 0;
    for (int i = 0; i < n_runs; ++i) {
      const float w = exp2f(__ldcg(all + i * kPartial + kMaxGroup * kHeadDim + thread) - most);
      shared.weight[i][thread] = w;
      sum += w * __ldcg(all + i * kPartial + kMaxGroup * kHeadDim + kMaxGroup + thread);
    }
    for (int i = 0; i < n_runs; ++i) {
      shared.weight[i][thread] /= sum;
    }
  }
  __syncthreads();
  for (int e = 4 * thread; e < group * kHeadDim; e += 4 * kTeams * kThreads) {
    const int head = e / kHeadDim;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < n_runs; ++i) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(all + i * kPartial + e));
      const float w = shared.weight[i][head];
      sum.x += w * v.x;
      sum.y += w * v.y;
      sum.z += w * v.z;
      sum.w += w * v.w;
    }
    const float* at = gate + head * 2 * kHeadDim + e % kHeadDim;
    store_activations4(a.out, tile.first, kv_head * group * kHeadDim + e,
                       make_float4(sum.x * sigmoid(at[0]), sum.y * sigmoid(at[1]), sum.z * sigmoid(at[2]),
                                   sum.w * sigmoid(at[3])));
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
                      const AttentionQueries& queries, const AttentionTile* tiles, int n_tiles,
                      const int32_t* blocks, const AttentionScratch& scratch, const Activations& out) {
  if (n_tiles == 0) {
    return;
  }
  const Args args{static_cast<int>(shape.n_heads),
                  static_cast<int>(shape.n_kv_heads),
                  shape.scale,
                  cache,
                  queries.q,
                  queries.stride,
                  tiles,
                  blocks,
                  scratch.partial,
                  scratch.arrived,
                  writer(out)};
  const dim3 grid(kMaxSplits, static_cast<unsigned>(shape.n_kv_heads), static_cast<unsigned>(n_tiles));
  const bool quantised_k = cache.type_k == DType::q8_0;
  const bool quantised_v = cache.type_v == DType::q8_0;
  auto* const kernel =
      quantised_k ? (quantised_v ? decode_256<DType::q8_0, DType::q8_0> : decode_256<DType::q8_0, DType::f16>)
                  : (quantised_v ? decode_256<DType::f16, DType::q8_0> : decode_256<DType::f16, DType::f16>);
  launch(queue, kernel, grid, kTeams * kThreads, 0, "attention_decode", args);
}

}  // namespace fl::cuda
