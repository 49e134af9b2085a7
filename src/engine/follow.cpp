// Prompts that share their beginning and arrive together (n answers to one prompt, agents with one system
// prompt): the oldest reads it, the others wait and go on from its checkpoint.
#include <algorithm>

#include "engine/loop.h"

namespace fl::engine {

using model::kBlockTokens;

namespace {

/// Fewer shared tokens than this are read again rather than waited for.
constexpr int32_t kWorthWaiting = 256;

}  // namespace

void Loop::choose_leader(Sequence& seq) {
  seq.leader = -1;
  if (!seq.cached || !seq.exact || options_.n_checkpoints == 0 || seq.n_fed % kBlockTokens != 0) {
    return;
  }
  Sequence* best = nullptr;
  for (Sequence& other : slots_) {
    if (other.phase != Sequence::Phase::running || !other.cached || !other.exact || other.salt != seq.salt ||
        !other.in_prompt() || other.order >= seq.order || other.n_fed < seq.n_fed) {
      continue;
    }
    const auto mine = std::span(seq.tokens).first(seq.n_prompt - 1);  // one token is left to compute
    const auto theirs = std::span(other.tokens).first(other.n_prompt);
    const auto common = static_cast<int32_t>(std::ranges::mismatch(mine, theirs).in1 - mine.begin());
    const int32_t goal = common / kBlockTokens * kBlockTokens;
    if (goal > other.n_fed && goal - seq.n_fed >= kWorthWaiting &&
        (best == nullptr || goal > seq.leader_goal)) {
      best = &other;
      seq.leader_goal = goal;
    }
  }
  if (best == nullptr) {
    return;
  }
  seq.leader = best->slot;
  seq.leader_order = best->order;
  const auto from = best->cuts.begin() + static_cast<int64_t>(best->next_cut);
  const auto at = std::ranges::lower_bound(from, best->cuts.end(), seq.leader_goal, {}, &Cut::position);
  if (at == best->cuts.end() || at->position != seq.leader_goal) {
    best->cuts.insert(at, {seq.leader_goal, Worth::shared});
  } else {
    at->worth = Worth::shared;
  }
}

bool Loop::waits_for_leader(Sequence& seq) {
  if (seq.leader < 0) {
    return false;
  }
  const Sequence& leader = slots_[seq.leader];
  const bool alive = leader.phase == Sequence::Phase::running && leader.order == seq.leader_order;
  if (alive && leader.n_fed < seq.leader_goal) {
    return !leader.paused;
  }
  jump(seq);
  choose_leader(seq);
  return seq.leader >= 0 && !slots_[seq.leader].paused;
}

void Loop::jump(Sequence& seq) {
  const PrefixCache::Match match = prefix_.find(std::span(seq.tokens).first(seq.n_prompt), seq.salt);
  if (match.n_tokens <= seq.n_fed || match.tail != PrefixCache::kNone || !match.exact) {
    return;
  }
  // Steps in flight may still use what is given back here; whoever gets it next is submitted after them.
  prefix_.unpin(seq.path);
  seq.path.clear();
  for (const int32_t block : seq.blocks) {
    blocks_.release(block);
  }
  seq.blocks.clear();
  prefix_.acquire(match.node, seq.path, seq.blocks);
  prefix_.join_checkpoint(match.node, {Worth::shared, seq.talk.conversation});
  building_.entries.push_back({seq.slot, 0, -1});  // a copy that fails takes this sequence down too
  runner_->copy_state(prefix_.checkpoint(match.node), seq.row);
  building_.entries.pop_back();
  const int32_t saved = match.n_tokens - seq.n_fed;
  seq.n_fed += saved;
  seq.n_done += saved;
  seq.timings.cached_n += saved;
  stats_.cached_tokens += saved;
  while (seq.next_cut < seq.cuts.size() && seq.cuts[seq.next_cut].position <= seq.n_fed) {
    ++seq.next_cut;
  }
}

}  // namespace fl::engine
