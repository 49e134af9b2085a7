// Prompts: what goes before and after the rule, head by head.
#include "kernels/cuda/gated_delta.cuh"

namespace fl::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxDim = 1024;  // of a head: the largest that a file may have (model/config.cpp)

struct PrepareArgs {
  DeltaDims dims;
  DeltaWeights w;
  DeltaState state;
  const float* qkv;
  const DeltaRun* runs;
  float* mixed;
};

// A warp takes one head (of q, k or v) of one token. Grid: heads, tiles of kWarps tokens, runs.
__global__ void __launch_bounds__(kWarps* kWarp) convolve_heads(const PrepareArgs a) {
  __shared__ float values[kWarps][kMaxDim];
  let_next_start();
  wait_for_previous();
  const DeltaRun run = a.runs[blockIdx.z];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int i = static_cast<int>(blockIdx.y) * kWarps + warp;
  if (i >= run.n_tokens) {
    return;
  }
  const int unit = static_cast<int>(blockIdx.x);  // q heads, k heads, v heads
  const bool is_value = unit >= 2 * a.dims.key_heads;
  const int dim = is_value ? a.dims.value_dim : a.dims.key_dim;
  const int first_channel =
      is_value ? 2 * a.dims.qk_channels() + (unit - 2 * a.dims.key_heads) * dim : unit * dim;
  const int64_t width = a.dims.conv_channels();
  const int kernel = a.dims.conv_kernel;
  const int p = run.n_cached + i;
  const int64_t token = run.first + i;
  const float* ring = a.state.base + run.state_row * a.state.row_stride + a.state.ring_offset;
  float* const x = values[warp];
  for (int d = lane; d < dim; d += kWarp) {
    const int c = first_channel + d;
    x[d] = convolve(a.w.conv + static_cast<int64_t>(c) * kernel, kernel, p, a.qkv[token * width + c],
                    [&](int distance) {
                      return distance <= i ? a.qkv[(token - distance) * width + c]
                                           : ring[(p - distance) % kernel * width + c];
                    });
  }
  float scale = 1;
  if (!is_value) {
    __syncwarp();
    scale = warp_l2_scale(x, dim);
    if (unit < a.dims.key_heads) {
      scale *= rsqrtf(static_cast<float>(dim));
    }
  }
  for (int d = lane; d < dim; d += kWarp) {
    a.mixed[token * width + first_channel + d] = x[d] * scale;
  }
}

constexpr int kFastDim = 128;
constexpr int kFastKernel = 4;
constexpr int kFastTokens = 8;  // neighbours that a warp takes, so that weights and history are read once
constexpr int kLaneChannels = kFastDim / kWarp;

// The same for heads of 128 and four taps. Grid: heads, tiles of kWarps * kFastTokens tokens, runs.
__global__ void __launch_bounds__(kWarps* kWarp) convolve_heads_128(const PrepareArgs a) {
  let_next_start();
  wait_for_previous();
  const DeltaRun run = a.runs[blockIdx.z];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int begin =
      (static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarp) * kFastTokens;
  if (begin >= run.n_tokens) {
    return;
  }
  const int unit = static_cast<int>(blockIdx.x);
  const int64_t width = a.dims.conv_channels();
  const float* ring = a.state.base + run.state_row * a.state.row_stride + a.state.ring_offset;
  const int c = unit * kFastDim + lane;  // the lane has c, c + 32, c + 64, c + 96
  float4 w[kLaneChannels];
  float past[kLaneChannels][kFastKernel - 1];  // distance 1, 2, 3
#pragma unroll
  for (int j = 0; j < kLaneChannels; ++j) {
    w[j] = reinterpret_cast<const float4*>(a.w.conv)[c + kWarp * j];
#pragma unroll
    for (int distance = 1; distance < kFastKernel; ++distance) {
      const int p = run.n_cached + begin - distance;
      const int channel = c + kWarp * j;
      past[j][distance - 1] = p < 0               ? 0.0F
                              : distance <= begin ? a.qkv[(run.first + begin - distance) * width + channel]
                                                  : ring[p % kFastKernel * width + channel];
    }
  }
  // All inputs are asked for before the first is used: the loop would wait for memory with each token.
  float inputs[kFastTokens][kLaneChannels];
#pragma unroll
  for (int i = 0; i < kFastTokens; ++i) {
    const bool there = begin + i < run.n_tokens;
#pragma unroll
    for (int j = 0; j < kLaneChannels; ++j) {
      inputs[i][j] = there ? a.qkv[(run.first + begin + i) * width + c + kWarp * j] : 0.0F;
    }
  }
#pragma unroll
  for (int i = 0; i < kFastTokens; ++i) {
    if (begin + i >= run.n_tokens) {
      break;
    }
    const int64_t at = (run.first + begin + i) * width + c;
    float x[kLaneChannels];
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kLaneChannels; ++j) {
      const float u = inputs[i][j];
      float sum = w[j].x * past[j][2];
      sum += w[j].y * past[j][1];
      sum += w[j].z * past[j][0];
      x[j] = silu(sum + w[j].w * u);
      squares += x[j] * x[j];
      past[j][2] = past[j][1];
      past[j][1] = past[j][0];
      past[j][0] = u;
    }
    float scale = 1;
    if (unit < 2 * a.dims.key_heads) {
      scale = rsqrtf(warp_sum(squares) + static_cast<float>(kL2NormEps));
      if (unit < a.dims.key_heads) {
        scale *= rsqrtf(static_cast<float>(kFastDim));
      }
    }
#pragma unroll
    for (int j = 0; j < kLaneChannels; ++j) {
      a.mixed[at + kWarp * j] = x[j] * scale;
    }
  }
}

// The last inputs of each run go into its ring.
__global__ void update_rings(const PrepareArgs a) {
  let_next_start();
  wait_for_previous();
  const DeltaRun run = a.runs[blockIdx.y];
  const int c = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int width = a.dims.conv_channels();
  if (c >= width) {
    return;
  }
  float* ring = a.state.base + run.state_row * a.state.row_stride + a.state.ring_offset;
  for (int i = max(0, run.n_tokens - a.dims.conv_kernel); i < run.n_tokens; ++i) {
    const int slot = (run.n_cached + i) % a.dims.conv_kernel;
    ring[static_cast<int64_t>(slot) * width + c] = a.qkv[static_cast<int64_t>(run.first + i) * width + c];
  }
}

struct NormArgs {
  DeltaDims dims;
  DeltaWeights w;
  const float* mixed;
  const float* z;
  const DeltaRun* runs;
  float* y;
  ActivationWriter out;
  bool fused;
};

__global__ void __launch_bounds__(kWarps* kWarp) norm_heads(const NormArgs a) {
  let_next_start();
  wait_for_previous();
  const DeltaRun run = a.runs[blockIdx.z];
  const int i = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (i >= run.n_tokens) {
    return;
  }
  const int head = static_cast<int>(blockIdx.x);
  const int dv = a.dims.value_dim;
  const int64_t token = run.first + i;
  const float* o = a.mixed + token * a.dims.conv_channels() + 2 * a.dims.qk_channels() + head * dv;
  if (a.fused) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const float4 z = reinterpret_cast<const float4*>(a.z + token * a.dims.v_channels() + head * dv)[lane];
    store_head_128(a.out, static_cast<int>(token), head, a.dims.value_heads, o,
                   make_float4(silu(z.x), silu(z.y), silu(z.z), silu(z.w)),
                   reinterpret_cast<const float4*>(a.w.norm)[lane], a.w.eps);
    return;
  }
  const float scale = warp_rms_scale(o, dv, a.w.eps);
  const int64_t at = token * a.dims.v_channels() + head * dv;
  for (int c = static_cast<int>(threadIdx.x) % kWarp; c < dv; c += kWarp) {
    a.y[at + c] = o[c] * scale * a.w.norm[c] * silu(a.z[at + c]);
  }
}

unsigned tiles(int n, int size) {
  return static_cast<unsigned>((n + size - 1) / size);
}

}  // namespace

void delta_convolve(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w,
                    const DeltaState& state, const float* qkv, const DeltaRun* runs, int n_runs,
                    int max_run_tokens, float* mixed) {
  if (n_runs == 0) {
    return;
  }
  const PrepareArgs args{delta_dims(shape, w), w, state, qkv, runs, mixed};
  const auto heads = static_cast<unsigned>(2 * args.dims.key_heads + args.dims.value_heads);
  if (delta_fuses(shape) && args.dims.conv_kernel == kFastKernel) {
    launch(queue, convolve_heads_128,
           dim3(heads, tiles(max_run_tokens, kWarps * kFastTokens), static_cast<unsigned>(n_runs)),
           kWarps * kWarp, 0, "delta_convolve", args);
  } else {
    launch(queue, convolve_heads, dim3(heads, tiles(max_run_tokens, kWarps), static_cast<unsigned>(n_runs)),
           kWarps * kWarp, 0, "delta_convolve", args);
  }
  launch(queue, update_rings,
         dim3(tiles(args.dims.conv_channels(), kWarps * kWarp), static_cast<unsigned>(n_runs)),
         kWarps * kWarp, 0, "delta_rings", args);
}

void delta_norm(const Queue& queue, const DeltaShape& shape, const DeltaWeights& w, const float* mixed,
                const float* z, const DeltaRun* runs, int n_runs, int max_run_tokens,
                const DeltaOutput& out) {
  if (n_runs == 0) {
    return;
  }
  const NormArgs args{delta_dims(shape, w), w, mixed, z, runs, out.y, writer(out.activations),
                      delta_fuses(shape)};
  launch(queue, norm_heads,
         dim3(static_cast<unsigned>(args.dims.value_heads), tiles(max_run_tokens, kWarps),
              static_cast<unsigned>(n_runs)),
         kWarps * kWarp, 0, "delta_norm", args);
}

}  // namespace fl::cuda
