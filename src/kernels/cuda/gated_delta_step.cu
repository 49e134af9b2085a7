// The recurrent form: one token of each sequence with everything around it (decode), or short runs of
// prepared tokens.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/gated_delta.cuh"

namespace fl::cuda {
namespace {

constexpr int kDim = 128;  // of keys and values in the fast kernels
constexpr int kParts = 4;  // threads that share a column of S
constexpr int kRows = kDim / kParts;
constexpr int kStepThreads = kDim * kParts;
constexpr int kStateBytes = kDim * kDim * 4;
constexpr int kStagedBlocks = 3;         // an SM, with their states in shared memory
constexpr int kRegisterBlocks = 2;       // an SM, with their states in registers
constexpr int kStagedBeside = 10 << 10;  // bytes of a staged block beside its state, the driver's included
constexpr int kGenericThreads = 256;
constexpr int kMaxDim = 1024;  // of a head: the largest that a file may have (model/config.cpp)

struct StepArgs {
  DeltaDims dims;
  DeltaWeights w;
  DeltaState state;
  DeltaProjections in;
  const DeltaRun* runs;
  int n_items;           // heads of all runs
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
struct RegisterColumn {
  float s[kRows];
  __device__ __forceinline__ float operator[](int i) const { return s[i]; }
};
struct SharedColumn {
  const float* s;
  __device__ __forceinline__ float operator[](int i) const { return s[i * kDim]; }
};

// What the threads of a block share of one token. With p = S^T k and r = S^T q of the old state, d = beta (v
// - decay p), o = decay r + (k . q) d needs one pass over S. Thread (part, column) has kRows rows of a
// column.
struct Shared128 {
  __align__(16) float q[kDim];
  __align__(16) float k[kDim];
  __align__(16) float v[kDim];
  __align__(16) float o[kDim];
  __align__(16) float gate[kDim];  ///< SiLU of z, in a step
  __align__(16) float norm[kDim];  ///< likewise
  float2 partial[kParts][kDim];
};

/// q and k are what lies in shared memory, times these.
struct Scales {
  float q;
  float k;
};

// In every warp the same: k . q.
__device__ __forceinline__ float dot_of_warp(const Shared128& shared, Scales by, int lane) {
  float kq = 0;
#pragma unroll
  for (int j = 0; j < kDim / kWarp; ++j) {
    kq += (shared.k[lane + j * kWarp] * by.k) * (shared.q[lane + j * kWarp] * by.q);
  }
  return warp_sum(kq);
}

__device__ __forceinline__ float4 times(float4 v, float by) {
  return {v.x * by, v.y * by, v.z * by, v.w * by};
}

// (p, r) over a thread's rows.
template <typename Column>
__device__ __forceinline__ float2 old_sums(const Shared128& shared, const Column& s, Scales by, int part) {
  float2 sum{0, 0};
#pragma unroll
  for (int j = 0; j < kRows; j += 4) {
    const float4 k = times(*reinterpret_cast<const float4*>(shared.k + part * kRows + j), by.k);
    const float4 q = times(*reinterpret_cast<const float4*>(shared.q + part * kRows + j), by.q);
    sum.x += s[j] * k.x + s[j + 1] * k.y + s[j + 2] * k.z + s[j + 3] * k.w;
    sum.y += s[j] * q.x + s[j + 1] * q.y + s[j + 2] * q.z + s[j + 3] * q.w;
  }
  return sum;
}
__device__ __forceinline__ float2 sum_of_parts(const Shared128& shared, int column) {
  float2 sum{0, 0};
#pragma unroll
  for (int j = 0; j < kParts; ++j) {
    sum.x += shared.partial[j][column].x;
    sum.y += shared.partial[j][column].y;
  }
  return sum;
}

// S = decay S + k d, element by element to `store`.
template <typename Column, typename Store>
__device__ __forceinline__ void update(const Shared128& shared, const Column& s, Scales by, int part,
                                       float decay, float delta, Store&& store) {
#pragma unroll
  for (int j = 0; j < kRows; j += 4) {
    const float4 k = times(*reinterpret_cast<const float4*>(shared.k + part * kRows + j), by.k);
    const float next[4] = {decay * s[j] + k.x * delta, decay * s[j + 1] + k.y * delta,
                           decay * s[j + 2] + k.z * delta, decay * s[j + 3] + k.w * delta};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      store(j + i, next[i]);
    }
  }
}

// Which channel of the convolution is that of `column` in q, k (of the head's key head) or v.
__device__ __forceinline__ int channel_of(const DeltaDims& dims, int head, int part, int column) {
  const int qk = dims.qk_channels();
  const int key_head = head % dims.key_heads;
  return part == 0   ? key_head * kDim + column
         : part == 1 ? qk + key_head * kDim + column
                     : 2 * qk + head * kDim + column;
}
__device__ __forceinline__ float* input_of(Shared128& shared, int part) {
  return part == 0 ? shared.q : part == 1 ? shared.k : shared.v;
}

/// How a step's blocks go about states: a block for each, in registers or in shared memory (which leaves
/// registers for three blocks on an SM: two that fetch while one computes); or three blocks an SM that stay,
/// so that the next state is on its way when the last sums of one are done.
enum class StepForm { registers, staged, staying };

// A step: one token of each run with everything around it. Block: one value head of one run, or (staying) the
// grid-th ones from its own number on.
template <StepForm kForm>
__global__ void __launch_bounds__(kStepThreads,
                                  kForm == StepForm::registers ? kRegisterBlocks : kStagedBlocks)
    delta_step_128(const StepArgs a) {
  constexpr bool kStaged = kForm != StepForm::registers;
  constexpr bool kStays = kForm == StepForm::staying;
  extern __shared__ __align__(128) float staged[];
  __shared__ uint64_t arrived;
  __shared__ Shared128 shared;
  let_next_start();
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % kDim;
  const int part = thread / kDim;
  const int lane = thread % kWarp;
  const int heads = a.dims.value_heads;
  const auto state_of = [&](int item) {
    return a.state.base + a.runs[item / heads].state_row * a.state.row_stride +
           static_cast<int64_t>(item % heads) * kDim * kDim;
  };
  // One thread; states that begin with this token are no copy.
  const auto fetch = [&](int item) {
#if __CUDA_ARCH__ >= 900
    if (a.runs[item / heads].n_tokens != 0 && a.runs[item / heads].n_cached != 0) {
      barrier_expect(&arrived, kStateBytes);
      bulk_copy(staged, state_of(item), kStateBytes, &arrived);
    }
#endif
  };
  if (kStaged && thread == 0) {
    barrier_init(&arrived, 1);
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
    fetch(static_cast<int>(blockIdx.x));
  }
  bool waits = true;
  uint32_t parity = 0;
  for (int item = static_cast<int>(blockIdx.x); item < a.n_items; item += static_cast<int>(gridDim.x)) {
    const DeltaRun run = a.runs[item / heads];
    const int head = item % heads;
    const int next = item + static_cast<int>(gridDim.x);
    if (run.n_tokens == 0) {
      if (kStays && thread == 0 && next < a.n_items) {
        fetch(next);
      }
      continue;
    }
    float* const row = a.state.base + run.state_row * a.state.row_stride;
    float* const s_global = state_of(item) + part * kRows * kDim + column;
    std::conditional_t<kStaged, SharedColumn, RegisterColumn> s;
    if constexpr (kStaged) {
      float* const mine = staged + part * kRows * kDim + column;
      s.s = mine;
      if (run.n_cached == 0) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          mine[i * kDim] = 0;
        }
#if __CUDA_ARCH__ >= 900
        if constexpr (kStays) {  // before the copy of the next state
          asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        }
#endif
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        s.s[i] = run.n_cached == 0 ? 0.0F : s_global[i * kDim];
      }
    }
    const int channel = channel_of(a.dims, head, part, column);
    float past = 0;
    float own_weight = 0;
    if (part < 3) {
      past = convolve_past(a, row, run, channel);
      own_weight = a.w.conv[static_cast<int64_t>(channel) * a.dims.conv_kernel + a.dims.conv_kernel - 1];
    } else {
      own_weight = a.w.norm[column];
    }
    if (!kStays || waits) {
      waits = false;
      wait_for_previous();
    }
    const int token = run.first;
    if (part < 3) {
      input_of(shared, part)[column] =
          convolve_own(a, row, run, channel, past, own_weight, part == 2 || head < a.dims.key_heads);
    } else {
      past = silu(a.in.z[static_cast<int64_t>(token) * a.dims.v_channels() + head * kDim + column]);
    }
    float decay;
    float beta;
    gates(a, token, head, decay, beta);
    __syncthreads();
    Scales by{1, 1};
    const float q_scale = rsqrtf(static_cast<float>(kDim));
    if constexpr (kStaged) {
      if (thread < 2 * kWarp) {
        float* const x = thread < kWarp ? shared.q : shared.k;
        const float scale = warp_l2_scale(x, kDim) * (thread < kWarp ? q_scale : 1.0F);
#pragma unroll
        for (int j = 0; j < kDim / kWarp; ++j) {
          x[lane + j * kWarp] *= scale;
        }
      }
      __syncthreads();
    } else {  // every warp for itself: a step of few chats waits for nothing as often as for its barriers
      by = {warp_l2_scale(shared.q, kDim) * q_scale, warp_l2_scale(shared.k, kDim)};
    }
    const float kq = dot_of_warp(shared, by, lane);
    if (kStaged && run.n_cached != 0) {
      barrier_wait(&arrived, parity);
      parity ^= 1U;
    }
    shared.partial[part][column] = old_sums(shared, s, by, part);
    __syncthreads();
    const float2 sum = sum_of_parts(shared, column);
    const float delta = beta * (shared.v[column] - decay * sum.x);
    update(shared, s, by, part, decay, delta, [&](int i, float next_s) {
      if constexpr (kStaged) {
        s_global[i * kDim] = next_s;
      } else {
        s.s[i] = next_s;
      }
    });
    if (part == 0) {
      shared.o[column] = decay * sum.y + kq * delta;
    } else if (part == 3) {
      shared.gate[column] = past;
      shared.norm[column] = own_weight;
    }
    __syncthreads();
    if (kStays && thread == kStepThreads - 1 && next < a.n_items) {
      fetch(next);
    }
    if (thread < kWarp) {
      store_head_128(a.out, token, head, heads, shared.o, reinterpret_cast<const float4*>(shared.gate)[lane],
                     reinterpret_cast<const float4*>(shared.norm)[lane], a.w.eps);
    }
    if constexpr (!kStaged) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        s_global[i * kDim] = s[i];
      }
    }
    if constexpr (!kStays) {
      return;
    }
  }
  if (waits) {
    wait_for_previous();  // or a kernel behind this one could start too early
  }
}

// Runs of prepared tokens, one after the other. Block: one value head of one run.
__global__ void __launch_bounds__(kStepThreads, kRegisterBlocks) delta_runs_128(const StepArgs a) {
  __shared__ Shared128 shared;
  let_next_start();
  wait_for_previous();  // an earlier piece of the same step may have written the state
  const int head = static_cast<int>(blockIdx.x) % a.dims.value_heads;
  const DeltaRun run = a.runs[static_cast<int>(blockIdx.x) / a.dims.value_heads];
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % kDim;
  const int part = thread / kDim;
  const int lane = thread % kWarp;
  if (run.n_tokens == 0) {
    return;
  }
  float* const s_global = a.state.base + run.state_row * a.state.row_stride +
                          static_cast<int64_t>(head) * kDim * kDim + part * kRows * kDim + column;
  RegisterColumn s;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    s.s[i] = run.n_cached == 0 ? 0.0F : s_global[i * kDim];
  }
  const int channel = channel_of(a.dims, head, part, column);
  for (int i = 0; i < run.n_tokens; ++i) {
    const int token = run.first + i;
    float* const mixed = a.mixed + static_cast<int64_t>(token) * a.dims.conv_channels();
    if (part < 3) {
      input_of(shared, part)[column] = mixed[channel];
    }
    float decay;
    float beta;
    gates(a, token, head, decay, beta);
    __syncthreads();
    constexpr Scales kNone{1, 1};
    const float kq = dot_of_warp(shared, kNone, lane);
    shared.partial[part][column] = old_sums(shared, s, kNone, part);
    __syncthreads();
    const float2 sum = sum_of_parts(shared, column);
    const float delta = beta * (shared.v[column] - decay * sum.x);
    update(shared, s, kNone, part, decay, delta, [&](int j, float next_s) { s.s[j] = next_s; });
    if (part == 0) {
      mixed[channel_of(a.dims, head, 2, column)] = decay * sum.y + kq * delta;
    }
    __syncthreads();  // q, k, v and the partial sums are free again
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    s_global[i * kDim] = s[i];
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

struct Limits {
  int n_sms;
  bool stages;  ///< the device has bulk copies and room for kStagedBlocks
};
const Limits& limits() {
  static const Limits of_device = [] {
    const int per_sm =
        device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, "shared memory of an SM");
    const int n_sms = device_attribute(cudaDevAttrMultiProcessorCount, "number of SMs");
    return Limits{n_sms, device_arch() >= 90 && per_sm >= kStagedBlocks * (kStateBytes + kStagedBeside)};
  }();
  return of_device;
}

// Through shared memory when there are more states than SMs take at once in registers, by blocks that stay
// when there are more than SMs take at once there (docs/decisions/0064).
StepForm form_of(DeltaStates where, int n_states) {
  const Limits& device = limits();
  if (!device.stages) {
    return StepForm::registers;
  }
  switch (where) {
    case DeltaStates::in_shared_memory:
      return StepForm::staged;
    case DeltaStates::by_staying_blocks:
      return StepForm::staying;
    case DeltaStates::best:
      break;
  }
  return n_states > kStagedBlocks * device.n_sms     ? StepForm::staying
         : n_states > kRegisterBlocks * device.n_sms ? StepForm::staged
                                                     : StepForm::registers;
}

template <StepForm kForm>
void start_step(const Queue& queue, const StepArgs& args) {
  const int grid =
      kForm == StepForm::staying ? std::min(args.n_items, kStagedBlocks * limits().n_sms) : args.n_items;
  const int bytes = kForm == StepForm::registers ? 0 : kStateBytes;
  if (bytes > 0) {
    prepare_shared(delta_step_128<kForm>, bytes, "gated_delta");
  }
  launch(queue, delta_step_128<kForm>, dim3(static_cast<unsigned>(grid)), kStepThreads, bytes, "gated_delta",
         args);
}

template <bool kStep>
void start(const Queue& queue, StepArgs args, int n_runs, bool fast, DeltaStates states) {
  if (n_runs == 0) {
    return;
  }
  args.n_items = args.dims.value_heads * n_runs;
  if (!fast) {
    const dim3 grid(static_cast<unsigned>(args.dims.value_heads), static_cast<unsigned>(n_runs));
    launch(queue, delta_generic<kStep>, grid, kGenericThreads, 0, "gated_delta", args);
  } else if (!kStep) {
    launch(queue, delta_runs_128, dim3(static_cast<unsigned>(args.n_items)), kStepThreads, 0, "gated_delta",
           args);
  } else {
    switch (form_of(states, args.n_items)) {
      case StepForm::registers:
        return start_step<StepForm::registers>(queue, args);
      case StepForm::staged:
        return start_step<StepForm::staged>(queue, args);
      case StepForm::staying:
        return start_step<StepForm::staying>(queue, args);
    }
  }
}

}  // namespace

bool delta_fuses(const DeltaShape& shape) {
  return shape.key_dim == kDim && shape.value_dim == kDim;
}

void gated_delta_step(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                      const DeltaState& state, const DeltaProjections& in, const DeltaRun* runs, int n_runs,
                      const DeltaOutput& out, DeltaStates states) {
  start<true>(queue, {delta_dims(shape, w), w, state, in, runs, 0, nullptr, out.y, writer(out.activations)},
              n_runs, delta_fuses(shape), states);
}

void delta_recurrent(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                     const DeltaState& state, const DeltaProjections& in, const DeltaRun* runs, int n_runs,
                     float* mixed) {
  start<false>(queue, {delta_dims(shape, w), w, state, in, runs, 0, mixed, nullptr, {}}, n_runs,
               delta_fuses(shape), DeltaStates::best);
}

}  // namespace fl::cuda
