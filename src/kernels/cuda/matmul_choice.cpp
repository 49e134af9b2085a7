#include "kernels/cuda/matmul_choice.h"

#include <algorithm>
#include <optional>
#include <span>

#include "base/result.h"
#include "kernels/cuda/matmul_workspace.h"

namespace fl::cuda {
namespace {

constexpr int kRoomForTwo = 200 << 10;
constexpr int kMostResident = 8;  // tokens up to which all activations in shared memory measure best
constexpr int kReservedPerBlock = 1024 + 256;  // shared memory that the driver keeps of each block
constexpr int kWantedSlots = 3;                // tiles a warp wants: one at work, two under way
// One block of two groups an SM, which share the activations, where these have more bytes than two blocks
// have room for beside their rings, and where the input has so many superblocks (decision 0067). A warp of it
// wants as many bytes as three tiles of Q4_K have, with more than kFewTokens tokens two (decision 0069).
constexpr int kMostApart = 56 << 10;
constexpr int kLongInput = 32;
// Where memory brings an SM more than that a second, waiting for the whole SM costs up to 4 tokens more than
// activations from L2 do (decision 0068).
constexpr double kFastMemory = 30e9;
constexpr int kFewTokens = 4;

using Launcher = KernelChoice::Launcher;

/// Shared memory that each of so many blocks on an SM can ask for.
int budget_of(const DeviceInfo& device, int blocks) {
  return std::min(device.max_shared_per_block, device.max_shared_per_sm / blocks - kReservedPerBlock);
}

// The most ring slots that fit in `budget` beside `bare` bytes, whole rows of tiles, from `least` to `most`;
// false if they do not.
bool fit(KernelChoice& choice, int budget, int bare, int least, int most, int slot_bytes) {
  const int slots =
      std::min((budget - bare) / (kMatmulWarps * slot_bytes), most) / choice.row_tiles * choice.row_tiles;
  if (bare > budget || slots < least) {
    return false;
  }
  choice.ring_slots = slots;
  choice.shared_bytes = bare + kMatmulWarps * slots * slot_bytes;
  return true;
}

// The kernel for up to 8 tokens, by groups of a block, the place of the activations and the type of all
// tiles.
Launcher narrow_launcher(int groups, bool resident, std::optional<PackedType> type) {
  static constexpr Launcher kLaunchers[2][2][3] = {
      {{launch_l2_any, launch_l2_q4, launch_l2_q6},
       {launch_resident_any, launch_resident_q4, launch_resident_q6}},
      {{launch_pair_l1_any, launch_pair_l1_q4, launch_pair_l1_q6},
       {launch_pair_any, launch_pair_q4, launch_pair_q6}},
  };
  const int of_type = type == PackedType::q4_k ? 1 : type == PackedType::q6_k ? 2 : 0;
  return kLaunchers[groups - 1][resident ? 1 : 0][of_type];
}

/// Whether the second group of a block can take parts of the first one's last tile (Lending). Activations
/// that are read through L1 want its room, and groups that lend have few tiles, so two steps are kept apart.
bool may_lend(const MatmulParams& p, std::optional<PackedType> type) {
  return (type == PackedType::q4_k || type == PackedType::q6_k) &&
         n_classes(p.n_superblocks) == kMatmulWarps && p.epilogue != Epilogue::swiglu;
}

/// Two groups beside `shared` bytes in an SM's memory, with the sums of at most so many steps kept apart.
bool fit_pair(KernelChoice& choice, const DeviceInfo& device, int shared, int most_steps, int n_tokens,
              const MatmulParams& p) {
  const int budget = budget_of(device, 1);
  const int slot_bytes = slot_bytes_of(p.largest_tile, device.arch);
  const int unit = slot_bytes_of(tile_bytes(PackedType::q4_k), device.arch);
  const int wanted = (n_tokens > kFewTokens ? 2 : 3) * unit / slot_bytes;
  for (int slots = std::clamp(wanted, 2, kWantedSlots); slots >= 2; --slots) {
    for (int steps = most_steps; steps >= 2; steps /= 2) {
      const int group = shared_plan(n_tokens, p.n_superblocks, false, steps, slots, slot_bytes).total;
      if (2 * group + shared <= budget) {
        choice.partial_slots = steps;
        choice.ring_slots = slots;
        choice.shared_bytes = 2 * group + shared;
        return true;
      }
    }
  }
  return false;
}

/// One block of two groups, where an SM's memory holds it and it measures best. Short inputs are not read
/// through L1 then: two blocks that read them from L2 do as well.
std::optional<KernelChoice> choose_pair(const DeviceInfo& device, const MatmulOptions& options, int n_tokens,
                                        const MatmulParams& p, std::optional<PackedType> type) {
  const int activations = p.n_superblocks * n_tokens * kRecordBytes;
  const bool fast = device.memory_bandwidth > kFastMemory * device.n_sms;
  const bool long_input = p.n_superblocks >= kLongInput && !(fast && n_tokens <= kFewTokens);
  const bool best = activations > kMostApart || long_input;
  if (device.max_shared_per_sm < kRoomForTwo || options.groups == 1 || (options.groups == 0 && !best)) {
    return std::nullopt;
  }
  KernelChoice choice;
  choice.groups = 2;
  for (const bool resident : {true, false}) {
    if (resident ? options.placement == ActivationPlacement::l2 : options.groups == 0 && !long_input) {
      continue;
    }
    choice.launch = narrow_launcher(2, resident, type);
    choice.lends = !resident && may_lend(p, type) &&
                   fit_pair(choice, device, lent_bytes(n_tokens, p.n_superblocks), 2, n_tokens, p);
    if (choice.lends || fit_pair(choice, device, resident ? activations : 0, 4, n_tokens, p)) {
      return choice;
    }
  }
  return std::nullopt;
}

Launcher wide_launcher(int n_tokens, int row_tiles) {
  switch (token_tiles(n_tokens)) {
    case 1:
      return row_tiles == 1 ? launch_wide_8_1 : nullptr;
    case 2:
      return row_tiles == 1 ? launch_wide_16_1 : nullptr;
    case 4:
      return row_tiles == 1 ? launch_wide_32_1 : launch_wide_32_2;
    default:
      return row_tiles == 1 ? launch_wide_64_1 : launch_wide_64_2;
  }
}

/// The type of all segments, if they have one.
std::optional<PackedType> one_type(const MatmulParams& p) {
  const auto* const end = p.segments + p.n_segments;
  const bool one = std::all_of(p.segments, end, [&](const auto& s) { return s.type == p.segments[0].type; });
  return one ? std::optional(static_cast<PackedType>(p.segments[0].type)) : std::nullopt;
}

// Counts the work of each segment: tiles (pairs of them for swiglu), each its bytes.
uint64_t count_tiles(MatmulParams& p) {
  const bool pairs = p.epilogue == Epilogue::swiglu;
  p.n_units = 1;
  uint64_t cost = 0;
  p.n_tiles = 0;
  for (int i = 0; i < p.n_segments; ++i) {
    MatmulSegment& s = p.segments[i];
    const int tiles = padded_rows(s.rows) / kTileRows;
    s.first = p.n_tiles;
    s.cost = static_cast<uint32_t>(s.tile_bytes) / 16 * (pairs ? 2 : 1);
    p.n_tiles += tiles;
    cost += static_cast<uint64_t>(tiles) * s.cost;
  }
  FL_CHECK(cost < (uint64_t{1} << 31), "a launch of at most a million rows");
  return cost;
}

}  // namespace

KernelChoice choose_kernel(const DeviceInfo& device, const MatmulOptions& options, int n_tokens,
                           const MatmulParams& p) {
  const int n_superblocks = p.n_superblocks;
  const int slot_bytes = slot_bytes_of(p.largest_tile, device.arch);
  const std::optional<PackedType> type = one_type(p);
  if (n_tokens <= 8 && options.placement != ActivationPlacement::staged) {
    if (const auto pair = choose_pair(device, options, n_tokens, p, type)) {
      return *pair;
    }
  }
  // Two blocks where an SM's memory holds two useful rings: blocks then fill the chip exactly, and a
  // successor's blocks take the places of those that end, one by one.
  const bool room_for_two = device.max_shared_per_sm >= kRoomForTwo;
  KernelChoice choice;
  for (const int blocks : {room_for_two ? 2 : 1, 1}) {
    const int budget = budget_of(device, blocks);
    choice.blocks_per_sm = blocks;
    choice.wide = false;
    if (n_tokens <= 8 && options.placement != ActivationPlacement::staged) {
      for (const bool resident : {true, false}) {
        if (resident && (options.placement == ActivationPlacement::l2 || n_tokens > kMostResident)) {
          continue;
        }
        choice.launch = narrow_launcher(1, resident, type);
        for (const int steps : {4, 2}) {
          choice.partial_slots = steps;
          const int bare = shared_plan(n_tokens, n_superblocks, resident, steps, 0, slot_bytes).total;
          // More than wanted would queue in front of what slower blocks still wait for (decision 0062).
          if (fit(choice, budget, bare, resident ? 2 : kWantedSlots, kWantedSlots, slot_bytes)) {
            return choice;
          }
        }
      }
    }
    if (blocks == 2 && n_tokens > kMostForTwo) {
      continue;  // its registers leave room for one
    }
    choice.wide = true;
    for (const int row_tiles : {2, 1}) {
      choice.row_tiles = row_tiles;
      choice.launch = wide_launcher(n_tokens, row_tiles);
      if (choice.launch == nullptr || (row_tiles == 2 && !room_for_two)) {
        continue;
      }
      for (const int least : {kWantedSlots + 1, blocks == 1 ? 1 : kWantedSlots}) {
        for (const int stages : {4, 3, 2}) {
          choice.partial_slots = stages;
          if (fit(choice, budget, wide_plan(n_tokens, stages, 0, slot_bytes).total,
                  std::max(least, row_tiles), kMaxRingSlots, slot_bytes)) {
            return choice;
          }
        }
      }
    }
  }
  return {};
}

void add_segment(MatmulParams& p, const PackedMatrix& w, const PackedMatrix* up, float* y, int64_t stride) {
  MatmulSegment& s = p.segments[p.n_segments++];
  s.w = reinterpret_cast<const uint8_t*>(w.data);
  s.w_up = up != nullptr ? reinterpret_cast<const uint8_t*>(up->data) : nullptr;
  s.y = y;
  s.stride = stride;
  s.type = static_cast<int32_t>(w.type);
  s.tile_bytes = tile_bytes(w.type);
  s.rows = w.rows;
  p.largest_tile = std::max(p.largest_tile, s.tile_bytes);
}

// Superblock by superblock. A group that has tiles for a few warps
// only takes a whole one's time.
uint64_t count_groups(MatmulParams& p, int row_tiles) {
  const bool pairs = p.epilogue == Epilogue::swiglu;
  const int in_group = kMatmulWarps * row_tiles;
  p.n_units = p.n_superblocks;
  uint64_t cost = 0;
  p.n_tiles = 0;
  for (int i = 0; i < p.n_segments; ++i) {
    MatmulSegment& s = p.segments[i];
    const int tiles = padded_rows(s.rows) / kTileRows * (pairs ? 2 : 1);
    const int groups = (tiles + in_group - 1) / in_group;
    s.first = p.n_tiles;
    s.cost = static_cast<uint32_t>(s.tile_bytes / 16 * in_group);
    p.n_tiles += groups;
    cost += static_cast<uint64_t>(groups) * static_cast<uint64_t>(p.n_superblocks) * s.cost;
  }
  FL_CHECK(cost < (uint64_t{1} << 31) && p.n_tiles * kMatmulWarps <= kMaxTickets,
           "a launch of at most a million rows");
  return cost;
}

uint32_t cost_per_block(uint64_t cost, int grid) {
  const auto blocks = static_cast<uint64_t>(grid);
  return static_cast<uint32_t>((cost + blocks - 1) / blocks);
}

int share_tiles(MatmulParams& p, const DeviceInfo& device, const KernelChoice& choice) {
  const uint64_t cost = count_tiles(p);
  const int shares = std::min(device.n_sms * choice.blocks_per_sm * choice.groups, p.n_tiles);
  p.cost_per_block = cost_per_block(cost, shares);
  const std::span segments(p.segments, static_cast<size_t>(p.n_segments));
  const auto costs_the_same = [&](const MatmulSegment& s) { return s.cost == segments[0].cost; };
  if (std::all_of(segments.begin(), segments.end(), costs_the_same)) {
    p.tiles_per_share = p.n_tiles / shares;
    p.shares_with_more = p.n_tiles % shares;
  }
  return shares;
}

int grid_of(const DeviceInfo& device, const KernelChoice& choice, int n_shares) {
  return std::min(device.n_sms * choice.blocks_per_sm, n_shares);
}

NextLaunch next_launch(const DeviceInfo& device, const MatmulOptions& options, const NextProduct& next,
                       int n_tokens) {
  NextLaunch out{};
  if (next.n == 0) {
    return out;
  }
  MatmulParams p{};
  p.epilogue = next.up != nullptr ? Epilogue::swiglu : Epilogue::store;
  p.n_superblocks = padded_cols(next.w[0]->cols) / kSuperblock;
  for (int i = 0; i < next.n; ++i) {
    add_segment(p, *next.w[static_cast<size_t>(i)], next.up, nullptr, 0);
  }
  const KernelChoice choice = choose_kernel(device, options, n_tokens, p);
  if (choice.launch == nullptr || choice.wide) {
    return out;
  }
  out.n_shares = share_tiles(p, device, choice);
  for (int i = 0; i < p.n_segments; ++i) {
    const MatmulSegment& s = p.segments[i];
    out.segments[i] = {s.w, s.w_up, s.tile_bytes, s.first, s.cost};
  }
  out.n_segments = p.n_segments;
  out.n_tiles = p.n_tiles;
  out.n_superblocks = p.n_superblocks;
  out.n_units = p.n_units;
  out.tiles_per_share = p.tiles_per_share;
  out.shares_with_more = p.shares_with_more;
  out.cost_per_block = p.cost_per_block;
  return out;
}

}  // namespace fl::cuda
