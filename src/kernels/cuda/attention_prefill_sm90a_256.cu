// Attention of prompts on Hopper's warpgroup products, for heads of 256. A block takes a tile of 64 query
// tokens for two query heads that share a KV head: one warpgroup brings the blocks of keys and values,
// widened to halves once for both heads, into shared memory; two multiply, a head each, scores and outputs in
// registers. While a warpgroup's values are multiplied it already has the next block's scores
// (FlashAttention-3, arXiv 2407.08608).
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fl::cuda {
namespace {

constexpr int kGroup = 128;  // threads of a warpgroup
constexpr int kConsumers = 2;
constexpr int kThreads = kGroup * (1 + kConsumers);
constexpr int kProducerRegisters = 120;
constexpr int kConsumerRegisters = 192;
constexpr int kStages = 2;
constexpr int kRowPieces = 8;                         // 16-byte pieces of a swizzled row of 64 halves
constexpr int kPanels = kHeadDim / kSwizzledColumns;  // of queries or keys: [64 tokens][64 dims] each
constexpr int kPanelPieces = kBlock * kRowPieces;
constexpr int kTilePieces =
    kPanels * kPanelPieces;                       // of queries or keys, and of values [256 dims][64 tokens]
constexpr int kBatch = kTilePieces / 2 / kGroup;  // 16-byte pieces of q8_0 bytes of a thread

struct Shared {
  uint4 k[kStages][kTilePieces];
  uint4 v[kStages][kTilePieces];
  uint4 q[kConsumers][kTilePieces];
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};
constexpr size_t kSharedBytes = sizeof(Shared) + 1024;  // the swizzle wants multiples of 1024

// Piece c of row r of a tile of rows of 64 halves.
__device__ __forceinline__ int swizzled(int row, int piece) {
  return row * kRowPieces + (piece ^ (row & 7));
}

// Keys: bytes of 8 dims of each of two groups (kv_key_position). A thread has them of eight tokens, so that
// eight neighbours write to different banks.
struct RawKeys {
  uint4 bytes[kBatch];
  __half2 scales[kBatch];
};
struct KeyPlace {
  int row, panel, piece;
  __device__ __forceinline__ explicit KeyPlace(int thread)
      : row(thread / kWarp + thread / 4 % 2 * 4), panel(thread / 8 % kPanels), piece(thread % 4) {}
};
static_assert(kBatch * 8 == kBlock);
__device__ __forceinline__ void load_raw(const std::byte* keys, int thread, RawKeys& raw) {
  const KeyPlace at(thread);
  const auto* scales = reinterpret_cast<const __half2*>(keys + kBlock * kHeadDim);
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int row = at.row + 8 * i;
    raw.bytes[i] = reinterpret_cast<const uint4*>(keys)[row * (kHeadDim / 16) + at.panel * 4 + at.piece];
    raw.scales[i] = scales[row * kPanels + at.panel];
  }
}
__device__ __forceinline__ void widen(const RawKeys& raw, int thread, uint4* tile) {
  const KeyPlace at(thread);
  uint4* const panel = tile + at.panel * kPanelPieces;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int row = at.row + 8 * i;
    panel[swizzled(row, at.piece)] = scaled8(raw.bytes[i].x, raw.bytes[i].y, __low2half2(raw.scales[i]));
    panel[swizzled(row, at.piece + 4)] = scaled8(raw.bytes[i].z, raw.bytes[i].w, __high2half2(raw.scales[i]));
  }
}

// Values: bytes of 16 tokens of a dim. A thread has eight dims of one group and the same tokens, and so one
// set of scales.
struct RawValues {
  uint4 bytes[kBatch];
  uint4 scales[2];
};
struct ValuePlace {
  int dim, sixteen;
  __device__ __forceinline__ explicit ValuePlace(int thread)
      : dim(thread / 16 * kGroup32 + thread / 4 % 4), sixteen(thread % 4) {}
};
static_assert(kBatch * 4 == kGroup32 && kGroup / 16 * kGroup32 == kHeadDim);
__device__ __forceinline__ void load_raw(const std::byte* values, int left, int thread, RawValues& raw) {
  const ValuePlace at(thread);
  const auto* scales = reinterpret_cast<const uint4*>(values + kBlock * kHeadDim);
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    raw.bytes[i] = reinterpret_cast<const uint4*>(values)[(at.dim + 4 * i) * (kBlock / 16) + at.sixteen];
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    raw.scales[half] = scales[at.dim / kGroup32 * kRowPieces + 2 * at.sixteen + half];
    clear_tail(raw.scales[half], 16 * at.sixteen + 8 * half, left);
  }
}
__device__ __forceinline__ void widen(const RawValues& raw, int thread, uint4* tile) {
  const ValuePlace at(thread);
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int dim = at.dim + 4 * i;
    tile[swizzled(dim, 2 * at.sixteen)] = scaled8(raw.bytes[i].x, raw.bytes[i].y, raw.scales[0]);
    tile[swizzled(dim, 2 * at.sixteen + 1)] = scaled8(raw.bytes[i].z, raw.bytes[i].w, raw.scales[1]);
  }
}

// A cache in f16 only changes places.
__device__ __forceinline__ void copy_keys(const std::byte* keys, int thread, uint4* tile) {
#pragma unroll 8
  for (int e = thread; e < kTilePieces; e += kGroup) {
    const int piece = e % (kHeadDim / 8);
    copy_async_16(tile + piece / kRowPieces * kPanelPieces + swizzled(e / (kHeadDim / 8), piece % kRowPieces),
                  reinterpret_cast<const uint4*>(keys) + e);
  }
  copy_async_commit();
  copy_async_wait<0>();
}
__device__ __forceinline__ void copy_values(const std::byte* values, int left, int thread, uint4* tile) {
  if (left >= kBlock) {
#pragma unroll 8
    for (int e = thread; e < kTilePieces; e += kGroup) {
      copy_async_16(tile + swizzled(e / kRowPieces, e % kRowPieces),
                    reinterpret_cast<const uint4*>(values) + e);
    }
    copy_async_commit();
    copy_async_wait<0>();
    return;
  }
  for (int e = thread; e < kTilePieces; e += kGroup) {
    uint4 piece = reinterpret_cast<const uint4*>(values)[e];
    clear_tail(piece, e % kRowPieces * 8, left);
    tile[swizzled(e / kRowPieces, e % kRowPieces)] = piece;
  }
}

// What both kinds of warpgroups know of their work.
struct Work {
  AttentionTile tile;
  int kv_head, n_keys, n_blocks;
};

template <DType kTypeK, DType kTypeV>
__device__ __forceinline__ void produce(const PrefillArgs& a, const Work& work, Shared& s) {
  const int thread = static_cast<int>(threadIdx.x);
  const auto block_head = [&](int b) {
    return static_cast<int64_t>(a.blocks[work.tile.blocks + b]) * a.kv_heads + work.kv_head;
  };
  const auto keys = [&](int b) { return a.cache.k + block_head(b) * kv_bytes(kTypeK, kHeadDim); };
  const auto values = [&](int b) { return a.cache.v + block_head(b) * kv_bytes(kTypeV, kHeadDim); };
  RawKeys raw_k;
  RawValues raw_v;
  if constexpr (kTypeK == DType::q8_0) {
    load_raw(keys(0), thread, raw_k);
  }
  for (int b = 0; b < work.n_blocks; ++b) {
    const int stage = b % kStages;
    const uint32_t free_parity = (b / kStages & 1) ^ 1;
    const int left = work.n_keys - b * kBlock;
    if constexpr (kTypeV == DType::q8_0) {
      load_raw(values(b), left, thread, raw_v);
    }
    barrier_wait(&s.k_empty[stage], free_parity);
    if constexpr (kTypeK == DType::q8_0) {
      widen(raw_k, thread, s.k[stage]);
    } else {
      copy_keys(keys(b), thread, s.k[stage]);
    }
    shared_for_products();
    barrier_arrive(&s.k_full[stage]);
    if constexpr (kTypeK == DType::q8_0) {
      load_raw(keys(min(b + 1, work.n_blocks - 1)), thread, raw_k);
    }
    barrier_wait(&s.v_empty[stage], free_parity);
    if constexpr (kTypeV == DType::q8_0) {
      widen(raw_v, thread, s.v[stage]);
    } else {
      copy_values(values(b), left, thread, s.v[stage]);
    }
    shared_for_products();
    barrier_arrive(&s.v_full[stage]);
  }
}

// A warpgroup's scores, outputs and running sums; a thread has rows g and g + 8 of its warp's 16.
struct Rows {
  float o[kHeadDim / 2];
  float s[kBlock / 2];
  uint32_t p[kBlock / 4];  // probabilities as the next product's operand
  float largest[2];
  float total[2];
  float factor[2];
};

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void start_scores(Rows& r, const uint4* q, const uint4* k) {
  const uint64_t a = swizzled_operand(q);
  const uint64_t b = swizzled_operand(k);
  constexpr uint64_t kNextPanel = kPanelPieces;  // operands count in pieces
  constexpr int kSteps = kSwizzledColumns / 16;
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint64_t on = step / kSteps * kNextPanel + step % kSteps * kNext16Columns;
    wgmma_shared_64(r.s, a + on, b + on, step == 0);
  }
  wgmma_commit();
}

__device__ __forceinline__ void start_outputs(Rows& r, const uint4* v) {
  const uint64_t b = swizzled_operand(v);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kBlock / 16; ++step) {
    wgmma<kHeadDim>(r.o, r.p + 4 * step, b + step * kNext16Columns);
  }
  wgmma_commit();
}

// Scores become probabilities, still in s; `visible`: the last key of the block that row g sees.
__device__ __forceinline__ void softmax(Rows& r, int visible) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  if (visible < kBlock) {
#pragma unroll
    for (int n = 0; n < kBlock / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = 8 * n + 2 * t + e % 2;
        r.s[4 * n + e] = key <= visible + e / 2 * 8 ? r.s[4 * n + e] : kMasked;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = r.largest[half];
#pragma unroll
    for (int n = 0; n < kBlock / 8; ++n) {
      most = fmaxf(most, fmaxf(r.s[4 * n + 2 * half], r.s[4 * n + 2 * half + 1]));
    }
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 2));
    r.factor[half] = exp2_fast(r.largest[half] - most);
    r.largest[half] = most;
    float sum = 0;
    // Every row sees a key of the first block, so `most` is a score, and masked ones become zero.
#pragma unroll
    for (int n = 0; n < kBlock / 8; ++n) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        r.s[4 * n + e] = exp2_fast(r.s[4 * n + e] - most);
        sum += r.s[4 * n + e];
      }
    }
    r.total[half] = r.total[half] * r.factor[half] + sum;
  }
}

__device__ __forceinline__ void pack_probabilities(Rows& r) {
#pragma unroll
  for (int i = 0; i < kBlock / 4; ++i) {
    r.p[i] = pack_half2(r.s[2 * i], r.s[2 * i + 1]);
  }
}

__device__ __forceinline__ void rescale_outputs(Rows& r) {
  if (__any_sync(0xFFFFFFFFU, r.factor[0] != 1.0F || r.factor[1] != 1.0F)) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) {
      r.o[i] *= r.factor[i / 2 % 2];
    }
  }
}

// Normed and gated, to the activations.
__device__ __forceinline__ void store_rows(const PrefillArgs& a, const AttentionTile& tile, int head,
                                           int row_g, Rows& r) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = r.total[half];
    total += __shfl_xor_sync(0xFFFFFFFFU, total, 1);
    total += __shfl_xor_sync(0xFFFFFFFFU, total, 2);
    const int row = row_g + 8 * half;
    const bool there = row < tile.n_tokens;
    const float inverse = 1.0F / total;
    const int token = tile.first + row;
    const float* gate = a.q + token * a.stride + static_cast<int64_t>(head) * 2 * kHeadDim + kHeadDim;
    // Of 16 dims lane t holds 2t, 2t + 1, 8 + 2t, 9 + 2t; it stores 4t .. 4t + 3.
#pragma unroll
    for (int n = 0; n < kHeadDim / 16; ++n) {
      float mine[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int from = lane - t + (2 * t + e / 2) % 4;
        const float low = __shfl_sync(0xFFFFFFFFU, r.o[8 * n + 2 * half + e % 2], from);
        const float high = __shfl_sync(0xFFFFFFFFU, r.o[8 * n + 4 + 2 * half + e % 2], from);
        mine[e] = (t < 2 ? low : high) * inverse;
      }
      if (there) {
        const int d = 16 * n + 4 * t;
        const float4 by = *reinterpret_cast<const float4*>(gate + d);
        store_activations4(a.activations, token, head * kHeadDim + d,
                           make_float4(mine[0] * sigmoid(by.x), mine[1] * sigmoid(by.y),
                                       mine[2] * sigmoid(by.z), mine[3] * sigmoid(by.w)));
      }
    }
  }
}

__device__ __forceinline__ void consume(const PrefillArgs& a, const Work& work, int head, int consumer,
                                        Shared& s) {
  const int thread = static_cast<int>(threadIdx.x) % kGroup;
  const int lane = thread % kWarp;
  uint4* const q = s.q[consumer];
#pragma unroll 4
  for (int e = thread; e < kTilePieces; e += kGroup) {
    const int row = e / (kHeadDim / 8);
    const int piece = e % (kHeadDim / 8);
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (row < work.tile.n_tokens) {
      const auto* from = reinterpret_cast<const float4*>(
          a.q + (work.tile.first + row) * a.stride + static_cast<int64_t>(head) * 2 * kHeadDim + piece * 8);
      const float4 x = from[0];
      const float4 y = from[1];
      const float by = a.scale * kLog2E;
      packed = make_uint4(pack_half2(x.x * by, x.y * by), pack_half2(x.z * by, x.w * by),
                          pack_half2(y.x * by, y.y * by), pack_half2(y.z * by, y.w * by));
    }
    q[piece / kRowPieces * kPanelPieces + swizzled(row, piece % kRowPieces)] = packed;
  }
  shared_for_products();
  group_barrier(1 + consumer, kGroup);

  Rows r;
#pragma unroll
  for (int i = 0; i < kHeadDim / 2; ++i) {
    r.o[i] = 0;
  }
#pragma unroll
  for (int i = 0; i < kBlock / 2; ++i) {
    r.s[i] = 0;
  }
  r.largest[0] = r.largest[1] = kMasked;
  r.total[0] = r.total[1] = 0;
  const int row_g = 16 * (thread / kWarp) + lane / 4;
  const auto free_stage = [&](uint64_t* empty) {
    if (lane == 0) {
      barrier_arrive(empty);
    }
  };

  for (int b = 0; b < work.n_blocks; ++b) {
    const int stage = b % kStages;
    const uint32_t parity = b / kStages & 1;
    barrier_wait(&s.k_full[stage], parity);
    start_scores(r, q, s.k[stage]);
    wgmma_wait<0>();
    hold_sums(r.s);
    free_stage(&s.k_empty[stage]);
    softmax(r, work.tile.first_index + row_g - b * kBlock);
    rescale_outputs(r);
    pack_probabilities(r);
    barrier_wait(&s.v_full[stage], parity);
    start_outputs(r, s.v[stage]);
    wgmma_wait<0>();
    hold_sums(r.o);
    free_stage(&s.v_empty[stage]);
  }
  store_rows(a, work.tile, head, row_g, r);
}

// Grid: pairs of query heads, tiles.
template <DType kTypeK, DType kTypeV>
__global__ void __launch_bounds__(kThreads, 1) prefill_pairs(const PrefillArgs a) {
  extern __shared__ unsigned char shared_bytes[];
  Shared& s =
      *reinterpret_cast<Shared*>(shared_bytes + (1024 - (shared_address(shared_bytes) & 1023)) % 1024);
  let_next_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&s.k_full[i], kGroup);
      barrier_init(&s.v_full[i], kGroup);
      barrier_init(&s.k_empty[i], kConsumers * kGroup / kWarp);
      barrier_init(&s.v_empty[i], kConsumers * kGroup / kWarp);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  wait_for_previous();
  __syncthreads();
  Work work;
  work.tile = a.tiles[blockIdx.y];
  if (work.tile.n_tokens == 0) {
    return;
  }
  const int head = static_cast<int>(blockIdx.x) * kConsumers;
  work.kv_head = head / (a.heads / a.kv_heads);
  work.n_keys = work.tile.first_index + work.tile.n_tokens;
  work.n_blocks = (work.n_keys + kBlock - 1) / kBlock;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  if (group == 0) {
    give_registers<kProducerRegisters>();
    produce<kTypeK, kTypeV>(a, work, s);
  } else {
    take_registers<kConsumerRegisters>();
    consume(a, work, head + group - 1, group - 1, s);
  }
}

template <DType kTypeK, DType kTypeV>
void start(const Queue& queue, dim3 grid, const PrefillArgs& args) {
  static const cudaError_t raised =
      cudaFuncSetAttribute(prefill_pairs<kTypeK, kTypeV>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kSharedBytes));
  check(raised, "shared memory of attention");
  launch(queue, prefill_pairs<kTypeK, kTypeV>, grid, kThreads, kSharedBytes, "attention_prefill", args);
}

}  // namespace

bool prefill_sm90a_takes(const AttentionShape& shape) {
  static const int arch = device_arch();
  return arch == 90 && shape.n_heads / shape.n_kv_heads % kConsumers == 0;
}

void prefill_sm90a(const Queue& queue, int n_tiles, const PrefillArgs& args) {
  const dim3 grid(static_cast<unsigned>(args.heads / kConsumers), static_cast<unsigned>(n_tiles));
  const bool quantised_v = args.cache.type_v == DType::q8_0;
  if (args.cache.type_k == DType::q8_0) {
    quantised_v ? start<DType::q8_0, DType::q8_0>(queue, grid, args)
                : start<DType::q8_0, DType::f16>(queue, grid, args);
  } else {
    quantised_v ? start<DType::f16, DType::q8_0>(queue, grid, args)
                : start<DType::f16, DType::f16>(queue, grid, args);
  }
}

}  // namespace fl::cuda
