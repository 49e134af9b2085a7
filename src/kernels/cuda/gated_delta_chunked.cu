// The chunked form for heads of 128 by 128, in two kernels. With c_i the running sum of the log decays of a
// chunk, T = (I + L)^-1 (kernels/gated_delta.h), the part without the carried state S is, for all chunks at
// once,
//   U = T diag(beta) V,  W = T diag(beta e^c) K,  P_ij = e^(c_i - c_j) (q_i . k_j) for j <= i
// and what remains for each chunk in turn
//   D = U - W S,  O = diag(e^c) Q S + P D,  S <- e^(c_last) S + (diag(e^(c_last - c)) K)^T D.
// Products run on the tensor cores with both operands split into two tf32 numbers: 21 bits of significand, so
// that a long prompt's state is as good as float32 makes it.
#include "kernels/cuda/gated_delta.cuh"
#include "kernels/cuda/mma.cuh"

namespace fl::cuda {
namespace {

constexpr int kDim = 128;
constexpr int kChunk = static_cast<int>(kDeltaChunk);
constexpr int kThreads = 256;
constexpr int kLane =
    kDim + 4;  // floats between rows of K and Q in shared memory: no bank conflicts for A and B^T
constexpr int kLaneV = kDim + 8;  // of V, read as B
constexpr int kLaneL = kChunk + 4;
constexpr int kLeaf = 16;             // diagonal blocks of I + L that are inverted row by row
constexpr int kAhead = 2;             // windows that the second kernel loads ahead
constexpr int kColumns = 32;          // of S, per block of the second kernel
constexpr int kLaneS = kColumns + 2;  // its rows are read at distance 4, see scan_chunks

struct ChunkArgs {
  DeltaDims dims;
  DeltaWeights w;
  DeltaState state;
  const float* alpha;
  const float* beta;
  int64_t gate_stride;
  const DeltaRun* chunks;
  const int32_t* sequence_begin;
  float* mixed;  // q, k, v -> U -> o
  float* spare;  // see spare_*
};

// The spare row of a token: W of all heads, P of all heads, e^c of all heads, e^(c_last - c) of all heads.
__device__ __forceinline__ int64_t spare_w(const DeltaDims& d, int64_t token, int head) {
  return token * d.conv_channels() + head * kDim;
}
__device__ __forceinline__ int64_t spare_p(const DeltaDims& d, int64_t token, int head) {
  return token * d.conv_channels() + d.value_heads * kDim + head * kChunk;
}
__device__ __forceinline__ int64_t spare_decay(const DeltaDims& d, int64_t token, int head) {
  return token * d.conv_channels() + d.value_heads * (kDim + kChunk) + head;
}
__device__ __forceinline__ int64_t spare_decay_left(const DeltaDims& d, int64_t token, int head) {
  return spare_decay(d, token, head) + d.value_heads;
}
constexpr int kSpare = kDim + kChunk + 2;  // floats of a value head

struct PrepareShared {
  float k[kChunk][kLane];
  union {
    float q[kChunk][kLane];
    float v[kChunk][kLaneV];
    float product[kChunk][kLaneL];  // between the two
  };
  float l[kChunk][kLaneL];  // L, then T
  float c[kChunk];          // the running sums are c + c_rest
  float c_rest[kChunk];
  float beta[kChunk];
};

// Accumulators of `kTiles` n-tiles for rows m .. m + 15 += A B, A from rows of floats; b(k, n) gives B.
template <int kTiles, typename LoadA, typename LoadB>
__device__ __forceinline__ void product(float (&acc)[kTiles][4], int k_begin, int k_end, LoadA&& a,
                                        LoadB&& b) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  for (int k0 = k_begin; k0 < k_end; k0 += 8) {
    SplitA fa;
    fa.set(0, a(g, k0 + t));
    fa.set(1, a(g + 8, k0 + t));
    fa.set(2, a(g, k0 + t + 4));
    fa.set(3, a(g + 8, k0 + t + 4));
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      SplitB fb;
      fb.set(0, b(k0 + t, 8 * n + g));
      fb.set(1, b(k0 + t + 4, 8 * n + g));
      mma_split(acc[n], fa, fb);
    }
  }
}

// The inverse of the unit lower triangular matrix I + L in place: leaves by substitution, then pairs of
// blocks, [A 0; B C]^-1 = [A^-1 0; -C^-1 B A^-1, C^-1]. Float arithmetic throughout: entries of L reach 1.
__device__ void invert(PrepareShared& s) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kChunk) {
    const int base = thread / kLeaf * kLeaf;
    const int column = thread % kLeaf;
    float x[kLeaf];
#pragma unroll
    for (int i = 0; i < kLeaf; ++i) {
      float sum = i == column ? 1.0F : 0.0F;
#pragma unroll
      for (int j = 0; j < i; ++j) {
        sum -= s.l[base + i][base + j] * x[j];
      }
      x[i] = sum;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kLeaf; ++i) {
      s.l[base + i][base + column] = x[i];
    }
  }
  for (int size = kLeaf; size < kChunk; size *= 2) {
    __syncthreads();
    // product = B A^-1 for every pair, then B <- -C^-1 product.
    const int n_elements = kChunk / 2 * size;
    for (int e = thread; e < n_elements; e += kThreads) {
      const int pair = e / (size * size);
      const int i = e % (size * size) / size;
      const int j = e % size;
      const int base = pair * 2 * size;
      float sum = 0;
      for (int k = j; k < size; ++k) {
        sum += s.l[base + size + i][base + k] * s.l[base + k][base + j];
      }
      s.product[base + i][j] = sum;
    }
    __syncthreads();
    for (int e = thread; e < n_elements; e += kThreads) {
      const int pair = e / (size * size);
      const int i = e % (size * size) / size;
      const int j = e % size;
      const int base = pair * 2 * size;
      float sum = 0;
      for (int k = 0; k <= i; ++k) {
        sum += s.l[base + size + i][base + size + k] * s.product[base + k][j];
      }
      s.l[base + size + i][base + j] = -sum;
    }
  }
  __syncthreads();
}

// Grid: value heads, chunks.
__global__ void __launch_bounds__(kThreads) prepare_chunks(const ChunkArgs a) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  PrepareShared& s = *reinterpret_cast<PrepareShared*>(shared_bytes);
  const DeltaRun chunk = a.chunks[blockIdx.y];
  const int head = static_cast<int>(blockIdx.x);
  const int key_head = head % a.dims.key_heads;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int n = chunk.n_tokens;
  const int qk = a.dims.qk_channels();
  const int64_t width = a.dims.conv_channels();
  const float* rows = a.mixed + static_cast<int64_t>(chunk.first) * width;

  for (int e = thread; e < kChunk * kDim / 4; e += kThreads) {
    const int i = e / (kDim / 4);
    const int d = e % (kDim / 4) * 4;
    const float4 zero = make_float4(0, 0, 0, 0);
    const float* from = rows + i * width + key_head * kDim + d;
    *reinterpret_cast<float4*>(&s.q[i][d]) = i < n ? *reinterpret_cast<const float4*>(from) : zero;
    *reinterpret_cast<float4*>(&s.k[i][d]) = i < n ? *reinterpret_cast<const float4*>(from + qk) : zero;
  }
  if (warp == 0) {
    // The sums reach hundreds: in float their rounding alone would show in the state (docs/decisions/0001). A
    // lane has two neighbouring tokens.
    double sums[2];
    for (int e = 0; e < 2; ++e) {
      const int i = 2 * lane + e;
      const int64_t at = (chunk.first + i) * a.gate_stride + head;
      sums[e] = i < n ? static_cast<double>(log_decay(a.w.a[head], a.alpha[at], a.w.dt[head])) : 0.0;
      s.beta[i] = i < n ? sigmoid(a.beta[at]) : 0.0F;
    }
    sums[1] += sums[0];
    double before = sums[1];
    for (int step = 1; step < kWarp; step *= 2) {
      const double other = __shfl_up_sync(0xFFFFFFFFU, before, step);
      before += lane >= step ? other : 0.0;
    }
    const double last = __shfl_sync(0xFFFFFFFFU, before, kWarp - 1);
    before -= sums[1];
    for (int e = 0; e < 2; ++e) {
      const int i = 2 * lane + e;
      const double c = before + sums[e];
      s.c[i] = static_cast<float>(c);
      s.c_rest[i] = static_cast<float>(c - static_cast<double>(s.c[i]));
      if (i < n) {
        a.spare[spare_decay(a.dims, chunk.first + i, head)] = expf(static_cast<float>(c));
        a.spare[spare_decay_left(a.dims, chunk.first + i, head)] = expf(static_cast<float>(last - c));
      }
    }
  }
  __syncthreads();

  const int m = warp % 4 * 16;
  {  // K K^T and Q K^T: a warp has 16 rows and 32 columns of both
    const int n0 = warp / 4 * 32;
    float kk[4][4] = {};
    float qk_product[4][4] = {};
    const auto b = [&](int k, int col) { return s.k[n0 + col][k]; };
    product(
        kk, 0, kDim, [&](int r, int k) { return s.k[m + r][k]; }, b);
    product(
        qk_product, 0, kDim, [&](int r, int k) { return s.q[m + r][k]; }, b);
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = m + g + e / 2 * 8;
        const int j = n0 + tile * 8 + 2 * t + e % 2;
        const float decay = j <= i ? __expf((s.c[i] - s.c[j]) + (s.c_rest[i] - s.c_rest[j])) : 0.0F;
        s.l[i][j] = j < i ? s.beta[i] * decay * kk[tile][e] : i == j ? 1.0F : 0.0F;
        if (i < n) {
          a.spare[spare_p(a.dims, chunk.first + i, head) + j] = decay * qk_product[tile][e];
        }
      }
    }
  }
  __syncthreads();
  invert(s);
  for (int e = thread; e < kChunk * kDim / 4; e += kThreads) {
    const int i = e / (kDim / 4);
    const int d = e % (kDim / 4) * 4;
    *reinterpret_cast<float4*>(&s.v[i][d]) =
        i < n ? *reinterpret_cast<const float4*>(rows + i * width + 2 * qk + head * kDim + d)
              : make_float4(0, 0, 0, 0);
  }
  __syncthreads();
  {  // U and W: 16 rows and 64 columns of both; T ends at the diagonal
    const int n0 = warp / 4 * 64;
    float u[8][4] = {};
    float w[8][4] = {};
    product(
        u, 0, m + 16, [&](int r, int k) { return s.l[m + r][k] * s.beta[k]; },
        [&](int k, int col) { return s.v[k][n0 + col]; });
    product(
        w, 0, m + 16, [&](int r, int k) { return s.l[m + r][k] * (s.beta[k] * __expf(s.c[k])); },
        [&](int k, int col) { return s.k[k][n0 + col]; });
#pragma unroll
    for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = m + g + half * 8;
        if (i < n) {
          const int col = n0 + tile * 8 + 2 * t;
          const int64_t token = chunk.first + i;
          *reinterpret_cast<float2*>(a.mixed + token * width + 2 * qk + head * kDim + col) =
              make_float2(u[tile][2 * half], u[tile][2 * half + 1]);
          *reinterpret_cast<float2*>(a.spare + spare_w(a.dims, token, head) + col) =
              make_float2(w[tile][2 * half], w[tile][2 * half + 1]);
        }
      }
    }
  }
}

__device__ __forceinline__ float4 load4(const float* from, bool there) {
  return there ? *reinterpret_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
}

// A of the scan's products comes straight from global memory in float4s: in a window of 16 columns lane t
// holds columns 4t .. 4t + 3 of rows g and g + 8, which are the k of two instructions in another order; the
// rows of B, in shared memory, are read in that order (hence kLaneS).
struct Window {
  float4 g;
  float4 g8;
};
__device__ __forceinline__ Window load_window(const float* row_g, const float* row_g8, int column, bool has_g,
                                              bool has_g8) {
  return {load4(row_g + column, has_g), load4(row_g8 + column, has_g8)};
}
__device__ __forceinline__ SplitA window_fragment(const Window& w, int step) {
  SplitA a;
  a.set(0, step == 0 ? w.g.x : w.g.z);
  a.set(1, step == 0 ? w.g8.x : w.g8.z);
  a.set(2, step == 0 ? w.g.y : w.g.w);
  a.set(3, step == 0 ? w.g8.y : w.g8.w);
  return a;
}
__device__ __forceinline__ SplitB scan_fragment(const float (*b)[kLaneS], int k, int n) {
  SplitB f;
  f.set(0, b[k][n]);
  f.set(1, b[k + 1][n]);
  return f;
}

// Grid: column blocks of S, value heads, sequences. Walks through a sequence's chunks.
__global__ void __launch_bounds__(kThreads, 2) scan_chunks(const ChunkArgs a) {
  __shared__ float s[kDim][kLaneS];
  __shared__ float d[kChunk][kLaneS];
  __shared__ float decay[kChunk];       // e^c
  __shared__ float decay_left[kChunk];  // e^(c_last - c)
  const int head = static_cast<int>(blockIdx.y);
  const int key_head = head % a.dims.key_heads;
  const int column0 = static_cast<int>(blockIdx.x) * kColumns;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int begin = a.sequence_begin[blockIdx.z];
  const int end = a.sequence_begin[blockIdx.z + 1];
  if (begin == end) {
    return;
  }
  const DeltaRun first = a.chunks[begin];
  const int64_t width = a.dims.conv_channels();
  const int qk = a.dims.qk_channels();
  float* global = a.state.base + first.state_row * a.state.row_stride +
                  static_cast<int64_t>(head) * kDim * kDim + column0;

  // The warp's 16 rows of S (dims); rows g and g + 8 of the accumulator are dims 2g and 2g + 1.
  const int dim0 = warp * 16;
  float acc[kColumns / 8][4];
#pragma unroll
  for (int tile = 0; tile < kColumns / 8; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = dim0 + 2 * g + half;
      const int col = tile * 8 + 2 * t;
      const float2 v =
          first.n_cached == 0
              ? make_float2(0, 0)
              : *reinterpret_cast<const float2*>(global + static_cast<int64_t>(row) * kDim + col);
      acc[tile][2 * half] = v.x;
      acc[tile][2 * half + 1] = v.y;
      *reinterpret_cast<float2*>(&s[row][col]) = v;
    }
  }

  const int m = warp % 4 * 16;   // rows (tokens) of D and O
  const int n0 = warp / 4 * 16;  // their columns
  for (int index = begin; index < end; ++index) {
    const DeltaRun chunk = a.chunks[index];
    const int n = chunk.n_tokens;
    if (thread < kChunk) {
      const bool there = thread < n;
      decay[thread] = there ? a.spare[spare_decay(a.dims, chunk.first + thread, head)] : 0.0F;
      decay_left[thread] = there ? a.spare[spare_decay_left(a.dims, chunk.first + thread, head)] : 0.0F;
    }
    const bool has_g = m + g < n;
    const bool has_g8 = m + g + 8 < n;
    const int64_t token_g = chunk.first + m + g;
    float* const u_g = a.mixed + token_g * width + 2 * qk + head * kDim + column0 + n0 + 2 * t;
    float2 u[2][2];
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      u[tile][0] = has_g ? *reinterpret_cast<const float2*>(u_g + tile * 8) : make_float2(0, 0);
      u[tile][1] = has_g8 ? *reinterpret_cast<const float2*>(u_g + 8 * width + tile * 8) : make_float2(0, 0);
    }
    float ws[2][4] = {};
    float o[2][4] = {};
    {  // W S and Q S, whose B is the same
      const float* w_g = a.spare + spare_w(a.dims, token_g, head) + 4 * t;
      const float* w_g8 = w_g + 8 * width;
      const float* q_g = a.mixed + token_g * width + key_head * kDim + 4 * t;
      const float* q_g8 = q_g + 8 * width;
      Window w[kAhead];
      Window q[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        w[i] = load_window(w_g, w_g8, 16 * i, has_g, has_g8);
        q[i] = load_window(q_g, q_g8, 16 * i, has_g, has_g8);
      }
      __syncthreads();  // S, decay
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        const Window w_now = w[i % kAhead];
        const Window q_now = q[i % kAhead];
        if (i + kAhead < kDim / 16) {
          w[i % kAhead] = load_window(w_g, w_g8, 16 * (i + kAhead), has_g, has_g8);
          q[i % kAhead] = load_window(q_g, q_g8, 16 * (i + kAhead), has_g, has_g8);
        }
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const SplitA fw = window_fragment(w_now, step);
          const SplitA fq = window_fragment(q_now, step);
#pragma unroll
          for (int tile = 0; tile < 2; ++tile) {
            const SplitB fb = scan_fragment(s, 16 * i + 4 * t + 2 * step, n0 + tile * 8 + g);
            mma_split(ws[tile], fw, fb);
            mma_split(o[tile], fq, fb);
          }
        }
      }
    }
    const float* p_g = a.spare + spare_p(a.dims, token_g, head) + 4 * t;
    const int p_windows = m / 16 + 1;  // P ends at the diagonal
    Window p[kChunk / 16];
#pragma unroll
    for (int i = 0; i < kChunk / 16; ++i) {
      p[i] = load_window(p_g, p_g + 8 * width, 16 * i, has_g && i < p_windows, has_g8 && i < p_windows);
    }
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = m + g + 8 * half;  // rows from n on are zero: so are their U and W
        *reinterpret_cast<float2*>(&d[i][n0 + tile * 8 + 2 * t]) =
            make_float2(u[tile][half].x - ws[tile][2 * half], u[tile][half].y - ws[tile][2 * half + 1]);
        o[tile][2 * half] *= decay[i];
        o[tile][2 * half + 1] *= decay[i];
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kChunk / 16; ++i) {
      if (i < p_windows) {
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const SplitA fp = window_fragment(p[i], step);
#pragma unroll
          for (int tile = 0; tile < 2; ++tile) {
            mma_split(o[tile], fp, scan_fragment(d, 16 * i + 4 * t + 2 * step, n0 + tile * 8 + g));
          }
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      if (has_g) {
        *reinterpret_cast<float2*>(u_g + tile * 8) = make_float2(o[tile][0], o[tile][1]);
      }
      if (has_g8) {
        *reinterpret_cast<float2*>(u_g + 8 * width + tile * 8) = make_float2(o[tile][2], o[tile][3]);
      }
    }
    // S <- e^(c_last) S + (e^(c_last - c) K)^T D: A is K transposed, its columns in the order in which D's
    // rows are read.
    const float all = decay[n - 1];
#pragma unroll
    for (int tile = 0; tile < kColumns / 8; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        acc[tile][e] *= all;
      }
    }
    const float* keys =
        a.mixed + static_cast<int64_t>(chunk.first) * width + qk + key_head * kDim + dim0 + 2 * g;
#pragma unroll
    for (int window = 0; window < kChunk / 16; ++window) {
      float2 k[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int token = 16 * window + 4 * t + e;
        k[e] = token < n ? *reinterpret_cast<const float2*>(keys + token * width) : make_float2(0, 0);
        k[e].x *= decay_left[token];
        k[e].y *= decay_left[token];
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        SplitA fa;
        fa.set(0, k[2 * step].x);
        fa.set(1, k[2 * step].y);
        fa.set(2, k[2 * step + 1].x);
        fa.set(3, k[2 * step + 1].y);
#pragma unroll
        for (int tile = 0; tile < kColumns / 8; ++tile) {
          mma_split(acc[tile], fa, scan_fragment(d, 16 * window + 4 * t + 2 * step, tile * 8 + g));
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kColumns / 8; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(&s[dim0 + 2 * g + half][tile * 8 + 2 * t]) =
            make_float2(acc[tile][2 * half], acc[tile][2 * half + 1]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int tile = 0; tile < kColumns / 8; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float2*>(global + static_cast<int64_t>(dim0 + 2 * g + half) * kDim + tile * 8 +
                                 2 * t) = make_float2(acc[tile][2 * half], acc[tile][2 * half + 1]);
    }
  }
}

}  // namespace

bool delta_chunked_supported(const DeltaShape& s) {
  const int64_t spare = s.n_value_heads * kSpare;
  return s.key_dim == kDim && s.value_dim == kDim && spare <= s.conv_channels();
}

void delta_chunked(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                   const DeltaState& state, const DeltaProjections& in, const DeltaRun* chunks, int n_chunks,
                   const int32_t* sequence_begin, int n_sequences, float* mixed, float* spare) {
  if (n_chunks == 0) {
    return;
  }
  const ChunkArgs args{delta_dims(shape, w), w,      state,          in.alpha, in.beta,
                       in.gate_stride,       chunks, sequence_begin, mixed,    spare};
  static const cudaError_t raised = cudaFuncSetAttribute(
      prepare_chunks, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(PrepareShared)));
  check(raised, "shared memory of the delta rule's chunks");
  const Queue serial{queue.stream, false};
  const auto heads = static_cast<unsigned>(args.dims.value_heads);
  launch(serial, prepare_chunks, dim3(heads, static_cast<unsigned>(n_chunks)), kThreads,
         sizeof(PrepareShared), "delta_chunks", args);
  launch(serial, scan_chunks, dim3(kDim / kColumns, heads, static_cast<unsigned>(n_sequences)), kThreads, 0,
         "delta_scan", args);
}

}  // namespace fl::cuda
