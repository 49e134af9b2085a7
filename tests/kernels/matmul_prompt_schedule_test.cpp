// Who does what in a prompt's product, without a device: every superblock once, chains that no block starts
// anew, no block that waits for one that waits for it.
#include "kernels/cuda/matmul_prompt_schedule.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace fl::cuda {
namespace {

struct Launch {
  int n_groups;
  int n_token_blocks;
  int n_superblocks;
  int n_sms;
  bool adds;

  PromptSplit split() const {
    PromptSplit s{};
    s.n_superblocks = n_superblocks;
    s.n_chains = adds ? prompt_chains(n_groups, n_superblocks, n_sms) : 1;
    s.n_tiles = n_groups * n_token_blocks;
    s.n_shared = prompt_grid(s.n_tiles, s.n_chains, n_superblocks, n_sms).n_shared;
    return s;
  }
  int n_blocks() const {
    return prompt_grid(split().n_tiles, split().n_chains, n_superblocks, n_sms).n_blocks;
  }
  std::string name() const {
    return fmt::format("{} groups, {} blocks of tokens, {} superblocks, {} SMs{}", n_groups, n_token_blocks,
                       n_superblocks, n_sms, adds ? ", added" : "");
  }
};

// The 27B's matrices and edges, on chips with as many SMs as an H100 and as an H100 PCIe, and on small ones.
std::vector<Launch> launches() {
  std::vector<Launch> out;
  for (const int n_sms : {132, 114, 7, 1}) {
    for (const int n_groups : {1, 2, 5, 40, 112, 130, 272, 1940}) {
      for (const int n_superblocks : {1, 9, 20, 24, 68}) {
        for (const int n_token_blocks : {1, 2, 3, 4, 5, 8, 11}) {
          for (const bool adds : {false, true}) {
            out.push_back({n_groups, n_token_blocks, n_superblocks, n_sms, adds});
          }
        }
      }
    }
  }
  return out;
}

std::vector<PromptWork> work_of(const Launch& launch, const PromptSplit& split, int block) {
  PromptSchedule schedule(split, block, launch.n_blocks());
  std::vector<PromptWork> out;
  PromptWork w;
  while (schedule.next(w)) {
    out.push_back(w);
  }
  return out;
}

TEST(PromptSchedule, EverySuperblockOnceAndEveryChainInOnePiece) {
  for (const Launch& launch : launches()) {
    const PromptSplit split = launch.split();
    // superblocks of each chain of each tile that are done, by ascending blocks
    std::map<std::pair<int, int>, int> done;
    int previous_head = -1;  // tile * chains + chain that the block before leaves to this one
    for (int block = 0; block < launch.n_blocks(); ++block) {
      int head = -1;
      const std::vector<PromptWork> works = work_of(launch, split, block);
      for (size_t i = 0; i < works.size(); ++i) {
        const PromptWork& w = works[i];
        ASSERT_TRUE(w.tile >= 0 && w.tile < split.n_tiles && w.k0 < w.k1) << launch.name();
        ASSERT_EQ(w.shared, w.tile < split.n_shared) << launch.name();
        const int id = w.tile * split.n_chains + w.chain;
        ASSERT_EQ(w.k0 > chain_start(split, w.chain), w.resumes) << launch.name();
        ASSERT_EQ(w.k1 < chain_start(split, w.chain + 1), w.stops) << launch.name();
        ASSERT_FALSE(w.resumes && w.stops) << launch.name();
        if (w.stops) {
          ASSERT_EQ(i, 0U) << launch.name();  // before anything that could wait
          head = id;
        }
        if (w.resumes) {
          ASSERT_EQ(id, previous_head) << launch.name();
          ASSERT_EQ(i + 1, works.size()) << launch.name();
        }
        int& at = done.try_emplace({w.tile, w.chain}, chain_start(split, w.chain)).first->second;
        ASSERT_EQ(at, w.k0) << launch.name() << ", block " << block;
        at = w.k1;
      }
      previous_head = head;
    }
    ASSERT_EQ(previous_head, -1) << launch.name();
    ASSERT_EQ(done.size(), static_cast<size_t>(split.n_tiles) * static_cast<size_t>(split.n_chains));
    for (const auto& [unit, k] : done) {
      ASSERT_EQ(k, chain_start(split, unit.second + 1)) << launch.name();
    }
  }
}

// Blocks start in their order; a block that waits does nothing else. Each addition waits for the chain
// before, each tail for its head.
TEST(PromptSchedule, NobodyWaitsForEver) {
  for (const Launch& launch : launches()) {
    const PromptSplit split = launch.split();
    std::vector<int> added(static_cast<size_t>(split.n_tiles), 0);
    // with only one block at a time: what a block waits for, blocks before it have done
    std::vector<bool> left(static_cast<size_t>(launch.n_blocks()), false);
    for (int block = 0; block < launch.n_blocks(); ++block) {
      for (const PromptWork& w : work_of(launch, split, block)) {
        if (w.resumes) {
          ASSERT_TRUE(left[static_cast<size_t>(block - 1)]) << launch.name();
        }
        if (w.stops) {
          left[static_cast<size_t>(block)] = true;
          continue;
        }
        int& chains = added[static_cast<size_t>(w.tile)];
        ASSERT_EQ(chains, w.chain) << launch.name() << ", block " << block << ", tile " << w.tile;
        ++chains;
      }
    }
  }
}

// A chain's length follows from the matrix: cutting a prompt differently changes no sum.
TEST(PromptSchedule, ChainsDoNotDependOnTheNumberOfTokens) {
  for (const Launch& launch : launches()) {
    Launch more = launch;
    more.n_token_blocks += 3;
    const PromptSplit a = launch.split();
    const PromptSplit b = more.split();
    ASSERT_EQ(a.n_chains, b.n_chains);
    if (a.n_chains > 1) {
      ASSERT_LE(a.n_shared + launch.n_blocks(), prompt_totals(launch.n_sms)) << launch.name();
    }
    for (int chain = 0; chain <= a.n_chains; ++chain) {
      ASSERT_EQ(chain_start(a, chain), chain_start(b, chain));
    }
  }
  EXPECT_EQ((Launch{40, 1, 68, 132, true}.split().n_chains), 3);    // the 27B's ffn_down
  EXPECT_EQ((Launch{272, 1, 20, 132, false}.split().n_chains), 1);  // gate and up
}

// All blocks have as much to do, but for the rounding to superblocks: of both borders, and of every chain.
TEST(PromptSchedule, SharesAreEqual) {
  for (const Launch& launch : launches()) {
    const PromptSplit split = launch.split();
    int least = split.n_superblocks * split.n_tiles;
    int most = 0;
    for (int block = 0; block < launch.n_blocks(); ++block) {
      int sum = 0;
      for (const PromptWork& w : work_of(launch, split, block)) {
        sum += w.k1 - w.k0;
      }
      least = std::min(least, sum);
      most = std::max(most, sum);
    }
    const int units = split.n_tiles * split.n_chains / launch.n_blocks() + 1;
    ASSERT_LE(most - least, 2 + (split.n_chains > 1 ? units : 0)) << launch.name();
  }
}

}  // namespace
}  // namespace fl::cuda
