// How attention_decode.cu shares a step's keys and values among the blocks of its grid.
#pragma once

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/attention_decode.cuh"

namespace fl::cuda::decode {

/// Parameters of the kernel.
struct Args {
  int heads, kv_heads;
  float scale;
  KvCache cache;
  PrepareAttention in;
  const AttentionTile* tiles;
  int n_tiles;
  const int32_t* blocks;
  float* partial;    // [n][kv_heads][kMaxSplits][kPartial]
  int32_t* arrived;  // [n][kv_heads]
  ActivationWriter out;
};

static_assert(kMaxSplits == kWarp, "a lane takes a run when runs are joined");

/// Of one run: the output of kMaxGroup heads, then their maxima, then their sums.
inline constexpr int kPartial = kMaxGroup * kHeadDim + 2 * kMaxGroup;

/// Blocks of a run are taken in turn by groups of kThreads threads, each with a maximum, sums and an output
/// of its own: while one group multiplies, the others' loads are on their way.
inline constexpr int kTeams = 3;

// How many KV blocks a run has: of the sequence's length alone, and the same for every team.
__device__ __forceinline__ int run_blocks(int n_blocks) {
  return (n_blocks + kMaxSplits * kTeams - 1) / (kMaxSplits * kTeams) * kTeams;
}

/// Runs of one KV head of a sequence. All runs of a step, numbered by sequence, KV head and place, are cut
/// into equal shares for the blocks of the grid; a share is some stretches. In shared memory: as registers of
/// every thread they would be spilled.
struct Stretch {
  int next, end;  ///< runs of the share that come after this stretch
  int index;      ///< of the tile
  int before;     ///< runs of earlier tiles
  int kv_head;
  int run, n;       ///< the first of its runs, how many
  int n_runs;       ///< of the sequence
  int per_run;      ///< KV blocks
  int n_blocks;     ///< of the sequence
  int n_keys;       ///< of the sequence, with this step's token
  int token;        ///< in the step
  int first_block;  ///< of the sequence, in the table

  __device__ __forceinline__ int64_t block_head(const Args& a, int block) const {
    return static_cast<int64_t>(a.blocks[first_block + block]) * a.kv_heads + kv_head;
  }
  __device__ __forceinline__ int begin_block() const { return run * per_run; }
  __device__ __forceinline__ int end_block() const { return min((run + n) * per_run, n_blocks); }
  __device__ __forceinline__ bool has_last_block() const { return run + n == n_runs; }

  __device__ __forceinline__ void look_at(const AttentionTile& tile) {
    token = tile.first;
    first_block = tile.blocks;
    n_keys = tile.first_index + 1;
    n_blocks = (n_keys + kBlock - 1) / kBlock;
    per_run = run_blocks(n_blocks);
    n_runs = tile.n_tokens == 0 ? 0 : (n_blocks + per_run - 1) / per_run;
  }
  /// Runs of a tile, all KV heads; 0 past the last tile.
  static __device__ __forceinline__ int runs_of(const Args& a, int tile) {
    if (tile >= a.n_tiles) {
      return 0;
    }
    Stretch one;
    one.look_at(a.tiles[tile]);
    return one.n_runs * a.kv_heads;
  }
  /// The share of this block of the grid; called by the lanes of a warp.
  __device__ __forceinline__ void start(const Args& a, int lane) {
    int all = 0;
    for (int i = 0; i < a.n_tiles; i += kWarp) {
      all += __reduce_add_sync(0xFFFFFFFFU, runs_of(a, i + lane));
    }
    const auto border = [&](unsigned share) {
      return static_cast<int>(static_cast<unsigned>(all) * share / gridDim.x);
    };
    const int begin = border(blockIdx.x);
    if (lane == 0) {
      next = begin;
      end = border(blockIdx.x + 1);
      n = 0;
    }
    // The tile with the first of its runs.
    int sum = 0;
    for (int i = 0; i < a.n_tiles && sum <= begin; i += kWarp) {
      const int runs = runs_of(a, i + lane);
      int up_to = runs;
#pragma unroll
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const int other = __shfl_up_sync(0xFFFFFFFFU, up_to, offset);
        up_to += lane >= offset ? other : 0;
      }
      if (sum + up_to - runs <= begin && begin < sum + up_to) {
        index = i + lane;
        before = sum + up_to - runs;
      }
      sum += __shfl_sync(0xFFFFFFFFU, up_to, kWarp - 1);
    }
    __syncwarp();  // advance() reads what another lane has written
  }
  /// Goes on to the share's next stretch; n is 0 after the last.
  __device__ __forceinline__ void advance(const Args& a) {
    n = 0;
    while (next < end) {
      look_at(a.tiles[index]);
      if (next - before < n_runs * a.kv_heads) {
        kv_head = (next - before) / n_runs;
        run = (next - before) % n_runs;
        n = min(n_runs - run, end - next);
        next += n;
        return;
      }
      before += n_runs * a.kv_heads;
      ++index;
    }
  }
};

}  // namespace fl::cuda::decode
