#include "report/walker.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "report/assemble.h"
#include "report/prompts.h"

namespace fl::report {
namespace {

// A killed run has its journal: the report so far is for people who look.
constexpr double kWriteSeconds = 10;

std::string new_run_id(const std::string& started_at) {
  std::string id;
  for (const char c : started_at) {
    if (c != '-' && c != ':' && c != 'Z') {
      id += c == 'T' ? '-' : c;
    }
  }
  std::random_device random;
  return fmt::format("{}-{:04x}", id, random() & 0xffff);
}

}  // namespace

Walker::Walker(const RunJob& job, Instruments& tools, OpenJournal& open)
    : job_(job), options_(job.manifest.options), tools_(tools), open_(open), begun_(tools.now()) {
  for (const Record& record : open_.records) {
    learn(record);
  }
}

Status Walker::walk() {
  if (!has_run_) {
    RunRecord run;
    run.started_at = now_utc();
    run.id = new_run_id(run.started_at);
    run.command = job_.command;
    run.ceilings = job_.ceilings;
    FL_TRY(keep(run));
  }
  if (options_.kind == "url") {
    FL_TRY(open_url());
  }
  FL_ASSIGN(sizes_, sizes());
  if (sizes_.size() == 1 && options_.sample_seconds > 0) {
    options_.repeats *= kMoreRepeats;
  }
  n_more_ = most_more();
  chosen_.assign(sizes_.size(), options_.depths);
  FL_TRY(cut_beyond_training());
  for (const Record& record : open_.records) {
    if (const auto* batch = std::get_if<Batch>(&record)) {
      forecast_.add(place_of(batch->ctx, batch->chats, Step{batch->depth, batch->kind}), batch->seconds);
    }
  }
  order_ = spanning_order(sizes_.size());
  for (walk_ = 1; walk_ <= kWalks; ++walk_) {
    for (size_t n = 0; n < order_.size(); ++n) {
      if (is_due(order_[n])) {
        FL_TRY(visit(order_[n]));
      }
      if (walk_ == 1 && n + 1 == order_.size() / 2 && order_.size() >= kLongRun) {
        past_middle_ = true;
        FL_TRY(walk_anchor(n + 1));
      }
    }
  }
  walk_ = kWalks;
  interleaved_ = false;
  FL_TRY(walk_left_out());
  past_end_ = true;
  FL_TRY(walk_anchor(sizes_.size()));
  FL_TRY(walk_quality());
  return walk_profiles();
}

void Walker::learn(const Record& record) {
  if (const auto* run = std::get_if<RunRecord>(&record)) {
    run_id_ = run->id;
    has_run_ = true;
  } else if (const auto* facts = std::get_if<Facts>(&record)) {
    facts_ = *facts;
    cost_.learn(*facts);
  } else if (const auto* start = std::get_if<Start>(&record)) {
    cost_.learn(*start);
    ++n_starts_;
    spent_before_ += start->startup_seconds;
    visits_before_ += visits_ ? start->startup_seconds : 0;
    if (!start->started) {
      ended_.insert({start->ctx, start->chats});
    }
  } else if (const auto* lost = std::get_if<Lost>(&record)) {
    ended_.insert({lost->ctx, lost->chats});
  } else if (const auto* plan = std::get_if<ConfigPlan>(&record)) {
    plans_.insert_or_assign({plan->ctx, plan->chats}, *plan);
  } else if (const auto* batch = std::get_if<Batch>(&record)) {
    cost_.learn(*batch);
    extra_.add(*batch, options_.repeats);
    spent_before_ += batch->seconds;
    visits_before_ += visits_ ? batch->seconds : 0;
    if (batch->kind == "measure") {
      done_.insert({batch->ctx, batch->chats, batch->depth, batch->repeat, batch->part});
      if (batch->decode_total) {
        rates_[{batch->ctx, batch->chats, batch->depth}][batch->repeat].add(*batch->decode_total);
        starts_[{batch->ctx, batch->chats, batch->depth}].insert(n_starts_);
        scatter_.add({batch->ctx, batch->chats, batch->depth, batch->kind}, *batch->decode_total);
      }
    } else if (batch->kind == "anchor") {
      anchored_.insert({batch->anchor, batch->repeat, batch->part});
    }
  } else if (const auto* answer = std::get_if<AnswerRecord>(&record)) {
    answers_.push_back(answer->line);
  } else if (std::holds_alternative<QualityRecord>(record)) {
    quality_done_ = true;
  } else if (const auto* visits = std::get_if<ProfileVisits>(&record)) {
    visits_ = *visits;
  }
}

Status Walker::keep(Record record) {
  FL_TRY(open_.journal.append(to_line(record)));
  const double spent = spent_before_;
  learn(record);
  spent_before_ = spent;  // the clock of this process counts its own work
  open_.records.push_back(std::move(record));
  return {};
}

Status Walker::open_url() {
  Session session;
  FL_TRY(tools_.open({}, {}, session));
  if (!facts_) {
    FL_ASSIGN(Facts facts, tools_.ask(session, seed_of(run_id_, "calibration")));
    return keep(std::move(facts));
  }
  FL_ASSIGN(const Facts now, tools_.describe(session));
  const auto same = [](const Facts& f) {
    return std::tie(f.name, f.version, f.model, f.model_path, f.window, f.n_slots);
  };
  if (same(now) != same(*facts_)) {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format("the server at {} is not the one that was measured: {} {} with {} ({} tokens, {} slots) "
                    "then, {} {} with {} ({} tokens, {} slots) now",
                    options_.url, facts_->name, facts_->version, facts_->model, facts_->window,
                    facts_->n_slots, now.name, now.version, now.model, now.window, now.n_slots));
  }
  return {};
}

Result<std::vector<ConfigSize>> Walker::sizes() const {
  std::vector<ConfigSize> out;
  std::vector<int64_t> rows = options_.ctx;
  const bool own_rows = options_.kind == "url" && rows.empty();
  if (own_rows) {
    if (facts_->window <= 0) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("the server at {} does not say how large its context is; say it with --ctx",
                              options_.url));
    }
    rows = {facts_->window * std::max<int64_t>(1, facts_->n_slots)};
  }
  for (const int64_t ctx : rows) {
    for (const int64_t chats : options_.chats) {
      out.push_back({ctx, chats, own_rows ? facts_->window : ctx / chats});
    }
  }
  return out;
}

std::optional<Cut> Walker::misfit(const ConfigSize& size, const Facts& facts) const {
  if (facts.n_slots > 0 && facts.n_slots < size.chats) {
    return Cut{"", kCutSlots, fmt::format("the server has {} slots for {} chats", facts.n_slots, size.chats)};
  }
  if (facts.window > 0 && facts.window < size.window) {
    const bool untrained = facts.ctx_train && *facts.ctx_train <= facts.window;
    return Cut{"", untrained ? kCutUntrained : kCutWindow,
               fmt::format("the server gives each chat {} tokens, fewer than asked{}", facts.window,
                           untrained ? " (the length that the model was trained for)" : "")};
  }
  if (size.window < kLeastWindow) {
    return Cut{"", kCutSmall, fmt::format("{} tokens for each chat are too few to measure", size.window)};
  }
  return std::nullopt;
}

Status Walker::cut_all(const ConfigSize& size, Cut cut) {
  ConfigPlan plan{size.ctx, size.chats, {}, 0, 0, {}, 1};
  for (const std::string& depth : options_.depths) {
    cut.depth = depth;
    plan.cut.push_back(cut);
  }
  return keep(std::move(plan));
}

Status Walker::cut_beyond_training() {
  const std::optional<int64_t> trained = job_.manifest.model.ctx_train;
  if (options_.kind != "model" || !trained) {
    return {};
  }
  const std::string reason =
      fmt::format("more for one chat than the {} tokens that the model was trained for", *trained);
  std::vector<std::string> places;
  for (const ConfigSize& size : sizes_) {
    if (size.window > *trained) {
      places.push_back(fmt::format("{} x {}", short_tokens(size.ctx), size.chats));
      if (!plans_.contains({size.ctx, size.chats})) {
        FL_TRY(cut_all(size, {"", kCutUntrained, reason}));
      }
    }
  }
  if (!places.empty()) {
    say(fmt::format("left out, {} (context x chats): {}", reason, fmt::join(places, ", ")));
  }
  return {};
}

Status Walker::visit(size_t i) {
  const double begun = tools_.now();
  const bool first = !facts_;  // it is asked everything, and may measure its limits
  in_steps_ = 0;
  FL_TRY(walk_configuration(i));
  FL_TRY(write_so_far());
  // What a start costs beside its batches: the server's own time, asking it, ending it, the report so far.
  if (in_steps_ > 0 && !first) {
    const double start = tools_.now() - begun - in_steps_;
    cost_.learn_visit(start);
    if (starts()) {
      forecast_.add({sizes_[i].ctx, sizes_[i].chats, "", "start"}, start);
    }
  }
  return {};
}

Status Walker::write_so_far() {
  if (written_ && tools_.now() - *written_ < kWriteSeconds) {
    return {};
  }
  const double begun = tools_.now();
  const Document so_far = assemble(job_.manifest, open_.records, "");
  FL_TRY(job_.write(so_far));
  if (!visits_) {
    profile_cells_ = profile_cells(so_far);
  }
  written_ = tools_.now();
  write_seconds_ = *written_ - begun;
  return {};
}

bool Walker::is_due(size_t i) const {
  const std::pair key{sizes_[i].ctx, sizes_[i].chats};
  const auto known = plans_.find(key);
  // Without interleaving a configuration is as far as no walk asks it to be: it is finished in the last one.
  return !ended_.contains(key) &&
         (known == plans_.end() || !steps_up_to(known->second, repeats_after(walk_)).empty());
}

Status Walker::walk_configuration(size_t i) {
  const ConfigSize& size = sizes_[i];
  if (job_.cancel->load()) {
    return fail(ErrorCode::unavailable, "interrupted");
  }
  // With the first server's speeds known, what does not fit is not started.
  if (facts_ && !plans_.contains({size.ctx, size.chats})) {
    if (auto cut = options_.kind == "url" ? misfit(size, *facts_) : std::nullopt) {
      return cut_all(size, std::move(*cut));
    }
    FL_ASSIGN(const ConfigPlan plan, plan_for(i));
    if (plan.depths.empty()) {
      return {};
    }
  }
  Session session;
  // Once a run our server measures what the device can do at most.
  std::vector<std::string> more;
  if (options_.kind == "model" && !facts_ && !job_.ceilings) {
    more.emplace_back("--measure-limits");
  }
  Status opened = tools_.open(size, more, session);
  if (!opened && opened.error().code == ErrorCode::unavailable) {
    return opened;
  }
  Start start{
      size.ctx, size.chats, size.window, session.command, opened.has_value(), "", session.startup_seconds,
      {}};
  if (!opened && plans_.contains({size.ctx, size.chats})) {
    return lose(size, session, opened.error());  // it did start before
  }
  if (!opened) {
    start.error = opened.error().message;
    say(fmt::format("{} x {}: {}", short_tokens(size.ctx), size.chats, start.error));
    return keep(std::move(start));
  }
  Facts now;
  if (const auto asked = ask(session)) {
    now = *asked;
  } else if (asked.error().code == ErrorCode::unavailable || options_.kind == "url") {
    return tl::unexpected(asked.error());
  } else {
    FL_TRY(keep(std::move(start)));
    return lose(size, session, asked.error());
  }
  start.parts = now.parts;
  FL_TRY(keep(std::move(start)));
  if (auto cut = misfit(size, now)) {
    return cut_all(size, std::move(*cut));
  }
  FL_ASSIGN(const ConfigPlan plan, plan_for(i));
  if (profile_) {
    return walk_steps(i, profile_steps(*profile_), session);
  }
  interleaved_ = interleave(i);
  return walk_steps(i, steps_up_to(plan, interleaved_ ? repeats_after(walk_) : plan.repeats), session);
}

Result<Facts> Walker::ask(const Session& session) {
  if (facts_) {
    return tools_.describe(session);
  }
  FL_ASSIGN(Facts facts, tools_.ask(session, seed_of(run_id_, "calibration")));
  FL_TRY(keep(facts));
  return facts;
}

Status Walker::lose(const ConfigSize& size, Session& session, const Error& error) {
  constexpr size_t kLogLines = 8;
  std::string text = error.message;
  if (session.process && !session.process->running()) {
    text = "the server ended while it was measured: " + session.process->log_tail(kLogLines);
  }
  say(fmt::format("{} x {}: {}", short_tokens(size.ctx), size.chats, text));
  return keep(Lost{size.ctx, size.chats, text});
}

Status Walker::walk_steps(size_t i, std::vector<Step> steps, Session& session) {
  const ConfigSize& size = sizes_[i];
  std::set<std::string> dropped;
  for (size_t s = 0; s < steps.size(); ++s) {
    const Step step = steps[s];
    if (step.kind == "fill" && step.only == 0) {
      FL_ASSIGN(const bool drop, drop_depth(i, step.depth, steps));
      if (drop) {
        dropped.insert(step.depth);
      }
    }
    if (dropped.contains(step.depth)) {
      continue;
    }
    show(i, steps, s);
    bool lost = false;
    FL_TRY(walk_step(size, step, 0, session, lost));
    if (lost) {
      return {};
    }
    if (step.kind == "measure") {
      go_on(i, steps, s);
    }
  }
  show(i, steps, steps.size());
  return {};
}

void Walker::go_on(size_t i, std::vector<Step>& steps, size_t at) {
  const int64_t parts = sizes_[i].parts;
  const Step step = steps[at];
  if (profile_) {
    go_on_with_profile(*profile_, steps, at);
  } else if (step.repeat >= options_.repeats && step.part == parts && wants_more(i, steps, at)) {
    for (int64_t part = 1; part <= parts; ++part) {
      steps.insert(steps.begin() + static_cast<std::ptrdiff_t>(at) + part,
                   {step.depth, "measure", step.repeat + 1, -1, false, part});
    }
  }
}

Status Walker::walk_step(const ConfigSize& size, const Step& step, int64_t anchor, Session& session,
                         bool& lost) {
  const double begun = tools_.now();
  const double forecast = step_seconds(size, step);
  const BatchSpec spec{size.ctx,  size.chats,  step.depth,
                       step.kind, step.repeat, step.part,
                       anchor,    step.only,   shape_for(size, step),
                       run_id_,   n_starts_};
  auto batch = measure_beside(tools_, session, *facts_, spec, step.closes ? step.part : size.parts);
  if (!batch && batch.error().code == ErrorCode::network && options_.kind != "url") {
    lost = true;
    return lose(size, session, batch.error());
  }
  if (!batch) {
    return tl::unexpected(batch.error());
  }
  rate_ = batch->decode_total.value_or(rate_);
  const bool none = std::none_of(batch->samples.begin(), batch->samples.end(),
                                 [](const Sample& sample) { return sample.status == "ok"; });
  // A filling asks for one token, which a server may give that breaks every longer answer.
  if (step.kind == "measure") {
    n_failed_ = none ? n_failed_ + 1 : 0;
  }
  const std::string error = batch->samples.empty() ? "" : batch->samples.front().error;
  FL_TRY(keep(std::move(*batch)));
  // Texts are counted by the server and kept on disk: that takes time, too.
  const double taken = tools_.now() - begun;
  in_steps_ += taken;
  forecast_.add(place_of(size.ctx, size.chats, step), taken, forecast, promise_.said());
  if (n_failed_ >= kMaxFailedBatches) {
    return fail(ErrorCode::network,
                fmt::format("{} repeats in a row had no good answer; the last one: {}", n_failed_, error));
  }
  return {};
}

}  // namespace fl::report
