// Joins the two memories. It answers one question: at which position do both the KV blocks and a recurrent
// state exist for these tokens? A tree over blocks of kBlockTokens tokens (found by a hash chain, always
// compared token by token); a node may own a checkpoint, the state after its last token. A sequence that
// ended off the grid is parked as a tail: its last tokens, their partly filled block and its live row;
// continuing a tail takes it out of the cache.
//
// Blocks and rows are given back in order of last use; nodes that running sequences use are pinned.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/state_cache.h"
#include "model/batch.h"

namespace fl::engine {

class PrefixCache {
 public:
  static constexpr int32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  PrefixCache(KvCache& blocks, StateCache& rows);

  struct Match {
    int32_t n_tokens = 0;   ///< where a sequence can go on; 0: nowhere
    int32_t n_blocked = 0;  ///< tokens whose blocks exist; a multiple of kBlockTokens; may be above n_tokens
    int32_t node = kRoot;   ///< the node at n_tokens, or the one that the tail hangs on
    int32_t tail = kNone;
    bool exact = true;  ///< the state came from prompt chunks on the grid: resumed = cold, bit by bit
  };
  /// The longest resumable prefix of at most tokens.size() - 1 tokens: at least one must be computed for its
  /// logits.
  Match find(std::span<const int32_t> tokens, uint64_t salt) const;

  /// Pins the path from the root to `node` and adds a reference to each block: both lists get them in order.
  void acquire(int32_t node, std::vector<int32_t>& path, std::vector<int32_t>& blocks);
  /// Unpins; the references to the blocks stay the caller's.
  void unpin(std::span<const int32_t> path);

  /// The child of `parent` for these kBlockTokens tokens, or kNone.
  int32_t child(int32_t parent, std::span<const int32_t> tokens, uint64_t salt) const;
  /// Makes that child; the cache takes its own reference to `block`.
  int32_t insert(int32_t parent, std::span<const int32_t> tokens, int32_t block, bool exact, uint64_t salt);
  void pin(int32_t node);
  int32_t block(int32_t node) const { return nodes_[node].block; }
  bool exact(int32_t node) const { return nodes_[node].exact; }
  bool pinned(int32_t node) const { return nodes_[node].users > 0; }
  int32_t position(int32_t node) const { return nodes_[node].depth * model::kBlockTokens; }
  /// Gives an unpinned node another block of the same tokens (the cache takes its own reference). States at
  /// and below it go: they belong to the old block, and a sequence reads blocks and a state of one making.
  void replace_block(int32_t node, int32_t block, bool exact);

  /// -1: none.
  int32_t checkpoint(int32_t node) const { return nodes_[node].row; }
  void touch_checkpoint(int32_t node) { nodes_[node].row_used = ++clock_; }
  /// Takes the row over.
  void set_checkpoint(int32_t node, int32_t row, bool exact);
  /// Hands the row to the caller; the node has none then.
  int32_t take_checkpoint(int32_t node);
  bool checkpoint_exact(int32_t node) const { return nodes_[node].row_exact; }

  /// Parks a sequence that ended `tokens.size()` (1 .. kBlockTokens - 1) tokens after `node`. Takes over the
  /// caller's reference to the block and the row. A tail of the same tokens is replaced.
  int32_t park(int32_t node, std::span<const int32_t> tokens, int32_t block, int32_t row, uint64_t salt);
  struct Parked {
    int32_t block = kNone;
    int32_t row = kNone;
  };
  int32_t tail_row(int32_t tail) const { return tails_[tail].row; }
  void touch_tail(int32_t tail) { tails_[tail].used = ++clock_; }
  /// Removes the tail and hands over what it held.
  Parked take_tail(int32_t tail);

  /// Frees the least recently used block (with what depends on it). False when all are pinned.
  bool evict_block();
  /// The least recently used of the cache's spare rows, or of its step rows, leaving out `left_out` (a row,
  /// or -1); -1 when there is none.
  int32_t oldest_row(bool spare, int32_t left_out) const;
  /// When a row of the cache was used last, on its own clock.
  uint64_t row_used(int32_t row) const;
  /// Forgets the state in a row of the cache and frees the row.
  void drop_row(int32_t row);
  /// The state in row `from` of the cache is now in `to`, which the caller hands over; frees `from`.
  void move_row(int32_t from, int32_t to);
  /// Forgets the longest path for these tokens as far as nothing else depends on it; returns the tokens
  /// forgotten.
  int32_t erase(std::span<const int32_t> tokens, uint64_t salt);
  /// Forgets everything. Sequences keep their references to blocks; their paths are void.
  void clear();

  int32_t n_nodes() const { return n_nodes_; }
  int32_t n_checkpoints() const;

 private:
  struct Node {
    std::array<int32_t, model::kBlockTokens> tokens;
    uint64_t hash = 0;
    uint64_t salt = 0;
    uint64_t used = 0;  ///< clock of the last unpin
    uint64_t row_used = 0;
    int32_t parent = kNone;
    int32_t depth = 0;
    int32_t block = kNone;
    int32_t row = kNone;
    int32_t users = 0;
    int32_t children = 0;
    int32_t next_in_bucket = kNone;
    int32_t older = kNone;  ///< list of unpinned nodes
    int32_t newer = kNone;
    bool exact = false;
    bool row_exact = false;
    bool alive = false;
  };
  struct Tail {
    std::array<int32_t, model::kBlockTokens> tokens;
    uint64_t salt = 0;
    uint64_t used = 0;
    int32_t n_tokens = 0;  ///< 0: unused
    int32_t node = kRoot;
    int32_t block = kNone;
    int32_t row = kNone;
  };

  uint64_t hash(int32_t parent, std::span<const int32_t> tokens, uint64_t salt) const;
  void link(int32_t node);
  void unlink(int32_t node);
  void remove(int32_t node);
  void drop_tail(int32_t tail);
  /// The tail that holds the row, or kNone.
  int32_t tail_of(int32_t row) const;
  bool below(int32_t node, int32_t ancestor) const;

  KvCache& blocks_;
  StateCache& rows_;
  std::vector<Node> nodes_;  ///< [0] is the root
  std::vector<int32_t> free_nodes_;
  std::vector<int32_t> buckets_;
  std::vector<Tail> tails_;
  std::vector<int32_t> row_node_;  ///< of each state row: the node whose checkpoint it is, or kNone
  uint64_t seed_ = 0;
  uint64_t clock_ = 0;
  int32_t oldest_ = kNone;
  int32_t newest_ = kNone;
  int32_t n_nodes_ = 0;
  mutable std::vector<int32_t> matched_;  ///< scratch of find: the nodes on the path
};

}  // namespace fl::engine
