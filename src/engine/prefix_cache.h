// Joins the two memories. It answers one question: at which position do both the KV blocks and a recurrent
// state exist for these tokens? A tree over blocks of kBlockTokens tokens (found by a hash chain, always
// compared token by token); a node may own a checkpoint, the state after its last token. A sequence that
// ended off the grid is parked as a tail: its last tokens, their partly filled block and its live row;
// continuing a tail takes it out of the cache.
//
// Blocks are given back in order of last use; nodes that running sequences use are pinned. Rows are given
// back by what they are worth: the tokens that would have to be read again, times how likely somebody comes
// back for them (Worth), aged as GreedyDual does (Young 1994; docs/decisions/0050).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/state_cache.h"
#include "model/batch.h"

namespace fl::engine {

/// Who is expected to go on from a state, in the order in which one claim replaces another.
enum class Worth : uint8_t {
  passing,   ///< on the way through a prompt: whoever edits what lies behind it
  previous,  ///< a conversation's place one turn ago: who edits or repeats the last turn, or asks another
             ///< question
  second,    ///< a conversation's place now, of two the one where its turns did not go on so far (Answers)
  latest,    ///< a conversation's place now: its next turn
  shared,    ///< where requests parted, or one came back: the next of them
};

/// What a conversation's next prompts did with its answers.
enum class Answers : uint8_t {
  unknown,
  kept,     ///< they went on behind the answer: as it was
  dropped,  ///< they went on behind the prompt: without its thought, or edited
};

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

  /// Whose a state is, and what for. Conversations are numbers of the caller's.
  struct Claim {
    Worth worth = Worth::passing;
    uint64_t conversation = 0;
    bool answer_end = false;  ///< it lies at an answer's end, not within a prompt
    Answers answers = Answers::unknown;
    /// Of a conversation's next turn, as far as its habit is known.
    static Claim of_prompt(uint64_t conversation, Answers answers) {
      return {answers == Answers::kept ? Worth::second : Worth::latest, conversation, false, answers};
    }
    static Claim of_answer(uint64_t conversation, Answers answers) {
      return {answers == Answers::dropped ? Worth::second : Worth::latest, conversation, true, answers};
    }
  };
  /// -1: none.
  int32_t checkpoint(int32_t node) const { return nodes_[node].row; }
  /// Takes the row over.
  void set_checkpoint(int32_t node, int32_t row, bool exact, const Claim& claim);
  /// Another sequence would have set a checkpoint where there is one: it is used now, and worth what either
  /// says. Two conversations with the same place share it.
  void join_checkpoint(int32_t node, const Claim& claim);
  /// Hands the row to the caller; the node has none then.
  int32_t take_checkpoint(int32_t node);
  bool checkpoint_exact(int32_t node) const { return nodes_[node].row_exact; }

  /// Parks a sequence that ended `tokens.size()` (1 .. kBlockTokens - 1) tokens after `node`. Takes over the
  /// caller's reference to the block and the row. A tail of the same tokens is replaced.
  int32_t park(int32_t node, std::span<const int32_t> tokens, int32_t block, int32_t row, uint64_t salt,
               const Claim& claim);
  struct Parked {
    int32_t block = kNone;
    int32_t row = kNone;
  };
  int32_t tail_row(int32_t tail) const { return tails_[tail].row; }
  /// Removes the tail and hands over what it held.
  Parked take_tail(int32_t tail);

  /// Frees the least recently used block (with what depends on it). False when all are pinned.
  bool evict_block();

  struct Resumed {
    uint64_t conversation = 0;
    Answers answers = Answers::unknown;
  };
  /// A sequence goes on from the state in this row: as the conversation whose place now this is, and what
  /// that one has beyond is passed. A state that only an edit or another request comes back to is shared from
  /// then on, and the sequence a conversation of its own, `conversation`.
  Resumed resume(int32_t row, uint64_t conversation);
  /// The conversation is about to have a new place: the ones it has step down by one.
  void step_down(uint64_t conversation);

  /// What is lost with the state in a row of the cache, in tokens as `Worth` weighs them, on a scale that
  /// rises with what was evicted: so a state that nobody uses is the least at last.
  uint64_t priority(int32_t row) const;
  /// The same for a state that would be set at `node` now.
  uint64_t priority_at(int32_t node, Worth worth) const;
  /// Of the cache's spare rows, or of its step rows, the one of least priority (the oldest of several),
  /// leaving out `left_out` (a row, or -1); -1 when there is none.
  int32_t least_row(bool spare, int32_t left_out) const;
  /// Forgets the state in a row of the cache to make room, and frees the row.
  void evict_row(int32_t row);
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
    int32_t n_tokens = 0;  ///< 0: unused
    int32_t node = kRoot;
    int32_t block = kNone;
    int32_t row = kNone;
  };

  /// What the cache holds in a state row: a node's checkpoint or a tail's state.
  struct Kept {
    int32_t node = kNone;
    int32_t tail = kNone;
    Claim claim;
    uint64_t used = 0;   ///< clock of the last use
    uint64_t floor = 0;  ///< floor_ then
    bool held() const { return node != kNone || tail != kNone; }
  };

  uint64_t hash(int32_t parent, std::span<const int32_t> tokens, uint64_t salt) const;
  /// Fills matched_: the root and the nodes of these tokens' full blocks, as far as there are any.
  void walk(std::span<const int32_t> tokens, uint64_t salt) const;
  void link(int32_t node);
  void unlink(int32_t node);
  void remove(int32_t node);
  void drop_tail(int32_t tail);
  void hold(int32_t row, int32_t node, int32_t tail, const Claim& claim);
  void use(Kept& kept);
  const Kept& kept(int32_t row) const;
  /// Tokens from the nearest state at or above `node` to its end.
  int32_t gap(int32_t node) const;
  int32_t end_of(const Kept& kept) const;
  bool below(int32_t node, int32_t ancestor) const;

  KvCache& blocks_;
  StateCache& rows_;
  std::vector<Node> nodes_;  ///< [0] is the root
  std::vector<int32_t> free_nodes_;
  std::vector<int32_t> buckets_;
  std::vector<Tail> tails_;
  std::vector<Kept> kept_;  ///< by state row
  uint64_t seed_ = 0;
  uint64_t clock_ = 0;
  uint64_t floor_ = 0;  ///< the highest priority evicted so far
  int32_t oldest_ = kNone;
  int32_t newest_ = kNone;
  int32_t n_nodes_ = 0;
  mutable std::vector<int32_t> matched_;  ///< scratch of walk
};

}  // namespace fl::engine
