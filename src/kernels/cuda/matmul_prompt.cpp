// Chooses the instance, its shared memory and the shares of a prompt product.
#include "kernels/cuda/matmul_prompt.h"

#include <algorithm>
#include <array>

#include "base/result.h"
#include "kernels/cuda/matmul_params.h"
#include "kernels/cuda/tensor_map.h"

namespace fl::cuda {
namespace {

using Launcher = void (*)(cudaStream_t, bool, int, int, const CUtensorMap&, const PromptParams&);

struct Instance {
  int tokens;
  Launcher launch;
};

#ifdef FREELUNCH_SM90A
constexpr std::array kInstances{Instance{64, launch_prompt_64},   Instance{96, launch_prompt_96},
                                Instance{128, launch_prompt_128}, Instance{160, launch_prompt_160},
                                Instance{192, launch_prompt_192}, Instance{224, launch_prompt_224},
                                Instance{256, launch_prompt_256}};
constexpr bool kBuilt = true;
#else
constexpr std::array<Instance, 0> kInstances{};
constexpr bool kBuilt = false;
#endif

constexpr int kArch = 90;             // wgmma is in no other
constexpr int kFixedBytes = 2048;     // barriers, and alignment to 1024
constexpr int kMostWeightStages = 6;  // a superblock each
constexpr int kMostTokenStages = 16;  // a quarter of a superblock each
constexpr uint64_t kSumsBytes = uint64_t{256} * (kMostPromptTokens / 2) * sizeof(float);  // of a tile
// Decoding a tile takes as long as multiplying it with so many tokens: 3.9 ms beside 0.074 ms a token of all
// products of the 27B (docs/decisions/0074).
constexpr double kDecodingTokens = 53;

// The instance that takes the least time: all of them give the same bits. `n_groups` of rows.
const Instance& choose(int n_tokens, int n_groups, int n_chains, int n_sms) {
  FL_CHECK(kBuilt, "the program has the kernel for this device");
  const auto time = [&](const Instance& i) {
    const int tiles = n_groups * ((n_tokens + i.tokens - 1) / i.tokens);
    const double rounds = std::max(1.0, static_cast<double>(tiles) * n_chains / n_sms);
    return rounds * (i.tokens + kDecodingTokens);
  };
  return *std::min_element(kInstances.begin(), kInstances.end(),
                           [&](const Instance& a, const Instance& b) { return time(a) < time(b); });
}

}  // namespace

bool has_prompt_kernel(int arch) {
  return kBuilt && arch == kArch;
}

uint64_t prompt_scratch_bytes(int n_sms) {
  return static_cast<uint64_t>(n_sms + prompt_totals(n_sms)) * kSumsBytes;
}

PromptLaunch::PromptLaunch(const Activations& x, PromptEpilogue epilogue) : x_(x) {
  FL_CHECK(x.layout() == ActivationLayout::rows, "prompt products take rows");
  p_.epilogue = epilogue;
  p_.split.n_superblocks = padded_cols(x.cols) / kSuperblock;
  p_.n_tokens = x.n_tokens;
}

void PromptLaunch::add_segment(const PackedMatrix& w, const PackedMatrix* up, float* y, int64_t stride) {
  FL_CHECK(up == nullptr || up->type == w.type, "gate and up of one type");
  PromptSegment& s = p_.segments[p_.n_segments++];
  s.w = reinterpret_cast<const uint8_t*>(w.data);
  s.w_up = up != nullptr ? reinterpret_cast<const uint8_t*>(up->data) : nullptr;
  s.y = y;
  s.stride = stride;
  s.type = static_cast<int32_t>(w.type);
  s.tile_bytes = tile_bytes(w.type);
  s.first = n_groups_;
  s.rows = w.rows;
  p_.slot_bytes = std::max(p_.slot_bytes, s.tile_bytes);
  const int per_group = p_.epilogue == PromptEpilogue::swiglu ? kPromptGroupTiles / 2 : kPromptGroupTiles;
  n_groups_ += (padded_rows(w.rows) / kTileRows + per_group - 1) / per_group;
}

void PromptLaunch::set_out(const Activations& out) {
  p_.out = out.data;
  p_.out_padded_cols = padded_cols(out.cols);
}

void PromptLaunch::run(cudaStream_t stream, bool overlap, const DeviceInfo& device, float* scratch,
                       int32_t* flags) {
  PromptSplit& split = p_.split;
  split.n_chains =
      p_.epilogue == PromptEpilogue::add ? prompt_chains(n_groups_, split.n_superblocks, device.n_sms) : 1;
  const Instance& instance = choose(p_.n_tokens, n_groups_, split.n_chains, device.n_sms);
  p_.n_token_blocks = (p_.n_tokens + instance.tokens - 1) / instance.tokens;
  p_.n_groups = n_groups_;
  split.n_tiles = n_groups_ * p_.n_token_blocks;
  const PromptGrid grid = prompt_grid(split.n_tiles, split.n_chains, split.n_superblocks, device.n_sms);
  split.n_shared = grid.n_shared;
  p_.heads = scratch;
  p_.heads_there = flags;
  p_.totals = scratch + static_cast<uint64_t>(device.n_sms) * kSumsBytes / sizeof(float);
  FL_CHECK(split.n_chains == 1 || split.n_shared + grid.n_blocks <= prompt_totals(device.n_sms),
           "a place for each tile whose chains are added");
  p_.chains_added = flags + 2 * device.n_sms;

  // Two stages of weights at least; a superblock of activations takes four.
  const int budget = device.max_shared_per_block - kFixedBytes;
  const int weight_stage = kPromptGroupTiles * p_.slot_bytes;
  const int token_stage = instance.tokens * kBoxColumns * 2;
  p_.weight_stages = 2;
  p_.token_stages = std::min(4, (budget - 2 * weight_stage) / token_stage);
  FL_CHECK(p_.token_stages >= 2, "stages fit the shared memory of sm_90");
  const auto used = [&] { return p_.weight_stages * weight_stage + p_.token_stages * token_stage; };
  for (bool grew = true; grew;) {
    grew = false;
    if (p_.token_stages < std::min(4 * p_.weight_stages, kMostTokenStages) &&
        used() + token_stage <= budget) {
      ++p_.token_stages;
      grew = true;
    } else if (p_.weight_stages < kMostWeightStages && used() + weight_stage <= budget) {
      ++p_.weight_stages;
      grew = true;
    }
  }
  instance.launch(stream, overlap, grid.n_blocks, kFixedBytes + used(), rows_map(x_, instance.tokens), p_);
}

}  // namespace fl::cuda
