// Collects the phases of a launch, and chooses its instance, shared memory and shares.
#include "kernels/cuda/matmul_batch.h"

#include <algorithm>

#include "base/result.h"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tensor_map.h"

namespace fl::cuda {
namespace {

using Launcher = void (*)(cudaStream_t, bool, int, int, const BatchMaps&, const BatchParams&);

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

}  // namespace

uint64_t batch_scratch_bytes(int n_sms) {
  return static_cast<uint64_t>(n_sms) * kThreadsOfSums * (kMostBatchTokens / 2) * sizeof(float);
}

void BatchProducts::begin(cudaStream_t stream) {
  stream_ = stream;
  collecting_ = true;
}

void BatchProducts::end() {
  flush();
  collecting_ = false;
}

void BatchProducts::flush() {
  if (p_.n_phases > 0) {
    launch();
    p_.n_phases = 0;
  }
}

void BatchProducts::store(cudaStream_t stream, const Activations& x, std::span<const Matmul::Output> outputs,
                          const RmsScale& scale) {
  BatchPhase& phase = add_phase(stream, x, BatchEpilogue::store, scale);
  for (const Matmul::Output& o : outputs) {
    add_segment(phase, *o.w, nullptr, o.y, o.stride);
  }
  end_phase();
}

void BatchProducts::add(cudaStream_t stream, const Activations& x, const PackedMatrix& w, float* residual,
                        int64_t stride) {
  add_segment(add_phase(stream, x, BatchEpilogue::add, {}), w, nullptr, residual, stride);
  end_phase();
}

void BatchProducts::add_and_norm(cudaStream_t stream, const Activations& x, const PackedMatrix& w,
                                 float* residual, int64_t stride, const float* norm_weight,
                                 const Activations& out, float* sum_of_squares) {
  BatchPhase& phase = add_phase(stream, x, BatchEpilogue::add_and_norm, {});
  add_segment(phase, w, nullptr, residual, stride);
  set_out(phase, out);
  phase.norm_weight = norm_weight;
  phase.sum_of_squares = sum_of_squares;
  end_phase();
}

void BatchProducts::swiglu(cudaStream_t stream, const Activations& x, const PackedMatrix& gate,
                           const PackedMatrix& up, const Activations& out, const RmsScale& scale) {
  const auto one = [&](BatchEpilogue epilogue, const PackedMatrix& w, const PackedMatrix* with) {
    BatchPhase& phase = add_phase(stream, x, epilogue, scale);
    add_segment(phase, w, with, nullptr, 0);
    set_out(phase, out);
    end_phase();
  };
  if (gate.type == up.type) {
    one(BatchEpilogue::swiglu, gate, &up);
  } else {  // files that mix types within a pair: the gate waits where the result will be
    one(BatchEpilogue::keep_gate, gate, nullptr);
    one(BatchEpilogue::swiglu_kept, up, nullptr);
  }
}

BatchPhase& BatchProducts::add_phase(cudaStream_t stream, const Activations& x, BatchEpilogue epilogue,
                                     const RmsScale& scale) {
  FL_CHECK(x.layout() == ActivationLayout::rows && x.n_tokens <= kMostBatchTokens, "rows of few tokens");
  FL_CHECK(!collecting_ || stream == stream_, "a chain is enqueued to one stream");
  if (p_.n_phases == kMaxBatchPhases || (p_.n_phases > 0 && x.n_tokens != p_.n_tokens)) {
    flush();
  }
  stream_ = stream;
  p_.n_tokens = x.n_tokens;
  x_[static_cast<size_t>(p_.n_phases)] = x;
  BatchPhase& phase = p_.phases[p_.n_phases++];
  phase = {};
  phase.epilogue = epilogue;
  phase.n_superblocks = padded_cols(x.cols) / kSuperblock;
  phase.scale = scale;
  return phase;
}

void BatchProducts::end_phase() {
  if (!collecting_) {
    flush();
  }
}

void BatchProducts::add_segment(BatchPhase& phase, const PackedMatrix& w, const PackedMatrix* up, float* y,
                                int64_t stride) {
  FL_CHECK(up == nullptr || up->type == w.type, "gate and up of one type");
  BatchSegment& s = phase.segments[phase.n_segments++];
  s.w = reinterpret_cast<const uint8_t*>(w.data);
  s.w_up = up != nullptr ? reinterpret_cast<const uint8_t*>(up->data) : nullptr;
  s.y = y;
  s.stride = stride;
  s.type = static_cast<int32_t>(w.type);
  s.tile_bytes = tile_bytes(w.type);
  s.rows = w.rows;
  s.first = phase.n_groups;
  s.first_cost = phase.cost;
  s.cost = static_cast<uint32_t>(kBatchGroupTiles * s.tile_bytes / 16);
  const int per_group = phase.epilogue == BatchEpilogue::swiglu ? kBatchGroupTiles / 2 : kBatchGroupTiles;
  const int groups = (padded_rows(w.rows) / kTileRows + per_group - 1) / per_group;
  const uint64_t cost = phase.cost + uint64_t{s.cost} * static_cast<uint64_t>(groups) *
                                         static_cast<uint64_t>(phase.n_superblocks);
  FL_CHECK(cost < (uint64_t{1} << 31), "a launch of at most a million rows");
  phase.n_groups += groups;
  phase.cost = static_cast<uint32_t>(cost);
}

void BatchProducts::set_out(BatchPhase& phase, const Activations& out) {
  FL_CHECK(out.layout() == ActivationLayout::rows, "products of rows write rows");
  phase.out = out.data;
  phase.out_padded_cols = padded_cols(out.cols);
}

void BatchProducts::launch() {
  const auto* const instance = std::find_if(kInstances.begin(), kInstances.end(),
                                            [&](const Instance& i) { return i.tokens >= p_.n_tokens; });
  FL_CHECK(instance != kInstances.end() && p_.n_phases > 0, "the program has the kernel for this device");
  p_.scratch = scratch_;
  p_.flags = counters_;
  p_.arrived = counters_ + 2 * device_.n_sms;
  BatchMaps maps{};
  int grid = 1;
  p_.slot_bytes = 0;
  for (int i = 0; i < p_.n_phases; ++i) {
    BatchPhase& phase = p_.phases[i];
    for (int s = 0; s < phase.n_segments; ++s) {
      p_.slot_bytes = std::max(p_.slot_bytes, phase.segments[s].tile_bytes);
    }
    const int blocks = std::clamp(phase.n_groups * phase.n_superblocks / kLeastSuperblocks, 1, device_.n_sms);
    phase.cost_per_block = (phase.cost + static_cast<uint32_t>(blocks) - 1) / static_cast<uint32_t>(blocks);
    grid = std::max(grid, blocks);
    maps.x[i] = rows_map(x_[static_cast<size_t>(i)], instance->tokens);
  }

  const int weight_stage = kBatchGroupTiles * p_.slot_bytes;
  const int token_stage = instance->tokens * kSuperblock * 2;
  const int exchange = instance->pairs == 2 ? kThreadsOfSums * (instance->tokens / 2) * 4 : 0;
  const int budget = device_.max_shared_per_block - kFixedBytes - exchange;
  p_.token_stages = kWantedTokenStages;
  while (p_.token_stages > kLeastTokenStages &&
         p_.token_stages * token_stage + kLeastWeightStages * weight_stage > budget) {
    --p_.token_stages;
  }
  p_.weight_stages = std::min(kMostWeightStages, (budget - p_.token_stages * token_stage) / weight_stage);
  FL_CHECK(p_.weight_stages >= 2, "stages fit the shared memory of sm_90");
  const int used = p_.weight_stages * weight_stage + p_.token_stages * token_stage + exchange;
  instance->launch(stream_, overlap_, grid, kFixedBytes + used, maps, p_);
}

}  // namespace fl::cuda
