// The recurrent form: one token of each sequence with everything around it (decode), or short runs of
// prepared tokens.
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/gated_delta.cuh"

namespace fl::cuda {
namespace {

constexpr int kDim = 128;  // of keys and values in the fast kernels
constexpr int kParts = 4;  // threads that share a column of S
constexpr int kRows = kDim / kParts;
constexpr int kStepThreads = kDim * kParts;
constexpr int kStateBytes = kDim * kDim * 4;
constexpr int kStagedBlocks = 3;        // an SM, with their states in shared memory
constexpr int kRegisterBlocks = 2;      // an SM, with their states in registers
constexpr int kStagedBeside = 8 << 10;  // bytes of a staged block beside its state, the driver's included
constexpr int kGenericThreads = 256;
constexpr int kMaxDim = 1024;  // of a head: the largest that a file may have (model/config.cpp)

struct StepArgs {
  DeltaDims dims;
  DeltaWeights w;
  DeltaState state;
  DeltaProjections in;
  const DeltaRun* runs;
  float* mixed;          // prepared q, k, v; o replaces v (runs only)
  float* y;              // step only, any dims
  ActivationWriter out;  // step only, 128
};

// The ring's slot of cache index p.
__device__ __forceinline__ float* ring_slot(const StepArgs& a, float* row, int p) {
  return row + a.state.ring_offset + static_cast<int64_t>(p % a.dims.conv_kernel) * a.dims.conv_channels();
}

// The convolution of channel c in two parts: what earlier inputs give, which needs nothing of this step ...
__device__ __forceinline__ float convolve_past(const StepArgs& a, float* row, const DeltaRun& run, int c) {
  const int k = a.dims.conv_kernel;
  const float* w = a.w.conv + static_cast<int64_t>(c) * k;
  float sum = 0;
  for (int j = 0; j < k - 1; ++j) {
    const int distance = k - 1 - j;
    sum += distance <= run.n_cached ? w[j] * ring_slot(a, row, run.n_cached - distance)[c] : 0.0F;
  }
  return sum;
}
// ... and the token's own input, which the ring gets when this head owns the channel.
__device__ __forceinline__ float convolve_own(const StepArgs& a, float* row, const DeltaRun& run, int c,
                                              float past, float w, bool owner) {
  const float u = a.in.qkv[static_cast<int64_t>(run.first) * a.dims.conv_channels() + c];
  if (owner) {
    ring_slot(a, row, run.n_cached)[c] = u;
  }
  return silu(past + w * u);
}

__device__ __forceinline__ void gates(const StepArgs& a, int token, int head, float& decay, float& beta) {
  const int64_t at = token * a.in.gate_stride + head;
  decay = __expf(log_decay(a.w.a[head], a.in.alpha[at], a.w.dt[head]));
  beta = sigmoid(a.in.beta[at]);
}

// A thread's kRows elements of a column of S: in registers, or in shared memory, where a bulk copy brings
// them while the threads do what comes before.
template <bool kStaged>
struct Column;
template <>
struct Column<false> {
  float s[kRows];
  __device__ __forceinline__ float operator[](int i) const { return s[i]; }
};
template <>
struct Column<true> {
  const float* s;
  __device__ __forceinline__ float operator[](int i) const { return s[i * kDim]; }
};

// Block: one value head of one run. Thread (part, column) has kRows elements of its column of S; with p = S^T
// k and r = S^T q of the old state, d = beta (v - decay p), o = decay r + (k . q) d needs one pass over it.
// kStaged (a step on sm_90): S comes to shared memory, which leaves registers for three blocks an SM: two
// that fetch while one computes.
template <bool kStep, bool kStaged>
__global__ void __launch_bounds__(kStepThreads, kStaged ? kStagedBlocks : kRegisterBlocks)
    delta_128(const StepArgs a) {
  static_assert(kStep || !kStaged, "a state that changes from token to token stays in registers");
  extern __shared__ __align__(128) float staged[];
  __shared__ uint64_t arrived;
  __shared__ __align__(16) float q[kDim];
  __shared__ __align__(16) float k[kDim];
  __shared__ float v[kDim];
  __shared__ __align__(16) float o[kDim];
  __shared__ float2 partial[kParts][kDim];
  let_next_start();
  const DeltaRun run = a.runs[blockIdx.y];
  if (run.n_tokens == 0) {
    wait_for_previous();  // or a kernel behind this one could start too early
    return;
  }
  const int head = static_cast<int>(blockIdx.x);
  const int key_head = head % a.dims.key_heads;
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % kDim;
  const int part = thread / kDim;
  const int lane = thread % kWarp;
  float* row = a.state.base + run.state_row * a.state.row_stride;
  float* s_global = row + static_cast<int64_t>(head) * kDim * kDim + part * kRows * kDim + column;
  if (!kStep) {
    wait_for_previous();  // an earlier piece of the same step may have written the state
  }
  Column<kStaged> s;
  if constexpr (kStaged) {
    s.s = staged + part * kRows * kDim + column;
    if (run.n_cached == 0) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        staged[(part * kRows + i) * kDim + column] = 0;
      }
    } else if (thread == 0) {
      barrier_init(&arrived, 1);
#if __CUDA_ARCH__ >= 900
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      barrier_expect(&arrived, kStateBytes);
      bulk_copy(staged, row + static_cast<int64_t>(head) * kDim * kDim, kStateBytes, &arrived);
#endif
    }
  } else if (run.n_cached == 0) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      s.s[i] = 0;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      s.s[i] = s_global[i * kDim];
    }
  }
  const int qk = a.dims.qk_channels();
  const int channel = part == 0   ? key_head * kDim + column
                      : part == 1 ? qk + key_head * kDim + column
                                  : 2 * qk + head * kDim + column;
  float past = 0;
  float own_weight = 0;
  if (kStep) {
    if (part < 3) {
      past = convolve_past(a, row, run, channel);
      own_weight = a.w.conv[static_cast<int64_t>(channel) * a.dims.conv_kernel + a.dims.conv_kernel - 1];
    }
    wait_for_previous();
  }
  const float q_scale = rsqrtf(static_cast<float>(kDim));
  for (int i = 0; i < run.n_tokens; ++i) {
    const int token = run.first + i;
    if (part < 3) {
      float* const to = part == 0 ? q : part == 1 ? k : v;
      if (kStep) {
        to[column] =
            convolve_own(a, row, run, channel, past, own_weight, part == 2 || head < a.dims.key_heads);
      } else {
        to[column] = a.mixed[static_cast<int64_t>(token) * a.dims.conv_channels() + channel];
      }
    }
    float decay;
    float beta;
    gates(a, token, head, decay, beta);
    __syncthreads();
    if (kStep) {
      if (thread < 2 * kWarp) {
        float* const x = thread < kWarp ? q : k;
        const float scale = warp_l2_scale(x, kDim) * (thread < kWarp ? q_scale : 1.0F);
#pragma unroll
        for (int j = 0; j < kDim / kWarp; ++j) {
          x[lane + j * kWarp] *= scale;
        }
      }
      __syncthreads();
    }
    float kq = 0;
#pragma unroll
    for (int j = 0; j < kDim / kWarp; ++j) {
      kq += k[lane + j * kWarp] * q[lane + j * kWarp];
    }
    kq = warp_sum(kq);
    if (kStaged && run.n_cached != 0) {
      barrier_wait(&arrived, 0);
    }
    float p = 0;
    float r = 0;
#pragma unroll
    for (int j = 0; j < kRows; j += 4) {
      const float4 k4 = *reinterpret_cast<const float4*>(k + part * kRows + j);
      const float4 q4 = *reinterpret_cast<const float4*>(q + part * kRows + j);
      p += s[j] * k4.x + s[j + 1] * k4.y + s[j + 2] * k4.z + s[j + 3] * k4.w;
      r += s[j] * q4.x + s[j + 1] * q4.y + s[j + 2] * q4.z + s[j + 3] * q4.w;
    }
    partial[part][column] = make_float2(p, r);
    __syncthreads();
    p = 0;
    r = 0;
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
      p += partial[j][column].x;
      r += partial[j][column].y;
    }
    const float delta = beta * (v[column] - decay * p);
#pragma unroll
    for (int j = 0; j < kRows; j += 4) {
      const float4 k4 = *reinterpret_cast<const float4*>(k + part * kRows + j);
      const float next[4] = {decay * s[j] + k4.x * delta, decay * s[j + 1] + k4.y * delta,
                             decay * s[j + 2] + k4.z * delta, decay * s[j + 3] + k4.w * delta};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (kStaged) {
          s_global[(j + i) * kDim] = next[i];
        } else {
          s.s[j + i] = next[i];
        }
      }
    }
    const float out = decay * r + kq * delta;
    if (kStep) {
      if (part == 0) {
        o[column] = out;
      }
      __syncthreads();
      if (thread < kWarp) {
        store_head_128(a.out, token, head, a.dims.value_heads, o,
                       a.in.z + static_cast<int64_t>(token) * a.dims.v_channels() + head * kDim, a.w.norm,
                       a.w.eps);
      }
    } else {
      if (part == 0) {
        a.mixed[static_cast<int64_t>(token) * a.dims.conv_channels() + 2 * qk + head * kDim + column] = out;
      }
      __syncthreads();  // q, k, v and the partial sums are free again
    }
  }
  if constexpr (!kStaged) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      s_global[i * kDim] = s[i];
    }
  }
}

// Any dims: a thread owns whole columns, which stay in global memory.
template <bool kStep>
__global__ void __launch_bounds__(kGenericThreads) delta_generic(const StepArgs a) {
  __shared__ float q[kMaxDim];
  __shared__ float k[kMaxDim];
  __shared__ float v[kMaxDim];
  __shared__ float o[kMaxDim];
  let_next_start();
  wait_for_previous();
  const DeltaRun run = a.runs[blockIdx.y];
  if (run.n_tokens == 0) {
    return;
  }
  const int head = static_cast<int>(blockIdx.x);
  const int key_head = head % a.dims.key_heads;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int dk = a.dims.key_dim;
  const int dv = a.dims.value_dim;
  const int qk = a.dims.qk_channels();
  float* row = a.state.base + run.state_row * a.state.row_stride;
  float* s = row + static_cast<int64_t>(head) * dk * dv;
  const float q_scale = rsqrtf(static_cast<float>(dk));
  for (int i = 0; i < run.n_tokens; ++i) {
    const int token = run.first + i;
    const bool fresh = run.n_cached + i == 0;
    for (int e = thread; e < 2 * dk + dv; e += kGenericThreads) {
      const int part = e < dk ? 0 : e < 2 * dk ? 1 : 2;
      const int at = part == 0 ? e : part == 1 ? e - dk : e - 2 * dk;
      const int channel = part == 0   ? key_head * dk + at
                          : part == 1 ? qk + key_head * dk + at
                                      : 2 * qk + head * dv + at;
      float* const to = part == 0 ? q : part == 1 ? k : v;
      to[at] = kStep ? convolve_own(a, row, run, channel, convolve_past(a, row, run, channel),
                                    a.w.conv[static_cast<int64_t>(channel + 1) * a.dims.conv_kernel - 1],
                                    part == 2 || head < a.dims.key_heads)
                     : a.mixed[static_cast<int64_t>(token) * a.dims.conv_channels() + channel];
    }
    float decay;
    float beta;
    gates(a, token, head, decay, beta);
    __syncthreads();
    if (kStep) {
      if (thread < 2 * kWarp) {
        float* const x = thread < kWarp ? q : k;
        const float scale = warp_l2_scale(x, dk) * (thread < kWarp ? q_scale : 1.0F);
        __syncwarp();
        for (int j = lane; j < dk; j += kWarp) {
          x[j] *= scale;
        }
      }
      __syncthreads();
    }
    for (int c = thread; c < dv; c += kGenericThreads) {
      float p = 0;
      for (int j = 0; j < dk && !fresh; ++j) {
        p += s[static_cast<int64_t>(j) * dv + c] * k[j];
      }
      const float delta = beta * (v[c] - decay * p);
      float out = 0;
      for (int j = 0; j < dk; ++j) {
        float* const at = s + static_cast<int64_t>(j) * dv + c;
        const float next = (fresh ? 0.0F : decay * *at) + k[j] * delta;
        *at = next;
        out += next * q[j];
      }
      o[c] = out;
      if (!kStep) {
        a.mixed[static_cast<int64_t>(token) * a.dims.conv_channels() + 2 * qk + head * dv + c] = out;
      }
    }
    __syncthreads();
    if (kStep) {
      const float scale = warp_rms_scale(o, dv, a.w.eps);
      for (int c = thread; c < dv; c += kGenericThreads) {
        const int64_t at = static_cast<int64_t>(token) * a.dims.v_channels() + head * dv + c;
        a.y[at] = o[c] * scale * a.w.norm[c] * silu(a.in.z[at]);
      }
    }
  }
}

// Whether n states go through shared memory: the device has bulk copies and room for kStagedBlocks, and the
// states are more than what its SMs take at once in registers. For fewer it is slower (docs/decisions/0064).
bool stages(DeltaStates where, int n) {
  static const int least = [] {
    int device = 0;
    int per_sm = 0;
    int n_sms = 0;
    check(cudaGetDevice(&device), "device of a kernel");
    check(cudaDeviceGetAttribute(&per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
          "shared memory of an SM");
    check(cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device), "SMs");
    const bool room = per_sm >= kStagedBlocks * (kStateBytes + kStagedBeside);
    return device_arch() >= 90 && room ? kRegisterBlocks * n_sms + 1 : std::numeric_limits<int>::max();
  }();
  return n >= least || (where == DeltaStates::in_shared_memory && least != std::numeric_limits<int>::max());
}

template <bool kStep>
void start(const Queue& queue, const StepArgs& args, int n_runs, bool fast, DeltaStates states) {
  if (n_runs == 0) {
    return;
  }
  const dim3 grid(static_cast<unsigned>(args.dims.value_heads), static_cast<unsigned>(n_runs));
  if (fast && kStep && stages(states, args.dims.value_heads * n_runs)) {
    prepare_shared(delta_128<kStep, kStep>, kStateBytes, "gated_delta");
    launch(queue, delta_128<kStep, kStep>, grid, kStepThreads, kStateBytes, "gated_delta", args);
  } else if (fast) {
    launch(queue, delta_128<kStep, false>, grid, kStepThreads, 0, "gated_delta", args);
  } else {
    launch(queue, delta_generic<kStep>, grid, kGenericThreads, 0, "gated_delta", args);
  }
}

}  // namespace

bool delta_fuses(const DeltaShape& shape) {
  return shape.key_dim == kDim && shape.value_dim == kDim;
}

void gated_delta_step(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                      const DeltaState& state, const DeltaProjections& in, const DeltaRun* runs, int n_runs,
                      const DeltaOutput& out, DeltaStates states) {
  start<true>(queue, {delta_dims(shape, w), w, state, in, runs, nullptr, out.y, writer(out.activations)},
              n_runs, delta_fuses(shape), states);
}

void delta_recurrent(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                     const DeltaState& state, const DeltaProjections& in, const DeltaRun* runs, int n_runs,
                     float* mixed) {
  start<false>(queue, {delta_dims(shape, w), w, state, in, runs, mixed, nullptr, {}}, n_runs,
               delta_fuses(shape), DeltaStates::best);
}

}  // namespace fl::cuda
