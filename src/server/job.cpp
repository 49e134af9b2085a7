#include "server/job.h"

#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/metrics.h"
#include "server/reasoning_budget.h"

namespace fl::server {
namespace {

constexpr uint32_t kDrawnSeed = 0xFFFFFFFF;

// The ends of the turns in a rendered chat.
std::vector<int32_t> turn_ends(const tokenizer::Tokenizer& tokenizer, const std::vector<int32_t>& prompt) {
  std::vector<int32_t> ends;
  const auto marker = tokenizer.special_id("<|im_end|>");
  if (!marker) {
    return ends;
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] == *marker) {
      ends.push_back(static_cast<int32_t>(std::min(i + 2, prompt.size())));  // with the line break behind it
    }
  }
  return ends;
}

}  // namespace

Job::Job(std::shared_ptr<const Context> context, GenerationRequest request, std::function<void()> wake)
    : context_(std::move(context)), request_(std::move(request)), begin_(std::chrono::steady_clock::now()) {
  const auto n = static_cast<int32_t>(request_.prompts.size()) * request_.n_choices;
  queue_ = std::make_shared<EventQueue>(n, std::move(wake));
  for (int32_t i = 0; i < n; ++i) {
    answers_.push_back(std::make_unique<Answer>(*context_, request_, i));
  }
  sequences_.resize(static_cast<size_t>(n));
  last_ms_.resize(static_cast<size_t>(n));
  shape_ = Shape::make(*context_, request_);
}

Job::~Job() {
  queue_->close();
  for (const Sequence& sequence : sequences_) {
    if (sequence.submitted && !sequence.done) {
      context_->engine().cancel(sequence.id);
    }
  }
}

ApiResult<std::unique_ptr<Job>> Job::start(std::shared_ptr<const Context> context, GenerationRequest request,
                                           uint64_t cache_salt, std::function<void()> wake) {
  std::unique_ptr<Job> job(new Job(std::move(context), std::move(request), std::move(wake)));
  if (auto submitted = job->submit(cache_salt); !submitted) {
    return refuse(submitted.error());
  }
  return job;
}

ApiResult<void> Job::submit(uint64_t cache_salt) {
  const tokenizer::Tokenizer& tokenizer = context_->tokenizer();
  engine::SamplingParams sampling = request_.sampling;
  if (engine::active(sampling, engine::SamplerKind::dry)) {
    sampling.dry_breakers = breaker_ids(tokenizer, request_.dry_breakers);
  }
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const auto choice = static_cast<uint32_t>(i) % static_cast<uint32_t>(request_.n_choices);
    engine::Request request;
    request.prompt = request_.prompts[i / static_cast<size_t>(request_.n_choices)];
    request.sampling = sampling;
    if (sampling.seed != kDrawnSeed) {
      request.sampling.seed = sampling.seed + choice;
    }
    request.max_tokens = request_.n_predict;
    request.stop_tokens = tokenizer.end_of_generation();
    request.ignore_eos = request_.ignore_eos;
    if (request_.ignore_eos) {
      // Ending is not only ignored but not chosen, as llama-server does.
      for (const int32_t id : tokenizer.end_of_generation()) {
        request.sampling.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
      }
    }
    request.cache_prompt = request_.cache_prompt;
    request.slot = request_.id_slot < 0 ? -1 : request_.id_slot % context_->n_slots();
    request.n_probs = request_.n_probs;
    request.want_logprob = request_.wants_probs();
    request.post_sampling_probs = request_.post_sampling_probs;
    request.cache_salt = cache_salt;
    if (request_.api == Api::chat) {
      request.turn_ends = turn_ends(tokenizer, request.prompt);
      if (request_.reasoning_budget >= 0 && context_->has_thinking()) {
        request.hook = std::make_shared<ReasoningBudget>(
            tokenizer, request_.reasoning_budget, request_.reasoning_budget_message, request_.chat.prefix);
      }
    }
    request.sink = make_sink(queue_, static_cast<int32_t>(i));
    auto id = context_->engine().submit(std::move(request));
    if (!id) {
      return refuse(from(id.error()));
    }
    sequences_[i].id = *id;
    sequences_[i].submitted = true;
  }
  return {};
}

void Job::poll(std::string& out) {
  if (queue_->take(events_)) {
    context_->engine().wake();
  }
  for (const Event& event : events_) {
    if (failed_) {
      return;
    }
    std::visit([&](const auto& what) { on(event, what, out); }, event.what);
  }
  sent_ = sent_ || !out.empty();
}

void Job::on(const Event& event, const PromptEvent& prompt, std::string& out) {
  started_ = true;
  if (request_.stream && request_.return_progress) {
    const double ms = std::chrono::duration<double, std::milli>(event.at - begin_).count();
    shape_->prompt(*answers_[static_cast<size_t>(event.sequence)], prompt, ms, out);
  }
}

void Job::on(const Event& event, const engine::TokenEvent& token, std::string& out) {
  started_ = true;
  const auto index = static_cast<size_t>(event.sequence);
  Answer& answer = *answers_[index];
  if (answer.stopped()) {
    return;
  }
  if (token.timings.predicted_n <= 1) {
    context_->metrics().observe_first_token(std::chrono::duration<double>(event.at - begin_).count());
  } else {
    constexpr double kMs = 1e-3;
    context_->metrics().observe_inter_token((token.timings.predicted_ms - last_ms_[index]) * kMs);
  }
  last_ms_[index] = token.timings.predicted_ms;
  Piece piece = answer.push(token);
  if (answer.stopped() && !sequences_[index].done) {
    sequences_[index].cancelled = true;
    context_->engine().cancel(sequences_[index].id);
  }
  if (request_.stream) {
    shape_->piece(answer, std::move(piece), out);
  }
}

void Job::on(const Event& event, const engine::DoneEvent& done, std::string& out) {
  const auto index = static_cast<size_t>(event.sequence);
  sequences_[index].done = true;
  const bool cut = done.finish == engine::Finish::cancelled && !sequences_[index].cancelled;
  if (done.finish == engine::Finish::error || cut) {
    fail(done, out);
    return;
  }
  started_ = true;
  Answer& answer = *answers_[index];
  Piece piece = answer.finish(done);
  ++n_ended_;
  log(answer);
  if (request_.stream) {
    shape_->last(answer, std::move(piece), out);
    if (ended()) {
      shape_->end(answers_, out);
    }
  } else if (ended()) {
    out += dump(shape_->whole(answers_));
  }
}

void Job::fail(const engine::DoneEvent& done, std::string& out) {
  ApiError error = done.finish == engine::Finish::cancelled ? unavailable("the server is shutting down", 1)
                                                            : from(Error{ErrorCode::internal, done.error});
  if (request_.stream && (sent_ || !out.empty())) {
    append_event(out, to_json(error));
  }
  failed_ = std::move(error);
}

void Job::log(const Answer& answer) const {
  const engine::Timings& t = answer.timings();
  const Json rates = timings_json(t);
  spdlog::info(
      "slot {}: prompt eval time = {:.2f} ms / {} tokens ({:.2f} tokens per second, {} from the cache), eval "
      "time = {:.2f} "
      "ms / {} tokens ({:.2f} tokens per second), {}",
      answer.slot(), t.prompt_ms, t.prompt_n, rates["prompt_per_second"].get<double>(), t.cached_n,
      t.predicted_ms, t.predicted_n, rates["predicted_per_second"].get<double>(), answer.finish_reason());
}

}  // namespace fl::server
