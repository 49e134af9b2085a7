// Beginnings and ends of requests in the step loop: slot choice, resuming from the prefix cache, publishing
// and parking, release, and what a failed device leaves behind.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/loop.h"

namespace fl::engine {

using model::kBlockTokens;

namespace {

/// The last tokens of a rendered prompt (the header of the answer) differ in the next turn's prompt, where
/// the answer stands in their place; a checkpoint this far before the end is before the difference.
/// llama-server uses the same 4.
constexpr int32_t kUnstableTail = 4;

/// Prompts get a checkpoint at least each so many tokens, so that an edit deep in a conversation costs no
/// more.
constexpr int32_t kCheckpointSpacing = 4096;

/// A slot is preferred for its content when it shares more than this part of the new prompt.
constexpr double kSimilarity = 0.1;

int32_t blocks_for(int64_t n_tokens) {
  return static_cast<int32_t>((n_tokens + kBlockTokens - 1) / kBlockTokens);
}

}  // namespace

void Loop::sink_failed(Sequence& seq, const char* what) {
  spdlog::warn("engine: request {}: its sink threw: {}", seq.ticket.id, what);
  finish(seq, Finish::cancelled, std::nullopt, {});
}

int32_t Loop::allocate_block() {
  while (blocks_.free() == 0) {
    FL_CHECK(prefix_.evict_block(), "no KV block left though reservations hold");
  }
  return blocks_.allocate();
}

int32_t Loop::allocate_step_row(int32_t spared) {
  if (rows_.free_step() == 0) {
    const int32_t row = prefix_.least_row(false, spared);
    if (row >= 0) {
      set_aside(row, spared);
    }
  }
  return rows_.allocate_step();
}

int32_t Loop::allocate_spare_row(int32_t node, Worth worth) {
  const int32_t row = rows_.allocate_spare();
  if (row >= 0) {
    return row;
  }
  const int32_t least = prefix_.least_row(true, -1);
  if (least < 0 || (worth == Worth::passing && prefix_.priority(least) > prefix_.priority_at(node, worth))) {
    return -1;
  }
  prefix_.evict_row(least);
  return rows_.allocate_spare();
}

void Loop::set_aside(int32_t row, int32_t spared) {
  int32_t to = rows_.allocate_spare();
  if (to < 0) {
    const int32_t least = prefix_.least_row(true, spared);
    if (least < 0 || prefix_.priority(least) > prefix_.priority(row)) {
      prefix_.evict_row(row);
      return;
    }
    prefix_.evict_row(least);
    to = rows_.allocate_spare();
  }
  prefix_.move_row(row, to);  // first, so that a failing copy does not leak the row
  runner_->copy_state(row, to);
}

int32_t Loop::choose_slot(const Ticket& ticket) const {
  const Request& request = *ticket.request;
  const auto idle = [](const Sequence& seq) { return seq.phase == Sequence::Phase::idle; };
  if (request.slot >= 0) {
    return idle(slots_[request.slot]) ? request.slot : -1;
  }
  const Sequence* similar = nullptr;
  int64_t shared = 0;
  const Sequence* oldest = nullptr;
  for (const Sequence& seq : slots_) {
    if (!idle(seq)) {
      continue;
    }
    const auto end = std::ranges::mismatch(seq.tokens, request.prompt).in1;
    const int64_t common = end - seq.tokens.begin();
    if (common > shared) {
      shared = common;
      similar = &seq;
    }
    if (oldest == nullptr || seq.last_used < oldest->last_used) {
      oldest = &seq;
    }
  }
  if (request.cache_prompt && similar != nullptr &&
      static_cast<double>(shared) > kSimilarity * static_cast<double>(request.prompt.size())) {
    return similar->slot;
  }
  return oldest == nullptr ? -1 : oldest->slot;
}

bool Loop::start(const Ticket& ticket) {
  const Request& request = *ticket.request;
  const auto n_prompt = static_cast<int32_t>(request.prompt.size());
  // One token may always be generated: it needs no place in the caches, only its successor does.
  const int32_t room = std::max(1, options_.n_ctx_slot - n_prompt);
  const int32_t max_new = request.max_tokens < 0 ? room : std::min(room, request.max_tokens);
  const int32_t needed = blocks_for(int64_t{n_prompt} + std::max(max_new - 1, 0));
  const int32_t slot = choose_slot(ticket);
  if (slot < 0 || reserved_blocks_ + needed > blocks_.total()) {
    return false;
  }
  Sequence& seq = slots_[slot];
  seq.ticket = ticket;
  seq.phase = Sequence::Phase::running;
  seq.order = ++clock_;
  seq.tokens.assign(request.prompt.begin(), request.prompt.end());
  seq.n_prompt = n_prompt;
  seq.n_fed = seq.n_done = 0;
  seq.reserved_blocks = needed;
  seq.salt = request.cache_salt;
  seq.cached = request.cache_prompt;
  seq.exact = true;
  seq.talk = {seq.order, Answers::unknown};
  seq.cuts.clear();
  seq.next_cut = 0;
  seq.max_new = max_new;
  seq.n_asked = seq.n_new = 0;
  seq.last_step = 0;
  seq.last_row = -1;
  seq.in_flight = 0;
  seq.start = Clock::now();
  seq.timings = {};
  seq.paused = false;
  const bool host = request.hook != nullptr || request.n_probs > 0 || request.want_logprob;
  // A view of the request, which the ticket keeps.
  seq.device = host ? model::DeviceSampling{} : device_sampling(request.sampling, runner_->capacity());
  reserved_blocks_ += needed;
  ++n_busy_;
  try {
    seq.sampler.start(*ticket.sampling, ticket.sampling->seed, runner_->capacity().n_vocab, seq.tokens);
    resume(seq);
  } catch (const model::DeviceError& e) {
    const std::string what = std::string("the device failed: ") + e.what();
    fail_steps(what, e.lost);
    finish(seq, Finish::error, std::nullopt, what);
    return true;
  } catch (const std::exception& e) {
    give_up(std::string("internal error: ") + e.what());
    return true;
  }
  stats_.cached_tokens += seq.timings.cached_n;
  tell(seq, [&](Sink& sink) { sink.on_prompt(seq.n_fed, seq.n_prompt, seq.n_fed); });
  return true;
}

void Loop::resume(Sequence& seq) {
  int32_t n_blocked = 0;
  if (seq.cached) {
    const PrefixCache::Match match = prefix_.find(seq.tokens, seq.salt);
    n_blocked = match.n_blocked;
    if (match.n_tokens > 0) {
      prefix_.acquire(match.node, seq.path, seq.blocks);
      seq.exact = match.exact;
      if (match.tail != PrefixCache::kNone) {
        const int32_t source = prefix_.tail_row(match.tail);
        seq.talk = prefix_.resume(source, seq.talk.conversation);
        const bool spare = rows_.is_spare(source);
        if (spare) {
          seq.row = allocate_step_row(source);
        }
        const PrefixCache::Parked parked = prefix_.take_tail(match.tail);
        seq.blocks.push_back(parked.block);
        if (spare) {
          rows_.release(
              parked.row);  // first, so that a failing copy does not leak it; nothing takes it before
          runner_->copy_state(parked.row, seq.row);
        } else {
          seq.row = parked.row;
        }
      } else {
        const int32_t source = prefix_.checkpoint(match.node);
        seq.talk = prefix_.resume(source, seq.talk.conversation);
        seq.row = allocate_step_row(source);
        if (seq.row < 0) {
          set_aside(source, -1);  // it lies in the last step row there is: go on in it
          seq.row = rows_.allocate_step();
        } else {
          runner_->copy_state(source, seq.row);
        }
      }
      seq.n_fed = seq.n_done = match.n_tokens;
      seq.timings.cached_n = match.n_tokens;
    }
  }
  if (seq.row < 0) {
    seq.row = allocate_step_row(-1);
  }
  FL_CHECK(seq.row >= 0, "no state row for a slot");
  if (seq.cached) {
    place_cuts(seq, n_blocked);
  }
  choose_leader(seq);
}

void Loop::place_cuts(Sequence& seq, int32_t n_blocked) {
  if (options_.n_checkpoints == 0) {
    return;
  }
  const int32_t last = std::max(0, seq.n_prompt - kUnstableTail) / kBlockTokens * kBlockTokens;
  const auto want = [&](int32_t position, Worth worth) {
    position = position / kBlockTokens * kBlockTokens;
    if (position > seq.n_fed && position <= last) {
      seq.cuts.push_back({position, worth});
    }
  };
  want(last, Worth::latest);
  want(n_blocked, Worth::shared);  // another sequence left this one's path here; a third may as well
  for (const int32_t end : seq.request().turn_ends) {
    want(end, Worth::passing);
  }
  // A long prompt must not push everything else out: it may take half of the spare rows.
  const int32_t share = std::max(1, options_.n_checkpoints / 2);
  const int32_t spacing =
      std::max(kCheckpointSpacing, blocks_for((last - seq.n_fed) / share + 1) * kBlockTokens);
  for (int32_t at = seq.n_fed + spacing; at < last; at += spacing) {
    want(at, Worth::passing);
  }
  std::ranges::sort(seq.cuts, [](const Cut& a, const Cut& b) {
    return a.position < b.position || (a.position == b.position && a.worth > b.worth);
  });
  const auto same = [](const Cut& a, const Cut& b) { return a.position == b.position; };
  seq.cuts.erase(std::unique(seq.cuts.begin(), seq.cuts.end(), same), seq.cuts.end());
  // Of many places on the way the first, often the end of a system prompt, and the latest are kept.
  while (static_cast<int32_t>(seq.cuts.size()) > options_.n_checkpoints) {
    const auto second = std::ranges::find(seq.cuts.begin() + 1, seq.cuts.end(), Worth::passing, &Cut::worth);
    seq.cuts.erase(second != seq.cuts.end() ? second : seq.cuts.begin());
  }
}

void Loop::publish_blocks(Sequence& seq, int32_t n_tokens) {
  if (!seq.cached) {
    return;
  }
  const uint64_t salt = seq.salt;
  while ((static_cast<int32_t>(seq.path.size()) + 1) * kBlockTokens <= n_tokens) {
    const auto index = seq.path.size();
    const auto tokens = std::span<const int32_t>(seq.tokens).subspan(index * kBlockTokens, kBlockTokens);
    const bool exact = seq.exact && static_cast<int32_t>(index + 1) * kBlockTokens <= seq.n_prompt;
    if (!exact && !options_.cache_generated) {
      return;
    }
    const int32_t parent = index == 0 ? PrefixCache::kRoot : seq.path.back();
    int32_t node = prefix_.child(parent, tokens, salt);
    if (node == PrefixCache::kNone) {
      node = prefix_.insert(parent, tokens, seq.blocks[index], exact, salt);
    } else if (exact && prefix_.exact(node)) {
      // The same bits by construction: go on with the shared block and give the own one back.
      const int32_t shared = prefix_.block(node);
      blocks_.add_ref(shared);
      blocks_.release(seq.blocks[index]);
      seq.blocks[index] = shared;
    } else if (!prefix_.pinned(node) && (exact || !prefix_.exact(node))) {
      prefix_.replace_block(node, seq.blocks[index], exact);
    } else {
      return;  // a running sequence holds another making of these tokens: wait until it lets go
    }
    prefix_.pin(node);
    seq.path.push_back(node);
  }
}

void Loop::take_checkpoint(Sequence& seq) {
  if (seq.next_cut >= seq.cuts.size() || seq.n_fed < seq.cuts[seq.next_cut].position) {
    return;
  }
  const Cut cut = seq.cuts[seq.next_cut++];
  if (seq.n_fed != cut.position || static_cast<int32_t>(seq.path.size()) * kBlockTokens != cut.position) {
    return;  // its blocks are not the cache's, so its state must not be either
  }
  if (cut.worth == Worth::latest) {
    prefix_.step_down(seq.talk.conversation);
  }
  const int32_t node = seq.path.back();
  const PrefixCache::Claim claim =
      cut.worth == Worth::latest ? PrefixCache::Claim::of_prompt(seq.talk.conversation, seq.talk.answers)
                                 : PrefixCache::Claim{cut.worth, seq.talk.conversation};
  if (prefix_.checkpoint(node) >= 0 && (prefix_.checkpoint_exact(node) || !seq.exact)) {
    prefix_.join_checkpoint(node, claim);
    return;
  }
  const int32_t row = allocate_spare_row(node, cut.worth);
  if (row >= 0) {
    prefix_.set_checkpoint(node, row, seq.exact, claim);  // first, so that a failing copy does not leak it
    runner_->copy_state(seq.row, row);
  }
}

bool Loop::cancel(RequestId id) {
  for (Sequence& seq : slots_) {
    if (seq.phase == Sequence::Phase::running && seq.ticket.id == id) {
      finish(seq, Finish::cancelled, std::nullopt, {});
      return true;
    }
  }
  return false;
}

void Loop::cancel_all() {
  for (Sequence& seq : slots_) {
    finish(seq, Finish::cancelled, std::nullopt, {});
  }
}

void Loop::finish(Sequence& seq, Finish how, std::optional<int32_t> stop_token, const std::string& error) {
  if (seq.phase != Sequence::Phase::running) {
    return;
  }
  seq.phase = Sequence::Phase::closing;
  if (how == Finish::error) {
    ++stats_.requests_failed;
  } else {
    ++stats_.requests_done;
  }
  stats_.max_context = std::max(stats_.max_context, static_cast<int32_t>(seq.tokens.size()));
  DoneEvent done;
  done.finish = how;
  done.stop_token = stop_token;
  done.timings = seq.timings;
  done.slot = seq.slot;
  done.seed = seq.sampler.seed();
  done.error = error;
  if (how == Finish::error) {
    seq.cached = false;  // its memory may hold anything: it is freed, never kept
  }
  const std::shared_ptr<const Request> request = seq.ticket.request;  // release() lets go of it
  if (seq.in_flight == 0) {
    release(seq, true);
  }
  try {
    request->sink->on_done(done);
  } catch (const std::exception& e) {
    spdlog::warn("engine: a sink threw at its end: {}", e.what());
  } catch (...) {
    spdlog::warn("engine: a sink threw at its end");
  }
}

void Loop::park(Sequence& seq) {
  const bool exact = seq.exact && seq.n_fed <= seq.n_prompt && seq.n_fed % kBlockTokens == 0;
  const uint64_t salt = seq.salt;
  const auto tokens = std::span<const int32_t>(seq.tokens);
  const int32_t n_full = seq.n_fed / kBlockTokens;
  while (static_cast<int32_t>(seq.path.size()) < n_full) {
    const auto index = seq.path.size();
    const auto content = tokens.subspan(index * kBlockTokens, kBlockTokens);
    const bool block_exact = seq.exact && static_cast<int32_t>(index + 1) * kBlockTokens <= seq.n_prompt;
    if (!block_exact && !options_.cache_generated) {
      return;
    }
    const int32_t parent = index == 0 ? PrefixCache::kRoot : seq.path.back();
    int32_t node = prefix_.child(parent, content, salt);
    if (node == PrefixCache::kNone) {
      node = prefix_.insert(parent, content, seq.blocks[index], block_exact, salt);
    } else if (block_exact && prefix_.exact(node)) {
      blocks_.add_ref(prefix_.block(node));
      blocks_.release(seq.blocks[index]);
      seq.blocks[index] = prefix_.block(node);
    } else if (!prefix_.pinned(node) && (block_exact || !prefix_.exact(node))) {
      prefix_.replace_block(node, seq.blocks[index], block_exact);
    }
    prefix_.pin(node);
    seq.path.push_back(node);
  }
  if (seq.n_fed == 0 || (!exact && !options_.cache_generated)) {
    return;
  }
  const int32_t node = seq.path.empty() ? PrefixCache::kRoot : seq.path.back();
  // The live state belongs to this sequence's own blocks. Where the cache holds others for the same tokens,
  // keep the state only if both are exact and so the same.
  for (int32_t i = 0; i < n_full; ++i) {
    if (prefix_.block(seq.path[i]) != seq.blocks[i]) {
      return;
    }
  }
  const auto claim = PrefixCache::Claim::of_answer(seq.talk.conversation, seq.talk.answers);
  if (seq.n_fed % kBlockTokens != 0) {
    prefix_.park(node, tokens.subspan(int64_t{n_full} * kBlockTokens, seq.n_fed % kBlockTokens),
                 seq.blocks.back(), seq.row, salt, claim);
    seq.blocks.pop_back();
    seq.row = -1;
  } else if (prefix_.checkpoint(node) < 0 || (exact && !prefix_.checkpoint_exact(node))) {
    prefix_.set_checkpoint(node, seq.row, exact, claim);
    seq.row = -1;
  } else {
    prefix_.join_checkpoint(node, claim);
  }
}

void Loop::release(Sequence& seq, bool keep) {
  seq.tokens.resize(std::min(seq.tokens.size(), static_cast<size_t>(seq.n_fed)));
  if (keep && seq.cached) {
    park(seq);
  }
  prefix_.unpin(seq.path);
  seq.path.clear();
  for (const int32_t block : seq.blocks) {
    blocks_.release(block);
  }
  seq.blocks.clear();
  if (seq.row >= 0) {
    rows_.release(seq.row);
    seq.row = -1;
  }
  reserved_blocks_ -= seq.reserved_blocks;
  seq.reserved_blocks = 0;
  seq.phase = Sequence::Phase::idle;
  seq.last_used = ++clock_;
  seq.ticket.request.reset();
  --n_busy_;
}

Result<int32_t> Loop::erase_slot(int32_t slot) {
  if (slot < 0 || slot >= options_.n_slots) {
    return fail(ErrorCode::invalid_argument, "slot: expected 0 to " + std::to_string(options_.n_slots - 1) +
                                                 ", found " + std::to_string(slot));
  }
  Sequence& seq = slots_[slot];
  if (seq.phase != Sequence::Phase::idle) {
    return fail(ErrorCode::invalid_argument, "slot " + std::to_string(slot) + " is busy");
  }
  const int32_t erased = prefix_.erase(seq.tokens, seq.salt);
  seq.tokens.clear();
  return erased;
}

void Loop::fail_steps(const std::string& what, bool lost) {
  spdlog::error("engine: {}", what);
  lost_ = lost_ || lost;
  // What the failed steps wrote may have been shared already. Sequences outside these steps keep their own
  // blocks.
  prefix_.clear();
  for (Sequence& seq : slots_) {
    seq.path.clear();
  }
  const auto end = [&](Step& step) {
    for (const Entry& entry : step.entries) {
      Sequence& seq = slots_[entry.slot];
      seq.in_flight = 0;
      if (seq.phase == Sequence::Phase::running) {
        finish(seq, Finish::error, std::nullopt, what);
      } else if (seq.phase == Sequence::Phase::closing) {
        release(seq, false);
      }
    }
    step.entries.clear();
  };
  end(building_);
  if (!collecting_.entries.empty()) {
    end(collecting_);
    spare_steps_.push_back(std::move(collecting_));
  }
  while (!flying_.empty()) {
    Step step = std::move(flying_.front());
    flying_.erase(flying_.begin());
    try {
      runner_->collect();
    } catch (const model::DeviceError& e) {
      lost_ = lost_ || e.lost;
    } catch (const std::exception& e) {
      spdlog::error("engine: while emptying the runner: {}", e.what());
    }
    end(step);
    spare_steps_.push_back(std::move(step));
  }
  if (lost_) {
    for (Sequence& seq : slots_) {
      finish(seq, Finish::error, std::nullopt, what);
    }
  }
}

void Loop::give_up(const std::string& what) {
  fail_steps(what, false);
  for (Sequence& seq : slots_) {
    finish(seq, Finish::error, std::nullopt, what);
  }
}

}  // namespace fl::engine
