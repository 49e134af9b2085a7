// Angles, norm and rotation of queries and keys, and the write into the cache.
#include "kernels/cuda/attention_head.cuh"
#include "kernels/cuda/kv_layout.cuh"

namespace fl::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxHeadDim = 1024;  // the largest that a file may have (model/config.cpp)

struct Shape {
  int heads, kv_heads, head_dim;
};

// A warp takes one head of one token: the queries' heads first, then keys, then values. Grid: tokens, tiles
// of heads. Heads have at most 32 kPerLane dims.
template <int kPerLane>
__global__ void __launch_bounds__(kWarps* kWarp)
    prepare(const Shape shape, const KvCache cache, const PrepareAttention in) {
  extern __shared__ float rows[];
  let_next_start();
  wait_for_previous();
  const int token = static_cast<int>(blockIdx.x);
  const int slot = in.tokens[token].slot;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int unit = static_cast<int>(blockIdx.y) * kWarps + warp;
  if (slot < 0 || unit >= shape.heads + 2 * shape.kv_heads) {
    return;
  }
  const int hd = shape.head_dim;
  const bool is_query = unit < shape.heads;
  const bool is_key = !is_query && unit < shape.heads + shape.kv_heads;
  const int head = is_query ? unit : is_key ? unit - shape.heads : unit - shape.heads - shape.kv_heads;
  float* const query = in.queries.q + token * in.queries.stride + static_cast<int64_t>(head) * 2 * hd;
  const float* const from =
      is_query ? query : (is_key ? in.k : in.v) + token * in.kv_stride + static_cast<int64_t>(head) * hd;
  const float* const norm = is_query ? in.q_norm : is_key ? in.k_norm : nullptr;
  float x[kPerLane];
  load_head(from, norm, in.cos_sin + static_cast<int64_t>(token) * 2 * in.pairs, in.pairs, in.eps, hd,
            rows + warp * hd, lane, x);
  const int64_t block_head = static_cast<int64_t>(slot / kBlock) * shape.kv_heads + head;
  const int at = slot % kBlock;
  const DType type = is_key ? cache.type_k : cache.type_v;
  std::byte* const to = (is_key ? cache.k : cache.v) + block_head * kv_bytes(type, hd);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = kWarp * i + lane;
    const bool active = d < hd;
    const float value = x[i];
    if (kWarp * i >= hd) {
      break;
    }
    if (is_query) {
      if (active) {
        query[d] = value;
      }
    } else if (is_key) {
      kv_store<true>(type, to, hd, at, d, value, active);
    } else {
      kv_store<false>(type, to, hd, at, d, value, active);
    }
  }
}

__global__ void angles(const float* frequency, const uint8_t* axis, float magnitude, int pairs,
                       const int32_t* positions, int n_tokens, float* cos_sin) {
  let_next_start();
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n_tokens * pairs) {
    return;
  }
  const int token = i / pairs;
  const int pair = i % pairs;
  // The product is rounded to float, as in the official implementation; its sine and cosine are accurate.
  const float phi = __fmul_rn(static_cast<float>(positions[3 * token + axis[pair]]), frequency[pair]);
  float sine;
  float cosine;
  sincosf(phi, &sine, &cosine);
  float* const to = cos_sin + static_cast<int64_t>(token) * 2 * pairs;
  to[pair] = cosine * magnitude;
  to[pairs + pair] = sine * magnitude;
}

}  // namespace

void prepare_attention(const Queue& queue, const AttentionShape& shape, const KvCache& cache,
                       const PrepareAttention& in) {
  static_assert(kWarps * kMaxHeadDim * sizeof(float) <= 48 * 1024);
  const Shape s{static_cast<int>(shape.n_heads), static_cast<int>(shape.n_kv_heads),
                static_cast<int>(shape.head_dim)};
  const int units = s.heads + 2 * s.kv_heads;
  constexpr int kFew = 8;
  launch(queue, s.head_dim <= kFew * kWarp ? prepare<kFew> : prepare<kMaxHeadDim / kWarp>,
         dim3(static_cast<unsigned>(in.n_tokens), static_cast<unsigned>((units + kWarps - 1) / kWarps)),
         kWarps * kWarp, static_cast<size_t>(kWarps * s.head_dim) * sizeof(float), "prepare_attention", s,
         cache, in);
}

void rope_angles(const Queue& queue, const float* frequency, const uint8_t* axis, float magnitude, int pairs,
                 const int32_t* positions, int n_tokens, float* cos_sin) {
  constexpr int kThreads = 128;
  launch(queue, angles, static_cast<unsigned>((n_tokens * pairs + kThreads - 1) / kThreads), kThreads, 0,
         "rope_angles", frequency, axis, magnitude, pairs, positions, n_tokens, cos_sin);
}

}  // namespace fl::cuda
