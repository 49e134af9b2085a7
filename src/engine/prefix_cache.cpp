#include "engine/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <random>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/result.h"

namespace fl::engine {

using model::kBlockTokens;

namespace {

/// How likely a state is used again, as parts of the likelihood of a conversation's next turn. Estimates: one
/// turn in four is followed by another in its place (an edit, a repetition, a second question about the same
/// text), one in sixteen goes on where its conversation did not so far, one prompt in 128 differs in one
/// given place within.
constexpr uint64_t kCertain = 128;
constexpr uint64_t kReplacesTheLastTurn = kCertain / 4;
constexpr uint64_t kChangesItsWay = kCertain / 16;
constexpr uint64_t kEditsBefore = kCertain / 128;

uint64_t weight(Worth worth) {
  switch (worth) {
    case Worth::passing:
      return kEditsBefore;
    case Worth::previous:
      return kReplacesTheLastTurn;
    case Worth::second:
      return kChangesItsWay;
    case Worth::latest:
    case Worth::shared:
      break;
  }
  return kCertain;
}

/// Of a conversation now.
bool is_place(Worth worth) {
  return worth == Worth::latest || worth == Worth::second;
}

}  // namespace

PrefixCache::PrefixCache(KvCache& blocks, StateCache& rows) : blocks_(blocks), rows_(rows) {
  nodes_.resize(int64_t{blocks.total()} + 1);
  buckets_.resize(std::bit_ceil(nodes_.size() * 2), kNone);
  tails_.resize(rows.total());
  kept_.resize(rows.total());
  matched_.reserve(nodes_.size());
  free_nodes_.reserve(blocks.total());
  // Unpredictable, so that nobody can build prompts that share a bucket.
  std::random_device device;
  seed_ = (uint64_t{device()} << 32U) | device();
  clear();
}

uint64_t PrefixCache::hash(int32_t parent, std::span<const int32_t> tokens, uint64_t salt) const {
  const uint64_t chain =
      parent == kRoot ? seed_ ^ XXH3_64bits_withSeed(&salt, sizeof salt, seed_) : nodes_[parent].hash;
  return XXH3_64bits_withSeed(tokens.data(), kBlockTokens * sizeof(int32_t), chain);
}

int32_t PrefixCache::child(int32_t parent, std::span<const int32_t> tokens, uint64_t salt) const {
  if (nodes_[parent].children == 0) {
    return kNone;
  }
  const uint64_t h = hash(parent, tokens, salt);
  for (int32_t i = buckets_[h & (buckets_.size() - 1)]; i != kNone; i = nodes_[i].next_in_bucket) {
    const Node& node = nodes_[i];
    if (node.hash == h && node.parent == parent && node.salt == salt &&
        std::equal(node.tokens.begin(), node.tokens.end(), tokens.begin())) {
      return i;
    }
  }
  return kNone;
}

void PrefixCache::walk(std::span<const int32_t> tokens, uint64_t salt) const {
  matched_.assign(1, kRoot);
  for (size_t at = 0; at + kBlockTokens <= tokens.size(); at += kBlockTokens) {
    const int32_t next = child(matched_.back(), tokens.subspan(at, kBlockTokens), salt);
    if (next == kNone) {
      break;
    }
    matched_.push_back(next);
  }
}

PrefixCache::Match PrefixCache::find(std::span<const int32_t> tokens, uint64_t salt) const {
  Match match;
  const auto n = static_cast<int32_t>(tokens.size());
  walk(tokens, salt);
  match.n_blocked = position(matched_.back());
  for (const int32_t node : matched_) {
    if (nodes_[node].row != kNone && position(node) < n) {
      match.n_tokens = position(node);
      match.node = node;
      match.exact = nodes_[node].row_exact;
    }
  }
  for (size_t i = 0; i < tails_.size(); ++i) {
    const Tail& tail = tails_[i];
    const int32_t start = nodes_[tail.node].depth * kBlockTokens;
    const int32_t end = start + tail.n_tokens;
    if (tail.n_tokens == 0 || tail.salt != salt || end <= match.n_tokens || end >= n) {
      continue;
    }
    const auto depth = static_cast<size_t>(nodes_[tail.node].depth);
    if (depth < matched_.size() && matched_[depth] == tail.node &&
        std::equal(tail.tokens.begin(), tail.tokens.begin() + tail.n_tokens, tokens.begin() + start)) {
      match.n_tokens = end;
      match.node = tail.node;
      match.tail = static_cast<int32_t>(i);
      match.exact = false;
    }
  }
  return match;
}

void PrefixCache::acquire(int32_t node, std::vector<int32_t>& path, std::vector<int32_t>& blocks) {
  const auto first = static_cast<int64_t>(path.size());
  for (int32_t i = node; i != kRoot; i = nodes_[i].parent) {
    path.push_back(i);
  }
  std::reverse(path.begin() + first, path.end());
  for (size_t i = first; i < path.size(); ++i) {
    pin(path[i]);
    blocks_.add_ref(nodes_[path[i]].block);
    blocks.push_back(nodes_[path[i]].block);
  }
}

void PrefixCache::pin(int32_t node) {
  if (nodes_[node].users++ == 0) {
    unlink(node);
  }
}

void PrefixCache::unpin(std::span<const int32_t> path) {
  // From the leaf: a parent must stay newer than its children, so that the oldest node is always a leaf.
  for (size_t i = path.size(); i-- > 0;) {
    Node& node = nodes_[path[i]];
    FL_CHECK(node.alive && node.users > 0, "unpin of a node that is not pinned");
    if (--node.users == 0) {
      link(path[i]);
    }
  }
}

void PrefixCache::link(int32_t i) {
  Node& node = nodes_[i];
  node.used = ++clock_;
  node.older = newest_;
  node.newer = kNone;
  (newest_ == kNone ? oldest_ : nodes_[newest_].newer) = i;
  newest_ = i;
}

void PrefixCache::unlink(int32_t i) {
  Node& node = nodes_[i];
  (node.older == kNone ? oldest_ : nodes_[node.older].newer) = node.newer;
  (node.newer == kNone ? newest_ : nodes_[node.newer].older) = node.older;
  node.older = node.newer = kNone;
}

int32_t PrefixCache::insert(int32_t parent, std::span<const int32_t> tokens, int32_t block, bool exact,
                            uint64_t salt) {
  FL_CHECK(tokens.size() == kBlockTokens, "a node holds one block of tokens");
  FL_CHECK(!free_nodes_.empty(), "more nodes than blocks");
  const int32_t i = free_nodes_.back();
  free_nodes_.pop_back();
  Node& node = nodes_[i];
  node = Node{};
  std::copy(tokens.begin(), tokens.end(), node.tokens.begin());
  node.hash = hash(parent, tokens, salt);
  node.salt = salt;
  node.parent = parent;
  node.depth = nodes_[parent].depth + 1;
  node.block = block;
  node.exact = exact;
  node.alive = true;
  blocks_.add_ref(block);
  int32_t& bucket = buckets_[node.hash & (buckets_.size() - 1)];
  node.next_in_bucket = bucket;
  bucket = i;
  ++nodes_[parent].children;
  ++n_nodes_;
  link(i);
  return i;
}

bool PrefixCache::below(int32_t i, int32_t ancestor) const {
  while (nodes_[i].depth > nodes_[ancestor].depth) {
    i = nodes_[i].parent;
  }
  return i == ancestor;
}

void PrefixCache::replace_block(int32_t i, int32_t block, bool exact) {
  Node& node = nodes_[i];
  FL_CHECK(node.users == 0, "replace the block of a node in use");
  blocks_.add_ref(block);
  blocks_.release(node.block);
  node.block = block;
  node.exact = exact;
  for (const Kept& kept : kept_) {
    if (kept.node != kNone && below(kept.node, i)) {
      rows_.release(take_checkpoint(kept.node));
    }
  }
  for (size_t t = 0; t < tails_.size(); ++t) {
    if (tails_[t].n_tokens > 0 && below(tails_[t].node, i)) {
      drop_tail(static_cast<int32_t>(t));
    }
  }
}

void PrefixCache::hold(int32_t row, int32_t node, int32_t tail, const Claim& claim) {
  FL_CHECK(!kept_.at(row).held(), "two states in a row");
  kept_[row] = {node, tail, claim};
  use(kept_[row]);
}

void PrefixCache::use(Kept& kept) {
  kept.used = ++clock_;
  kept.floor = floor_;
}

void PrefixCache::set_checkpoint(int32_t i, int32_t row, bool exact, const Claim& claim) {
  Node& node = nodes_[i];
  FL_CHECK(i != kRoot && node.alive, "a checkpoint needs a node");
  if (node.row != kNone) {
    rows_.release(take_checkpoint(i));
  }
  node.row = row;
  node.row_exact = exact;
  hold(row, i, kNone, claim);
}

void PrefixCache::join_checkpoint(int32_t i, const Claim& claim) {
  Kept& kept = kept_.at(nodes_[i].row);
  use(kept);
  const bool both = kept.claim.worth >= Worth::previous && claim.worth >= Worth::previous;
  if (both && kept.claim.conversation != claim.conversation) {
    kept.claim.worth = Worth::shared;
  } else if (claim.worth >= kept.claim.worth) {
    kept.claim = claim;
  }
}

int32_t PrefixCache::take_checkpoint(int32_t i) {
  const int32_t row = nodes_[i].row;
  nodes_[i].row = kNone;
  kept_[row] = {};
  return row;
}

int32_t PrefixCache::park(int32_t node, std::span<const int32_t> tokens, int32_t block, int32_t row,
                          uint64_t salt, const Claim& claim) {
  FL_CHECK(!tokens.empty() && tokens.size() < kBlockTokens, "a tail is shorter than a block");
  int32_t unused = kNone;
  for (size_t i = 0; i < tails_.size(); ++i) {
    Tail& tail = tails_[i];
    if (tail.n_tokens == 0) {
      unused = static_cast<int32_t>(i);
    } else if (tail.node == node && tail.salt == salt &&
               std::ranges::equal(std::span(tail.tokens).first(tail.n_tokens), tokens)) {
      drop_tail(static_cast<int32_t>(i));
      unused = static_cast<int32_t>(i);
      break;
    }
  }
  FL_CHECK(unused != kNone, "more tails than state rows");
  Tail& tail = tails_[unused];
  std::copy(tokens.begin(), tokens.end(), tail.tokens.begin());
  tail.n_tokens = static_cast<int32_t>(tokens.size());
  tail.salt = salt;
  tail.node = node;
  tail.block = block;
  tail.row = row;
  hold(row, kNone, unused, claim);
  return unused;
}

PrefixCache::Parked PrefixCache::take_tail(int32_t i) {
  Tail& tail = tails_.at(i);
  FL_CHECK(tail.n_tokens > 0, "take of an unused tail");
  tail.n_tokens = 0;
  kept_[tail.row] = {};
  return {tail.block, tail.row};
}

void PrefixCache::drop_tail(int32_t i) {
  const Parked parked = take_tail(i);
  blocks_.release(parked.block);
  rows_.release(parked.row);
}

void PrefixCache::remove(int32_t i) {
  Node& node = nodes_[i];
  FL_CHECK(node.users == 0 && node.children == 0, "remove of a node in use");
  for (size_t t = 0; t < tails_.size(); ++t) {
    if (tails_[t].n_tokens > 0 && tails_[t].node == i) {
      drop_tail(static_cast<int32_t>(t));
    }
  }
  if (node.row != kNone) {
    rows_.release(take_checkpoint(i));
  }
  unlink(i);
  int32_t* at = &buckets_[node.hash & (buckets_.size() - 1)];
  while (*at != i) {
    at = &nodes_[*at].next_in_bucket;
  }
  *at = node.next_in_bucket;
  --nodes_[node.parent].children;
  blocks_.release(node.block);
  node.alive = false;
  free_nodes_.push_back(i);
  --n_nodes_;
}

bool PrefixCache::evict_block() {
  const auto used = [this](size_t i) { return kept_[tails_[i].row].used; };
  int32_t tail = kNone;
  for (size_t i = 0; i < tails_.size(); ++i) {
    if (tails_[i].n_tokens > 0 && (tail == kNone || used(i) < used(tail))) {
      tail = static_cast<int32_t>(i);
    }
  }
  if (oldest_ != kNone && (tail == kNone || nodes_[oldest_].used <= used(tail))) {
    remove(oldest_);
    return true;
  }
  if (tail != kNone) {
    drop_tail(tail);
    return true;
  }
  return false;
}

const PrefixCache::Kept& PrefixCache::kept(int32_t row) const {
  const Kept& kept = kept_.at(row);
  FL_CHECK(kept.held(), "the cache does not hold this row");
  return kept;
}

int32_t PrefixCache::end_of(const Kept& kept) const {
  return kept.tail == kNone ? position(kept.node)
                            : position(tails_[kept.tail].node) + tails_[kept.tail].n_tokens;
}

PrefixCache::Resumed PrefixCache::resume(int32_t row, uint64_t conversation) {
  Kept& from = kept_.at(row);
  FL_CHECK(from.held(), "the cache does not hold this row");
  use(from);
  if (!is_place(from.claim.worth)) {
    from.claim.worth = Worth::shared;
    return {conversation, Answers::unknown};
  }
  from.claim.worth = Worth::latest;
  if (from.claim.answer_end) {
    from.claim.answers = Answers::kept;
  }
  // The prompt's longest resumable beginning ends here: it differs from what lies deeper.
  const int32_t end = end_of(from);
  for (Kept& kept : kept_) {
    if (kept.held() && is_place(kept.claim.worth) && kept.claim.conversation == from.claim.conversation &&
        end_of(kept) > end) {
      kept.claim.worth = Worth::passing;
      if (kept.claim.answer_end) {
        from.claim.answers = Answers::dropped;
      }
    }
  }
  return {from.claim.conversation, from.claim.answers};
}

void PrefixCache::step_down(uint64_t conversation) {
  for (Kept& kept : kept_) {
    if (kept.held() && kept.claim.conversation == conversation && kept.claim.worth != Worth::shared) {
      kept.claim.worth = is_place(kept.claim.worth) ? Worth::previous : Worth::passing;
    }
  }
}

int32_t PrefixCache::gap(int32_t node) const {
  const int32_t end = position(node);
  while (node != kRoot && nodes_[node].row == kNone) {
    node = nodes_[node].parent;
  }
  return end - position(node);
}

uint64_t PrefixCache::priority_at(int32_t node, Worth worth) const {
  return floor_ + static_cast<uint64_t>(kBlockTokens + gap(nodes_[node].parent)) * weight(worth);
}

uint64_t PrefixCache::priority(int32_t row) const {
  const Kept& state = kept(row);
  const int32_t saved = state.tail == kNone ? kBlockTokens + gap(nodes_[state.node].parent)
                                            : tails_[state.tail].n_tokens + gap(tails_[state.tail].node);
  return state.floor + static_cast<uint64_t>(saved) * weight(state.claim.worth);
}

int32_t PrefixCache::least_row(bool spare, int32_t left_out) const {
  int32_t least = -1;
  std::pair<uint64_t, uint64_t> best;
  for (int32_t row = 0; row < rows_.total(); ++row) {
    if (!kept_[row].held() || rows_.is_spare(row) != spare || row == left_out) {
      continue;
    }
    const std::pair<uint64_t, uint64_t> rank{priority(row), kept_[row].used};
    if (least < 0 || rank < best) {
      best = rank;
      least = row;
    }
  }
  return least;
}

void PrefixCache::evict_row(int32_t row) {
  floor_ = std::max(floor_, priority(row));
  if (kept_[row].node != kNone) {
    rows_.release(take_checkpoint(kept_[row].node));
  } else {
    drop_tail(kept_[row].tail);
  }
}

void PrefixCache::move_row(int32_t from, int32_t to) {
  const Kept state = kept(from);
  kept_[to] = state;
  kept_[from] = {};
  (state.node != kNone ? nodes_[state.node].row : tails_[state.tail].row) = to;
  rows_.release(from);
}

int32_t PrefixCache::erase(std::span<const int32_t> tokens, uint64_t salt) {
  const auto n = static_cast<int32_t>(tokens.size());
  walk(tokens, salt);
  int32_t erased = 0;
  const int32_t grid = position(matched_.back());
  for (size_t i = 0; i < tails_.size(); ++i) {
    const Tail& tail = tails_[i];
    if (tail.n_tokens > 0 && tail.node == matched_.back() && tail.salt == salt && grid + tail.n_tokens == n &&
        std::equal(tail.tokens.begin(), tail.tokens.begin() + tail.n_tokens, tokens.begin() + grid)) {
      erased += tail.n_tokens;
      drop_tail(static_cast<int32_t>(i));
    }
  }
  while (matched_.back() != kRoot) {
    const int32_t last = matched_.back();
    const bool has_tail = std::ranges::any_of(
        tails_, [last](const Tail& tail) { return tail.n_tokens > 0 && tail.node == last; });
    if (nodes_[last].users > 0 || nodes_[last].children > 0 || has_tail) {
      break;
    }
    remove(last);
    erased += kBlockTokens;
    matched_.pop_back();
  }
  return erased;
}

void PrefixCache::clear() {
  for (size_t i = 0; i < tails_.size(); ++i) {
    if (tails_[i].n_tokens > 0) {
      drop_tail(static_cast<int32_t>(i));
    }
  }
  for (size_t i = 1; i < nodes_.size(); ++i) {
    if (nodes_[i].alive) {
      blocks_.release(nodes_[i].block);
      if (nodes_[i].row != kNone) {
        rows_.release(take_checkpoint(static_cast<int32_t>(i)));
      }
    }
    nodes_[i] = Node{};
  }
  nodes_[kRoot] = Node{};
  nodes_[kRoot].alive = true;
  std::ranges::fill(buckets_, kNone);
  free_nodes_.resize(nodes_.size() - 1);
  std::iota(free_nodes_.rbegin(), free_nodes_.rend(), 1);
  oldest_ = newest_ = kNone;
  n_nodes_ = 0;
}

int32_t PrefixCache::n_checkpoints() const {
  return static_cast<int32_t>(
      std::ranges::count_if(kept_, [](const Kept& kept) { return kept.node != kNone; }));
}

}  // namespace fl::engine
