#include "engine/loop.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "engine/logprobs.h"

namespace fl::engine {

using model::kBlockTokens;
using model::kTokenFromDevice;

namespace {

constexpr int32_t kMaxInFlight =
    2;  ///< one step computes while the next waits: more would only delay answers

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

Loop::Loop(std::unique_ptr<model::Runner> runner, const EngineOptions& options)
    : runner_(std::move(runner)),
      options_(options),
      blocks_(runner_->capacity().n_blocks),
      rows_(runner_->capacity().n_state_rows, runner_->capacity().n_spare_rows),
      prefix_(blocks_, rows_),
      scratch_(runner_->capacity().n_vocab) {
  const model::Capacity& capacity = runner_->capacity();
  FL_CHECK(options.n_slots >= 1 && options.n_ctx_slot >= 1, "an engine needs a slot and a context");
  FL_CHECK(capacity.n_state_rows >= options.n_slots, "fewer state rows than slots");
  FL_CHECK(capacity.max_slices >= options.n_slots && capacity.max_rows >= options.n_slots,
           "the runner takes fewer slices or rows than there are slots");
  FL_CHECK(capacity.max_tokens >= options.n_slots + kBlockTokens,
           "the runner's step must hold a token of each slot and a block of a prompt");
  FL_CHECK(capacity.n_blocks >= 1, "the runner has no KV blocks");
  options_.n_ctx_slot =
      static_cast<int32_t>(std::min<int64_t>(options.n_ctx_slot, int64_t{capacity.n_blocks} * kBlockTokens));
  slots_.resize(options.n_slots);
  for (int32_t i = 0; i < options.n_slots; ++i) {
    Sequence& seq = slots_[i];
    seq.slot = i;
    seq.tokens.reserve(int64_t{options_.n_ctx_slot} + 2);
    seq.blocks.reserve(options_.n_ctx_slot / kBlockTokens + 1);
    seq.path.reserve(options_.n_ctx_slot / kBlockTokens + 1);
  }
  flying_.reserve(kMaxInFlight);
  spare_steps_.resize(kMaxInFlight + 1);
  for (Step& step : spare_steps_) {
    step.entries.reserve(options.n_slots);
  }
  building_.entries.reserve(options.n_slots);
  waiting_.reserve(options.n_slots);
  chunks_.reserve(options.n_slots);
  tokens_.reserve(capacity.max_tokens);
  feedback_.reserve(capacity.max_tokens);
  positions_.reserve(capacity.max_tokens);
  slices_.reserve(options.n_slots);
  step_rows_.reserve(options.n_slots);
  board_.slots.resize(options.n_slots);
  board_.last_step = Clock::now();
  publish(0);
}

Loop::~Loop() = default;

int32_t Loop::depth() const {
  const int32_t most = std::min(runner_->capacity().max_in_flight, kMaxInFlight);
  const bool device = std::ranges::all_of(slots_, [](const Sequence& seq) {
    return seq.phase != Sequence::Phase::running || seq.max_new == 0 ||
           seq.device.mode != model::DeviceSampling::Mode::none;
  });
  return device ? most : 1;
}

bool Loop::is_ready(Sequence& seq) {
  bool ready = false;
  if (!tell(seq, [&](Sink& sink) { ready = sink.ready(); })) {
    return false;
  }
  seq.paused = !ready;
  return ready;
}

bool Loop::wants_decode(const Sequence& seq) const {
  if (seq.phase != Sequence::Phase::running || seq.in_prompt() || seq.n_asked >= seq.max_new) {
    return false;
  }
  if (seq.n_fed < static_cast<int32_t>(seq.tokens.size())) {
    return true;
  }
  // Its next token is still on the device, and only the step right after the one that samples it can take it
  // there.
  return seq.device.mode != model::DeviceSampling::Mode::none && seq.in_flight > 0 &&
         seq.last_step == n_steps_;
}

void Loop::reset_batch() {
  tokens_.clear();
  feedback_.clear();
  positions_.clear();
  slices_.clear();
  step_rows_.clear();
  building_.entries.clear();
}

void Loop::add_slice(Sequence& seq, int32_t n_tokens) {
  const int32_t end = seq.n_fed + n_tokens;
  while (static_cast<int32_t>(seq.blocks.size()) * kBlockTokens < end) {
    seq.blocks.push_back(allocate_block());
  }
  model::Slice slice;
  slice.first = static_cast<int32_t>(tokens_.size());
  slice.n_tokens = n_tokens;
  slice.n_cached = seq.n_fed;
  slice.state_row = seq.row;
  slice.prompt = seq.in_prompt();
  slice.blocks = seq.blocks;
  slices_.push_back(slice);
  for (int32_t i = seq.n_fed; i < end; ++i) {
    const bool known = i < static_cast<int32_t>(seq.tokens.size());
    tokens_.push_back(known ? seq.tokens[i] : kTokenFromDevice);
    feedback_.push_back(known ? -1 : seq.last_row);
    positions_.push_back({i, i, i});
  }
  Entry entry{seq.slot, n_tokens, -1};
  if (end >= seq.n_prompt && seq.n_asked < seq.max_new) {
    model::Row row;
    row.token = slice.first + n_tokens - 1;
    row.sampling = seq.device;
    row.logits_to_host = seq.device.mode == model::DeviceSampling::Mode::none;
    row.sampling.uniform = row.logits_to_host ? 0.0F : seq.sampler.draw(end);
    entry.row = static_cast<int32_t>(step_rows_.size());
    step_rows_.push_back(row);
  }
  building_.entries.push_back(entry);
}

bool Loop::submit_step() {
  reset_batch();
  int32_t n_decode = 0;
  waiting_.clear();
  for (Sequence& seq : slots_) {
    if (seq.phase != Sequence::Phase::running || !(seq.in_prompt() || wants_decode(seq)) || !is_ready(seq)) {
      continue;
    }
    if (seq.in_prompt()) {
      if (waits_for_leader(seq)) {
        continue;
      }
      const int32_t cut = seq.next_cut < seq.cuts.size() ? seq.cuts[seq.next_cut].position : 0;
      waiting_.push_back({seq.slot, seq.order, seq.n_fed, seq.n_prompt, cut});
    } else {
      add_slice(seq, 1);
      ++n_decode;
    }
  }
  plan_prompts(waiting_, n_decode,
               {options_.max_step_tokens, options_.max_chunk_tokens, runner_->capacity().max_tokens},
               chunks_);
  for (const Chunk& chunk : chunks_) {
    add_slice(slots_[chunk.sequence], chunk.n_tokens);
  }
  if (slices_.empty()) {
    return false;
  }

  const bool from_device = std::ranges::find(tokens_, kTokenFromDevice) != tokens_.end();
  runner_->submit({tokens_, from_device ? std::span<const int32_t>(feedback_) : std::span<const int32_t>(),
                   positions_, slices_, step_rows_});
  building_.number = ++n_steps_;
  flying_.push_back(std::move(building_));
  building_ = std::move(spare_steps_.back());
  spare_steps_.pop_back();
  building_.entries.clear();

  for (const Entry& entry : flying_.back().entries) {
    Sequence& seq = slots_[entry.slot];
    seq.n_fed += entry.n_tokens;
    ++seq.in_flight;
    if (entry.row >= 0) {
      ++seq.n_asked;
      seq.last_step = n_steps_;
      seq.last_row = entry.row;
    }
    publish_blocks(seq, std::min(seq.n_fed, static_cast<int32_t>(seq.tokens.size())));
    take_checkpoint(seq);
  }
  stats_.steps = n_steps_;
  busy_sum_ += flying_.back().entries.size();
  return true;
}

void Loop::collect_step() {
  collecting_ = std::move(flying_.front());
  flying_.erase(flying_.begin());
  const std::span<const model::RowResult> results = runner_->collect();
  for (const Entry& entry : collecting_.entries) {
    Sequence& seq = slots_[entry.slot];
    --seq.in_flight;
    commit(seq, entry, entry.row < 0 ? nullptr : &results[entry.row]);
  }
  for (const Entry& entry : collecting_.entries) {
    Sequence& seq = slots_[entry.slot];
    if (seq.phase == Sequence::Phase::closing && seq.in_flight == 0) {
      release(seq, true);
    }
  }
  collecting_.entries.clear();
  spare_steps_.push_back(std::move(collecting_));
}

void Loop::commit(Sequence& seq, const Entry& entry, const model::RowResult* result) {
  seq.n_done += entry.n_tokens;
  if (seq.phase == Sequence::Phase::running) {
    deliver(seq, entry, result);
  }
  // Its answer is given, but a step submitted since has consumed this row's token: the caches hold it.
  if (seq.phase == Sequence::Phase::closing && result != nullptr &&
      static_cast<int32_t>(seq.tokens.size()) < seq.n_fed) {
    seq.tokens.push_back(result->token);
    seq.cached = seq.cached && result->token >= 0;
  }
}

void Loop::deliver(Sequence& seq, const Entry& entry, const model::RowResult* result) {
  if (seq.n_done <= seq.n_prompt) {
    seq.timings.prompt_n += entry.n_tokens;
    stats_.prompt_tokens += entry.n_tokens;
    if (!tell(seq, [&](Sink& sink) { sink.on_prompt(seq.n_done, seq.n_prompt, seq.timings.cached_n); })) {
      return;
    }
    if (seq.n_done == seq.n_prompt) {
      seq.first_token = Clock::now();
      seq.timings.prompt_ms = ms_between(seq.start, seq.first_token);
      stats_.prompt_seconds += seq.timings.prompt_ms / 1e3;
      if (seq.max_new == 0) {
        finish(seq, Finish::length, std::nullopt, {});
        return;
      }
    }
  }
  if (result != nullptr) {
    choose_token(seq, *result);
  }
}

void Loop::choose_token(Sequence& seq, const model::RowResult& result) {
  const Request& request = seq.request();
  int32_t token = -1;
  event_.chosen.reset();
  event_.top.clear();
  if (seq.device.mode != model::DeviceSampling::Mode::none) {
    token = result.token;
    if (token < 0 || token >= runner_->capacity().n_vocab) {
      finish(seq, Finish::error, std::nullopt, "the model's logits are not finite numbers");
      return;
    }
  } else {
    TokenHook* hook = request.hook.get();
    try {
      const std::optional<int32_t> forced = hook != nullptr ? hook->forced() : std::nullopt;
      if (forced) {
        FL_CHECK(*forced >= 0 && *forced < runner_->capacity().n_vocab, "a hook forced a token out of range");
        token = *forced;
        scratch_.items.assign(1, {0.0F, token});
        scratch_.weights.assign(1, 1.0);
        scratch_.total = 1.0;
        if (std::isnan(largest(result.logits, result.maxima))) {
          finish(seq, Finish::error, std::nullopt, "the model's logits are not finite numbers");
          return;
        }
      } else {
        const Result<int32_t> sampled =
            seq.sampler.sample(result.logits, seq.tokens, hook, scratch_, request.n_probs, result.maxima);
        if (!sampled) {
          finish(seq, Finish::error, std::nullopt, sampled.error().message);
          return;
        }
        token = *sampled;
      }
      if (request.n_probs > 0 || request.want_logprob) {
        event_.chosen =
            request.post_sampling_probs
                ? sampler_logprobs(scratch_.items, scratch_.weights, scratch_.total, token, request.n_probs,
                                   event_.top)
                : model_logprobs(result.logits, token, request.n_probs, scratch_.select, event_.top);
      }
      if (hook != nullptr) {
        hook->accept(token);
      }
    } catch (const std::exception& e) {
      finish(seq, Finish::error, std::nullopt, e.what());
      return;
    }
  }

  seq.tokens.push_back(token);
  seq.sampler.accept(seq.tokens);
  ++seq.n_new;
  ++stats_.predicted_tokens;
  const double predicted_ms = ms_between(seq.first_token, Clock::now());
  stats_.predicted_seconds += (predicted_ms - seq.timings.predicted_ms) / 1e3;
  seq.timings.predicted_n = seq.n_new;
  seq.timings.predicted_ms = predicted_ms;
  publish_blocks(seq, std::min(seq.n_fed, static_cast<int32_t>(seq.tokens.size())));

  if (!request.ignore_eos && std::ranges::find(request.stop_tokens, token) != request.stop_tokens.end()) {
    finish(seq, Finish::stop, token, {});
    return;
  }
  event_.token = token;
  event_.timings = seq.timings;
  if (!tell(seq, [&](Sink& sink) { sink.on_token(event_); })) {
    return;
  }
  if (seq.n_new >= seq.max_new) {
    finish(seq, Finish::length, std::nullopt, {});
  }
}

bool Loop::round() {
  bool progress = false;
  try {
    while (static_cast<int32_t>(flying_.size()) < depth() && submit_step()) {
      progress = true;
    }
    if (!flying_.empty()) {
      collect_step();
      progress = true;
    }
  } catch (const model::DeviceError& e) {
    fail_steps(std::string("the device failed: ") + e.what(), e.lost);
    progress = true;
  } catch (const std::exception& e) {
    give_up(std::string("internal error: ") + e.what());
    progress = true;
  }
  return progress;
}

void Loop::publish(int32_t queued) {
  stats_.busy_slots = n_busy_;
  stats_.queued = queued;
  stats_.free_blocks = blocks_.free();
  stats_.total_blocks = blocks_.total();
  stats_.free_state_rows = rows_.free();
  stats_.device_lost = lost_;
  stats_.busy_slots_per_step =
      n_steps_ == 0 ? 0.0 : static_cast<double>(busy_sum_) / static_cast<double>(n_steps_);
  const std::scoped_lock lock(board_.mutex);
  if (stats_.steps != board_.stats.steps || board_.stats.busy_slots == 0) {
    board_.last_step = Clock::now();
  }
  board_.stats = stats_;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Sequence& seq = slots_[i];
    Board::Slot& slot = board_.slots[i];
    slot.info.id = seq.slot;
    slot.info.busy = seq.phase != Sequence::Phase::idle;
    slot.info.request = seq.ticket.id;
    slot.info.n_ctx = options_.n_ctx_slot;
    slot.info.n_prompt = seq.n_prompt;
    slot.info.n_prompt_done = std::min(seq.n_done, seq.n_prompt);
    slot.info.n_cached = seq.timings.cached_n;
    slot.info.n_decoded = slot.info.busy ? seq.n_new : 0;
    slot.info.n_remaining = slot.info.busy ? seq.max_new - seq.n_new : -1;
    slot.sampling = seq.ticket.sampling;
  }
}

}  // namespace fl::engine
