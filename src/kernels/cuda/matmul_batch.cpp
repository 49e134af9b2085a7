// Chooses the instance, shared memory and shares of a launch.
#include "kernels/cuda/matmul_batch.h"

#include <algorithm>
#include <array>

#include "base/result.h"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tensor_map.h"

namespace fl::cuda {
namespace {

using Launcher = void (*)(cudaStream_t, bool, int, int, const CUtensorMap&, const BatchParams&);

struct Instance {
  int tokens;
  int pairs;  // of warpgroups, which exchange sums
  Launcher launch;
};

#ifdef FREELUNCH_SM90A
constexpr std::array kInstances{Instance{16, 2, launch_batch_16}, Instance{32, 2, launch_batch_32},
                                Instance{64, 1, launch_batch_64}};
#else
constexpr std::array<Instance, 0> kInstances{};
#endif

constexpr int kFixedBytes = 2048 + kMostBatchTokens * 4;  // barriers, alignment to 1024, factors
constexpr int kMostWeightStages = 16;                     // a superblock each
constexpr int kWantedTokenStages = 4;                     // likewise
constexpr int kLeastTokenStages = 2;
constexpr int kLeastWeightStages = 3;
constexpr int kLeastSuperblocks = 3;  // of a share: handing sums over costs as much as two
constexpr int kThreadsOfSums = 256;

BatchParams params_of(const Activations& x, BatchEpilogue epilogue, const RmsScale& scale) {
  FL_CHECK(x.layout() == ActivationLayout::rows && x.n_tokens <= kMostBatchTokens, "rows of few tokens");
  BatchParams p{};
  p.epilogue = epilogue;
  p.n_tokens = x.n_tokens;
  p.n_superblocks = padded_cols(x.cols) / kSuperblock;
  p.scale = scale;
  return p;
}

void add_segment(BatchParams& p, const PackedMatrix& w, const PackedMatrix* up, float* y, int64_t stride) {
  FL_CHECK(up == nullptr || up->type == w.type, "gate and up of one type");
  BatchSegment& s = p.segments[p.n_segments++];
  s.w = reinterpret_cast<const uint8_t*>(w.data);
  s.w_up = up != nullptr ? reinterpret_cast<const uint8_t*>(up->data) : nullptr;
  s.y = y;
  s.stride = stride;
  s.type = static_cast<int32_t>(w.type);
  s.tile_bytes = tile_bytes(w.type);
  s.rows = w.rows;
  s.first = p.n_groups;
  s.first_cost = p.cost;
  s.cost = static_cast<uint32_t>(kBatchGroupTiles * s.tile_bytes / 16);
  const int per_group = p.epilogue == BatchEpilogue::swiglu ? kBatchGroupTiles / 2 : kBatchGroupTiles;
  const int groups = (padded_rows(w.rows) / kTileRows + per_group - 1) / per_group;
  const uint64_t cost =
      p.cost + uint64_t{s.cost} * static_cast<uint64_t>(groups) * static_cast<uint64_t>(p.n_superblocks);
  FL_CHECK(cost < (uint64_t{1} << 31), "a launch of at most a million rows");
  p.n_groups += groups;
  p.cost = static_cast<uint32_t>(cost);
  p.slot_bytes = std::max(p.slot_bytes, s.tile_bytes);
}

void set_out(BatchParams& p, const Activations& out) {
  FL_CHECK(out.layout() == ActivationLayout::rows, "products of rows write rows");
  p.out = out.data;
  p.out_padded_cols = padded_cols(out.cols);
}

}  // namespace

uint64_t batch_parts_bytes(int n_sms) {
  return static_cast<uint64_t>(n_sms) * kThreadsOfSums * (kMostBatchTokens / 2) * sizeof(float);
}

void BatchProducts::store(cudaStream_t stream, const Activations& x, std::span<const Matmul::Output> outputs,
                          const RmsScale& scale, const NextProduct& next) const {
  BatchParams p = params_of(x, BatchEpilogue::store, scale);
  for (const Matmul::Output& o : outputs) {
    add_segment(p, *o.w, nullptr, o.y, o.stride);
  }
  p.next = next_of(x, next);
  launch(stream, x, p);
}

void BatchProducts::add(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
                        int64_t stride) const {
  BatchParams p = params_of(x, BatchEpilogue::add, {});
  add_segment(p, w, nullptr, residual, stride);
  launch(stream, x, p);
}

void BatchProducts::add_and_norm(cudaStream_t stream, const Activations& x, const PackedMatrix& w,
                                 float* residual, int64_t stride, const float* norm_weight,
                                 const Activations& out, float* sum_of_squares,
                                 const NextProduct& next) const {
  BatchParams p = params_of(x, BatchEpilogue::add_and_norm, {});
  add_segment(p, w, nullptr, residual, stride);
  set_out(p, out);
  p.norm_weight = norm_weight;
  p.sum_of_squares = sum_of_squares;
  p.next = next_of(x, next);
  launch(stream, x, p);
}

void BatchProducts::swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate,
                           const PackedMatrix& up, const Activations& out, const RmsScale& scale,
                           const NextProduct& next) const {
  const auto one = [&](BatchEpilogue epilogue, const PackedMatrix& w, const PackedMatrix* with,
                       const NextProduct& behind) {
    BatchParams p = params_of(x, epilogue, scale);
    add_segment(p, w, with, nullptr, 0);
    set_out(p, out);
    p.next = next_of(x, behind);
    launch(stream, x, p);
  };
  if (gate.type == up.type) {
    one(BatchEpilogue::swiglu, gate, &up, next);
  } else {  // files that mix types within a pair: the gate waits where the result will be
    one(BatchEpilogue::keep_gate, gate, nullptr, {&up});
    one(BatchEpilogue::swiglu_kept, up, nullptr, next);
  }
}

int BatchProducts::share(BatchParams& p) const {
  const int grid = std::clamp(p.n_groups * p.n_superblocks / kLeastSuperblocks, 1, device_.n_sms);
  p.cost_per_block = (p.cost + static_cast<uint32_t>(grid) - 1) / static_cast<uint32_t>(grid);
  return grid;
}

BatchNext BatchProducts::next_of(const Activations& x, const NextProduct& next) const {
  BatchNext out{};
  if (next.n == 0) {
    return out;
  }
  BatchParams p{};
  p.epilogue = next.up != nullptr ? BatchEpilogue::swiglu : BatchEpilogue::store;
  p.n_tokens = x.n_tokens;
  p.n_superblocks = padded_cols(next.w[0]->cols) / kSuperblock;
  for (int i = 0; i < next.n; ++i) {
    add_segment(p, *next.w[static_cast<size_t>(i)], next.up, nullptr, 0);
  }
  share(p);
  for (int i = 0; i < p.n_segments; ++i) {
    const BatchSegment& s = p.segments[i];
    out.segments[i] = {s.w, s.w_up, s.tile_bytes, s.rows, s.first, s.first_cost, s.cost};
  }
  out.n_segments = p.n_segments;
  out.n_superblocks = p.n_superblocks;
  out.cost = p.cost;
  out.cost_per_block = p.cost_per_block;
  return out;
}

void BatchProducts::launch(cudaStream_t stream, const Activations& x, BatchParams& p) const {
  const auto* const instance = std::find_if(kInstances.begin(), kInstances.end(),
                                            [&](const Instance& i) { return i.tokens >= p.n_tokens; });
  FL_CHECK(instance != kInstances.end(), "the program has the kernel for this device");
  p.parts = parts_;
  const int grid = share(p);

  const int weight_stage = kBatchGroupTiles * p.slot_bytes;
  const int token_stage = instance->tokens * kSuperblock * 2;
  const int exchange = instance->pairs == 2 ? kThreadsOfSums * (instance->tokens / 2) * 4 : 0;
  const int budget = device_.max_shared_per_block - kFixedBytes - exchange;
  p.token_stages = kWantedTokenStages;
  while (p.token_stages > kLeastTokenStages &&
         p.token_stages * token_stage + kLeastWeightStages * weight_stage > budget) {
    --p.token_stages;
  }
  p.weight_stages = std::min(kMostWeightStages, (budget - p.token_stages * token_stage) / weight_stage);
  FL_CHECK(p.weight_stages >= 2, "stages fit the shared memory of sm_90");
  const int used = p.weight_stages * weight_stage + p.token_stages * token_stage + exchange;
  instance->launch(stream, overlap_, grid, kFixedBytes + used, rows_map(x, instance->tokens), p);
}

}  // namespace fl::cuda
