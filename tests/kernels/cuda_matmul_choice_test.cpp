// Which kernel a device gets for a product, without a device: shared memory that fits, no instance that its
// code has not got, shares that cover every tile once.
#include "kernels/cuda/matmul_choice.h"

#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace fl::cuda {
namespace {

// Shared memory of an SM and of a block, SMs, memory: from the vendor's tables.
DeviceInfo device(const char* name, int arch, int n_sms, int per_sm_kib, double bandwidth) {
  DeviceInfo d;
  d.name = name;
  d.arch = arch;
  d.n_sms = n_sms;
  d.max_shared_per_sm = per_sm_kib << 10;
  d.max_shared_per_block = (per_sm_kib - 1) << 10;
  d.memory_bandwidth = bandwidth;
  return d;
}
const std::array kDevices{
    device("RTX 3090", 86, 82, 100, 936e9), device("RTX 4090", 89, 128, 100, 1008e9),
    device("A100", 80, 108, 164, 2039e9),   device("H100", 90, 132, 228, 3350e9),
    device("H200", 90, 132, 228, 4800e9),   device("RTX 5090", 120, 170, 100, 1792e9),
};

struct Launch {
  std::vector<PackedMatrix> w;
  bool pairs;
  MatmulParams params() const {
    MatmulParams p{};
    p.epilogue = pairs ? Epilogue::swiglu : Epilogue::store;
    p.n_superblocks = padded_cols(w[0].cols) / kSuperblock;
    for (const PackedMatrix& m : w) {
      add_segment(p, m, pairs ? &m : nullptr, nullptr, 0);
    }
    return p;
  }
};
PackedMatrix matrix(PackedType type, int rows, int cols) {
  PackedMatrix m;
  m.type = type;
  m.rows = rows;
  m.cols = cols;
  return m;
}

// The 27B's launches and the edges: one superblock, one tile, an input longer than any model's.
std::vector<Launch> launches() {
  std::vector<Launch> out;
  for (const PackedType type :
       {PackedType::q4_k, PackedType::q5_k, PackedType::q6_k, PackedType::q8_0, PackedType::f16}) {
    out.push_back({{matrix(type, 10240, 5120), matrix(PackedType::q4_k, 6144, 5120)}, false});
    out.push_back({{matrix(type, 17408, 5120)}, true});
    for (const auto& [rows, cols] : {std::pair{5120, 6144},
                                     {5120, 17408},
                                     {248320, 5120},
                                     {16, 256},
                                     {7, 40},
                                     {2200, 2048},
                                     {8192, 65536}}) {
      out.push_back({{matrix(type, rows, cols)}, false});
    }
  }
  return out;
}
std::string name(const DeviceInfo& device, const MatmulParams& p, int n_tokens, const MatmulOptions& o) {
  return device.name + ", " + std::to_string(p.n_superblocks) + " superblocks of type " +
         std::to_string(p.segments[0].type) + ", n = " + std::to_string(n_tokens) + ", placement " +
         std::to_string(static_cast<int>(o.placement)) + ", groups " + std::to_string(o.groups);
}
std::vector<MatmulOptions> forms() {
  std::vector<MatmulOptions> out;
  for (const ActivationPlacement placement :
       {ActivationPlacement::automatic, ActivationPlacement::l2, ActivationPlacement::staged}) {
    for (const int groups : {0, 1, 2}) {
      MatmulOptions o;
      o.placement = placement;
      o.groups = groups;
      out.push_back(o);
    }
  }
  return out;
}

TEST(CudaMatmulChoice, FitsTheDevice) {
  int chosen = 0;
  for (const DeviceInfo& d : kDevices) {
    for (const Launch& launch : launches()) {
      for (const MatmulOptions& o : forms()) {
        for (const int n : {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64}) {
          const MatmulParams p = launch.params();
          SCOPED_TRACE(name(d, p, n, o));
          const KernelChoice choice = choose_kernel(d, o, n, p);
          if (choice.launch == nullptr) {
            EXPECT_GT(n, 8) << "eight tokens fit every device";
            continue;
          }
          ++chosen;
          EXPECT_LE(choice.shared_bytes, d.max_shared_per_block);
          EXPECT_LE(choice.blocks_per_sm * (choice.shared_bytes + 1024), d.max_shared_per_sm);
          EXPECT_GE(choice.ring_slots, choice.row_tiles);
          EXPECT_LE(choice.ring_slots, kMaxRingSlots);
          // rings of larger tiles do not fit every device
          const bool k_quants = p.largest_tile <= tile_bytes(PackedType::q6_k);
          if (n > 8 || o.placement == ActivationPlacement::staged || k_quants) {
            EXPECT_EQ(choice.wide, n > 8 || o.placement == ActivationPlacement::staged);
          }
          if (choice.groups == 2) {
            EXPECT_TRUE(has_more_instances(d.arch)) << "the instance is not in the device's code";
            EXPECT_LE(n, 8);
          }
          if (choice.lends) {
            EXPECT_EQ(choice.groups, 2);
            EXPECT_EQ(n_classes(p.n_superblocks), kMatmulWarps);
            EXPECT_FALSE(launch.pairs);
          }
        }
      }
    }
  }
  EXPECT_GT(chosen, 10000);
}

// What a ring's slot holds: the tile; where bulk copies bring it, then a barrier, and the next slot begins
// where copies are fast.
TEST(CudaMatmulChoice, SlotsHoldTilesAndBarriers) {
  for (const PackedType type :
       {PackedType::q4_k, PackedType::q5_k, PackedType::q6_k, PackedType::q8_0, PackedType::f16}) {
    for (const int arch : {90, 120}) {
      const int slot = slot_bytes_of(tile_bytes(type), arch);
      EXPECT_GE(slot - kSlotBarrierBytes, tile_bytes(type));
      EXPECT_EQ(slot % 128, 0);
    }
    EXPECT_EQ(slot_bytes_of(tile_bytes(type), 89), tile_bytes(type)) << "rings have no byte to spare";
  }
}

TEST(CudaMatmulChoice, SharesCoverEveryTileOnce) {
  for (const DeviceInfo& d : kDevices) {
    for (const Launch& launch : launches()) {
      for (const int n : {1, 4, 8}) {
        MatmulParams p = launch.params();
        SCOPED_TRACE(name(d, p, n, {}));
        const KernelChoice choice = choose_kernel(d, {}, n, p);
        const int shares = share_tiles(p, d, choice);
        int tiles = 0;
        for (const PackedMatrix& m : launch.w) {
          tiles += padded_rows(m.rows) / kTileRows;
        }
        EXPECT_EQ(p.n_tiles, tiles);
        EXPECT_LE(shares, d.n_sms * choice.blocks_per_sm * choice.groups);
        EXPECT_GE(grid_of(d, choice, shares) * choice.groups, shares);
        if (p.tiles_per_share > 0) {
          EXPECT_EQ(shares * p.tiles_per_share + p.shares_with_more, tiles);
          EXPECT_LT(p.shares_with_more, shares);
        } else {
          EXPECT_GE(static_cast<uint64_t>(p.cost_per_block) * static_cast<uint64_t>(shares), [&] {
            uint64_t cost = 0;
            for (int i = 0; i < p.n_segments; ++i) {
              const int end = i + 1 < p.n_segments ? p.segments[i + 1].first : p.n_tiles;
              cost += static_cast<uint64_t>(end - p.segments[i].first) * p.segments[i].cost;
            }
            return cost;
          }());
        }
      }
    }
  }
}

}  // namespace
}  // namespace fl::cuda
