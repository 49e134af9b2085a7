// Which block does what in a launch of matmul_prompt.h, and in which order every sum is made.
//
// The input dimension of a matrix is cut into chains: contiguous runs of superblocks, each summed from its
// first column to its last. How many follows from the matrix and the chip, never from the number of tokens,
// so a token's bits do not depend on how a prompt is cut into steps (docs/decisions/0082).
//
// A unit is a chain of a tile (128 rows x a block of tokens). Whole tiles, all chains one after the other, go
// round the blocks; the tiles that do not fill a round are dealt as units, in equal parts: all first chains,
// then all second ones, and so on. Where a border between two blocks cuts a unit, the block before it begins
// with the head and leaves its sums, and the block behind it ends with the tail, going on from those sums:
// one chain, and nobody waits for the other. The same chain of a tile's neighbours lies in the same place of
// other blocks' parts, so that the chains of a tile end in step.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FL_ON_BOTH_SIDES __host__ __device__ __forceinline__
#else
#define FL_ON_BOTH_SIDES inline
#endif

namespace fl::cuda {

struct PromptSplit {
  int32_t n_superblocks;
  int32_t n_chains;
  int32_t n_tiles;
  int32_t n_shared;  ///< the first tiles, which are dealt as units: none, or as many units as blocks
};

/// Where a launch's work is cut: `n_groups` of 128 rows.
struct PromptGrid {
  int n_blocks;
  int n_shared;
};

/// Chains of a matrix whose results are added to what is there. Others have one: their chains would need
/// memory to meet in.
inline constexpr int kMostChains = 4;
inline constexpr int kLeastChainSuperblocks = 6;  // handing sums over costs as much as two
constexpr int prompt_chains(int n_groups, int n_superblocks, int n_sms) {
  int chains = n_sms / n_groups;
  chains = chains < n_superblocks / kLeastChainSuperblocks ? chains : n_superblocks / kLeastChainSuperblocks;
  chains = chains < kMostChains ? chains : kMostChains;
  return chains < 1 ? 1 : chains;
}

/// Blocks are a multiple of the chains: see above, "in step". Where there are a few units a block and leaving
/// some SMs without work costs less than cutting units does, blocks have whole ones.
inline constexpr int kCutSuperblocks = 3;  // what leaving and taking sums costs a block
constexpr PromptGrid prompt_grid(int n_tiles, int n_chains, int n_superblocks, int n_sms) {
  const int units = n_tiles * n_chains;
  const int most = n_sms < units ? n_sms : units;
  int n_blocks = most - most % n_chains;
  const int each = (units + n_blocks - 1) / n_blocks;
  const int idle = each * n_blocks - units;
  if (n_tiles < n_blocks && units % (each * n_chains) == 0 &&
      idle * (n_superblocks / n_chains) <= kCutSuperblocks * n_blocks) {
    n_blocks = units / each;
  }
  const int left = n_tiles % n_blocks;
  return {n_blocks, left == 0 || left * n_chains >= n_blocks ? left : left + n_blocks};
}

/// Places for sums of chains that a launch needs at most: of shared tiles, and one a block for whole ones.
/// Where there are several chains, tiles that fill a round are shared only beside less than half a round.
constexpr int prompt_totals(int n_sms) {
  return n_sms + n_sms / 2 + n_sms;
}

/// First superblock of a chain.
FL_ON_BOTH_SIDES constexpr int chain_start(const PromptSplit& s, int chain) {
  return s.n_superblocks * chain / s.n_chains;
}

/// Superblocks [k0, k1) of a chain of a tile.
struct PromptWork {
  int tile;
  int chain;
  int k0;
  int k1;
  bool resumes;  ///< goes on from the sums that the block before left
  bool stops;    ///< leaves its sums to the block behind
  bool shared;   ///< a unit: other blocks have other chains of this tile
};

/// The work of a block, in order. `split` outlives it.
class PromptSchedule {
 public:
  FL_ON_BOTH_SIDES PromptSchedule(const PromptSplit& split, int block, int n_blocks)
      : split_(split),
        n_blocks_(n_blocks),
        begin_(cut(block)),
        end_(cut(block + 1)),
        unit_(begin_.unit + (begin_.k > 0 ? 1 : 0)),
        tile_(split.n_shared + block) {}

  FL_ON_BOTH_SIDES bool next(PromptWork& w) {
    if (!began_) {
      began_ = true;
      if (end_.k > 0) {
        w = of_unit(end_.unit);
        w.k1 = w.k0 + end_.k;
        w.stops = true;
        return true;
      }
    }
    if (unit_ < end_.unit) {
      w = of_unit(unit_++);
      return true;
    }
    if (tile_ < split_.n_tiles) {
      w = of_chain(tile_, chain_);
      if (++chain_ == split_.n_chains) {
        chain_ = 0;
        tile_ += n_blocks_;
      }
      return true;
    }
    if (begin_.k > 0) {
      w = of_unit(begin_.unit);
      w.k0 += begin_.k;
      w.resumes = true;
      begin_.k = 0;
      return true;
    }
    return false;
  }

 private:
  /// A border between blocks: `k` superblocks of the unit lie before it.
  struct Cut {
    int unit;
    int k;
  };

  FL_ON_BOTH_SIDES Cut cut(int block) const {
    const int at = split_.n_shared * split_.n_chains * block;
    const int unit = at / n_blocks_;
    const PromptWork w = of_unit(unit);
    return {unit, (w.k1 - w.k0) * (at - unit * n_blocks_) / n_blocks_};
  }
  FL_ON_BOTH_SIDES PromptWork of_chain(int tile, int chain) const {
    return {tile, chain, chain_start(split_, chain), chain_start(split_, chain + 1), false, false, false};
  }
  FL_ON_BOTH_SIDES PromptWork of_unit(int unit) const {
    const int n = split_.n_shared > 0 ? split_.n_shared : 1;
    PromptWork w = of_chain(unit % n, unit / n);
    w.shared = true;
    return w;
  }

  const PromptSplit& split_;
  int n_blocks_;
  Cut begin_;
  Cut end_;
  int unit_;
  int tile_;
  int chain_ = 0;
  bool began_ = false;
};

}  // namespace fl::cuda
