#include "report/runner.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/journal_file.h"
#include "report/plan.h"
#include "report/prompts.h"
#include "report/quality.h"
#include "report/session.h"
#include "report/steps.h"

namespace fl::report {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kWarmUpTokens = 16;
// The share of the budget that is kept for the coding tasks, and its most.
constexpr double kQualityShare = 0.25;
constexpr double kQualitySeconds = 300;
constexpr int64_t kQualityWindow = 4096;  // tokens of a chat that solves tasks
// Estimates are corrected by what the last batches took against theirs.
constexpr double kForget = 0.93;
constexpr double kMostCorrection = 2;

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

class Walker {
 public:
  Walker(const RunJob& job, OpenJournal& open)
      : job_(job), options_(job.manifest.options), open_(open), nvml_(Nvml::open()), begun_(Clock::now()) {
    for (const Record& record : open_.records) {
      learn(record);
    }
    if (options_.budget_seconds > 0 && options_.tasks != "none") {
      quality_reserve_ = std::min(kQualityShare * options_.budget_seconds, kQualitySeconds);
    }
  }

  Status walk() {
    if (!has_run_) {
      RunRecord run;
      run.started_at = now_utc();
      run.id = new_run_id(run.started_at);
      run.command = job_.command;
      if (job_.measure_ceilings) {
        run.ceilings = job_.measure_ceilings();
      }
      FL_TRY(keep(run));
    }
    if (options_.kind == "url") {
      FL_TRY(open_url());
    }
    FL_ASSIGN(sizes_, sizes());
    chosen_.assign(sizes_.size(), options_.depths);
    for (size_t i = 0; i < sizes_.size(); ++i) {
      FL_TRY(walk_configuration(i));
      FL_TRY(job_.write(assemble(job_.manifest, open_.records, "")));
    }
    return walk_quality();
  }

 private:
  // Every record passes here, fresh or from the journal.
  void learn(const Record& record) {
    if (const auto* run = std::get_if<RunRecord>(&record)) {
      run_id_ = run->id;
      has_run_ = true;
    } else if (const auto* facts = std::get_if<Facts>(&record)) {
      facts_ = *facts;
      cost_.learn(*facts);
    } else if (const auto* start = std::get_if<Start>(&record)) {
      cost_.learn(*start);
      spent_before_ += start->startup_seconds;
      if (!start->started) {
        ended_.insert({start->ctx, start->chats});
      }
    } else if (const auto* lost = std::get_if<Lost>(&record)) {
      ended_.insert({lost->ctx, lost->chats});
    } else if (const auto* plan = std::get_if<ConfigPlan>(&record)) {
      plans_.insert_or_assign({plan->ctx, plan->chats}, *plan);
    } else if (const auto* batch = std::get_if<Batch>(&record)) {
      cost_.learn(*batch);
      spent_before_ += batch->seconds;
      if (batch->kind == "measure") {
        done_.insert({batch->ctx, batch->chats, batch->depth, batch->repeat});
      }
    } else if (const auto* answer = std::get_if<AnswerRecord>(&record)) {
      answers_.push_back(answer->line);
    } else if (std::holds_alternative<QualityRecord>(record)) {
      quality_done_ = true;
    }
  }

  // On disk first: what is not kept did not happen.
  Status keep(Record record) {
    FL_TRY(open_.journal.append(to_line(record)));
    const double spent = spent_before_;
    learn(record);
    spent_before_ = spent;  // the clock of this process counts its own work
    open_.records.push_back(std::move(record));
    return {};
  }

  double spent() const {
    return spent_before_ + std::chrono::duration<double>(Clock::now() - begun_).count();
  }

  // A running server is asked before anything: its window decides the matrix.
  Status open_url() {
    Session session;
    FL_TRY(open_session(options_, {}, "", job_.api_key, job_.cancel, session));
    if (!facts_) {
      FL_ASSIGN(Facts facts,
                ask_server(session.endpoint, options_, seed_of(run_id_, "calibration"), job_.cancel));
      return keep(std::move(facts));
    }
    FL_ASSIGN(const Facts now, describe_server(session.endpoint, options_, job_.cancel));
    const auto same = [](const Facts& f) {
      return std::tie(f.name, f.version, f.model, f.model_path, f.window, f.n_slots);
    };
    if (same(now) != same(*facts_)) {
      return fail(
          ErrorCode::invalid_argument,
          fmt::format(
              "the server at {} is not the one that was measured: {} {} with {} ({} tokens, {} slots) "
              "then, {} {} with {} ({} tokens, {} slots) now",
              options_.url, facts_->name, facts_->version, facts_->model, facts_->window, facts_->n_slots,
              now.name, now.version, now.model, now.window, now.n_slots));
    }
    return {};
  }

  Result<std::vector<ConfigSize>> sizes() const {
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

  // Why a configuration cannot be what was asked; empty: it can.
  std::string misfit(const ConfigSize& size, const Facts& facts) const {
    if (facts.n_slots > 0 && facts.n_slots < size.chats) {
      return fmt::format("the server has {} slots for {} chats", facts.n_slots, size.chats);
    }
    if (facts.window > 0 && facts.window < size.window) {
      return fmt::format("the server gives each chat {} tokens, {} were asked", facts.window, size.window);
    }
    if (size.window < kLeastWindow) {
      return fmt::format("{} tokens for each chat are too few to measure", size.window);
    }
    return "";
  }

  Status cut_all(const ConfigSize& size, const std::string& reason) {
    ConfigPlan plan{size.ctx, size.chats, {}, 0, 0, {}};
    for (const std::string& depth : options_.depths) {
      plan.cut.push_back({depth, reason});
    }
    return keep(std::move(plan));
  }

  // The plan for a configuration that begins now; chooses for the later ones too, for the time left.
  Result<ConfigPlan> plan_for(size_t i) {
    const ConfigSize& size = sizes_[i];
    const bool starts = options_.kind != "url";
    const std::vector<ConfigSize> todo(sizes_.begin() + static_cast<std::ptrdiff_t>(i), sizes_.end());
    const double left = (options_.budget_seconds - spent() - quality_reserve_) / correction();
    const auto chosen = choose_depths(cost_, todo, options_, *facts_, starts, left);
    std::copy(chosen.begin(), chosen.end(), chosen_.begin() + static_cast<std::ptrdiff_t>(i));
    if (const auto known = plans_.find({size.ctx, size.chats}); known != plans_.end()) {
      chosen_[i] = known->second.depths;
      return known->second;
    }
    ConfigPlan plan{size.ctx, size.chats, chosen[0], options_.repeats, 0, {}};
    plan.estimated_seconds = config_seconds(cost_, size, plan.depths, options_, *facts_, starts);
    for (const std::string& depth : options_.depths) {
      if (std::find(plan.depths.begin(), plan.depths.end(), depth) == plan.depths.end()) {
        std::vector<std::string> with = plan.depths;
        with.push_back(depth);
        const double more = config_seconds(cost_, size, with, options_, *facts_, starts) -
                            (plan.depths.empty() ? 0 : plan.estimated_seconds);
        plan.cut.push_back({depth, fmt::format("its estimated {:.0f} s do not fit {} {:.0f} s", more,
                                               kForTime, options_.budget_seconds)});
      }
    }
    FL_TRY(keep(plan));
    return plan;
  }

  Shape shape_for(const ConfigSize& size, const Step& step) const {
    Shape shape = shape_of(step.depth, size.window, options_, *facts_);
    if (step.kind == "warm-up") {
      shape.answer = std::min(shape.answer, kWarmUpTokens);
      return shape;
    }
    return stretched(shape, cost_, size.chats);
  }

  double step_seconds(const ConfigSize& size, const Step& step) const {
    return report::step_seconds(cost_, size, step, shape_for(size, step));
  }

  void show(size_t i, const std::vector<Step>& steps, size_t at, double rate) {
    if (!job_.on_progress) {
      return;
    }
    RunProgress out;
    const bool starts = options_.kind != "url";
    double left = quality_done_ || options_.tasks == "none" ? 0 : quality_estimate();
    for (size_t s = at; s < steps.size(); ++s) {
      left += step_seconds(sizes_[i], steps[s]);
    }
    for (size_t k = i + 1; k < sizes_.size(); ++k) {
      if (!chosen_[k].empty() && !ended_.contains({sizes_[k].ctx, sizes_[k].chats})) {
        left += config_seconds(cost_, sizes_[k], chosen_[k], options_, *facts_, starts);
      }
    }
    out.seconds_left = left * correction();
    out.seconds_done = spent();
    out.cells_total = static_cast<int64_t>(sizes_.size() * options_.depths.size());
    std::set<std::tuple<int64_t, int64_t, std::string>> cells;
    for (const auto& [ctx, chats, depth, repeat] : done_) {
      if (repeat >= options_.repeats) {
        cells.insert({ctx, chats, depth});
      }
    }
    out.cells_done = static_cast<int64_t>(cells.size());
    for (const auto& [key, plan] : plans_) {
      out.cells_done += static_cast<int64_t>(plan.cut.size());
    }
    if (at < steps.size()) {
      out.now = fmt::format("{}, {} {}, {}{}", short_tokens(sizes_[i].ctx), sizes_[i].chats,
                            sizes_[i].chats == 1 ? "chat" : "chats", steps[at].depth,
                            steps[at].kind == "fill" ? ", reading" : "");
    }
    out.total_rate = rate;
    job_.on_progress(out);
  }

  // What the last batches took against their estimates.
  double correction() const {
    return predicted_ > 0 ? std::clamp(taken_ / predicted_, 1 / kMostCorrection, kMostCorrection) : 1;
  }

  double quality_estimate() const {
    constexpr double kTasks = 20;
    const double n = options_.task_limit > 0 ? static_cast<double>(options_.task_limit) : kTasks;
    const double most =
        options_.budget_seconds > 0 ? std::max(0.0, options_.budget_seconds - spent()) : kQualitySeconds;
    return std::min(most, n * cost_.decode(options_.task_tokens / 4, 1, 0));
  }

  // Measures one configuration. An error ends the run; a server that fails ends the configuration.
  Status walk_configuration(size_t i) {
    const ConfigSize& size = sizes_[i];
    if (ended_.contains({size.ctx, size.chats})) {
      return {};
    }
    if (const auto known = plans_.find({size.ctx, size.chats});
        known != plans_.end() && steps_of(known->second, done_).empty()) {
      return {};
    }
    if (job_.cancel->load()) {
      return fail(ErrorCode::unavailable, "interrupted");
    }
    // With the first server's speeds known, what does not fit is not started.
    if (facts_ && !plans_.contains({size.ctx, size.chats})) {
      if (const std::string reason = options_.kind == "url" ? misfit(size, *facts_) : ""; !reason.empty()) {
        return cut_all(size, reason);
      }
      FL_ASSIGN(const ConfigPlan plan, plan_for(i));
      if (plan.depths.empty()) {
        return {};
      }
    }
    Session session;
    Status opened =
        open_session(options_, size, job_.manifest.model.path, job_.api_key, job_.cancel, session);
    if (!opened && opened.error().code == ErrorCode::unavailable) {
      return opened;
    }
    Start start{
        size.ctx, size.chats, size.window, session.command, opened.has_value(), "", session.startup_seconds,
        {}};
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
    if (const std::string reason = misfit(size, now); !reason.empty()) {
      return cut_all(size, reason);
    }
    FL_ASSIGN(const ConfigPlan plan, plan_for(i));
    return walk_steps(i, steps_of(plan, done_), session);
  }

  // What this start of the server says; the first one is asked everything.
  Result<Facts> ask(const Session& session) {
    if (facts_) {
      return describe_server(session.endpoint, options_, job_.cancel);
    }
    FL_ASSIGN(Facts facts,
              ask_server(session.endpoint, options_, seed_of(run_id_, "calibration"), job_.cancel));
    FL_TRY(keep(facts));
    return facts;
  }

  Status lose(const ConfigSize& size, Session& session, const Error& error) {
    constexpr size_t kLogLines = 8;
    std::string text = error.message;
    if (session.process && !session.process->running()) {
      text = "the server ended while it was measured: " + session.process->log_tail(kLogLines);
    }
    say(fmt::format("{} x {}: {}", short_tokens(size.ctx), size.chats, text));
    return keep(Lost{size.ctx, size.chats, text});
  }

  // The machine may have become slower since the plan: a filling that does not fit any more is left out
  // before it is begun. True: it was.
  Result<bool> drop_depth(size_t i, const std::string& depth, const std::vector<Step>& steps) {
    const ConfigSize& size = sizes_[i];
    double seconds = 0;
    for (const Step& step : steps) {
      seconds += step.depth == depth ? step_seconds(size, step) : 0;
    }
    seconds *= correction();
    const bool begun = std::any_of(done_.begin(), done_.end(), [&](const auto& key) {
      return std::get<0>(key) == size.ctx && std::get<1>(key) == size.chats && std::get<2>(key) == depth;
    });
    if (options_.budget_seconds <= 0 || begun ||
        spent() + seconds + quality_reserve_ <= options_.budget_seconds) {
      return false;
    }
    ConfigPlan plan = plans_.at({size.ctx, size.chats});
    std::erase(plan.depths, depth);
    plan.cut.push_back({depth, fmt::format("of {} {:.0f} s {:.0f} were left, it takes about {:.0f}", kForTime,
                                           options_.budget_seconds,
                                           std::max(0.0, options_.budget_seconds - spent()), seconds)});
    FL_TRY(keep(std::move(plan)));
    return true;
  }

  Status walk_steps(size_t i, const std::vector<Step>& steps, Session& session) {
    const ConfigSize& size = sizes_[i];
    std::set<std::string> dropped;
    double rate = 0;
    for (size_t s = 0; s < steps.size(); ++s) {
      const Step& step = steps[s];
      if (step.kind == "fill" && step.only == 0) {
        FL_ASSIGN(const bool drop, drop_depth(i, step.depth, steps));
        if (drop) {
          dropped.insert(step.depth);
        }
      }
      if (dropped.contains(step.depth)) {
        continue;
      }
      show(i, steps, s, rate);
      const double predicted = step_seconds(size, step);
      BatchSpec spec{
          size.ctx, size.chats, step.depth, step.kind, step.repeat, step.only, shape_for(size, step),
          run_id_};
      auto batch =
          measure(session.endpoint, *facts_, options_, spec, texts_, nvml_.get(), session.pid, job_.cancel);
      if (!batch && batch.error().code == ErrorCode::network && options_.kind != "url") {
        return lose(size, session, batch.error());
      }
      if (!batch) {
        return tl::unexpected(batch.error());
      }
      taken_ = kForget * taken_ + batch->seconds;
      predicted_ = kForget * predicted_ + predicted;
      rate = batch->decode_total.value_or(rate);
      const bool none = std::none_of(batch->samples.begin(), batch->samples.end(),
                                     [](const Sample& sample) { return sample.status == "ok"; });
      n_failed_ = !none ? 0 : n_failed_ + (step.kind == "measure" ? 1 : 0);
      const std::string error = batch->samples.empty() ? "" : batch->samples.front().error;
      FL_TRY(keep(std::move(*batch)));
      if (n_failed_ >= kMaxFailedBatches) {
        return fail(
            ErrorCode::network,
            fmt::format("{} repeats in a row had no good answer; the last one: {}", n_failed_, error));
      }
    }
    show(i, steps, steps.size(), rate);
    return {};
  }

  // The coding tasks run with the most chats for which each has room for a long answer.
  ConfigSize quality_size() const {
    ConfigSize out{0, 1, 0};
    for (const ConfigSize& size : sizes_) {
      const bool ran = plans_.contains({size.ctx, size.chats}) && !ended_.contains({size.ctx, size.chats});
      if (ran && size.window >= kQualityWindow && (out.ctx == 0 || size.chats > out.chats)) {
        out = size;
      }
    }
    if (out.ctx == 0 && !sizes_.empty()) {
      out = sizes_.back();
    }
    return out;
  }

  Status walk_quality() {
    if (options_.tasks == "none" || quality_done_) {
      return {};
    }
    const auto begun = Clock::now();
    const ConfigSize size = quality_size();
    Session session;
    QualityRecord record;
    record.quality.tasks = options_.tasks.substr(0, options_.tasks.find('='));
    record.quality.mode = "chat";
    record.quality.thinking = options_.thinking;
    Status opened =
        open_session(options_, size, job_.manifest.model.path, job_.api_key, job_.cancel, session);
    if (!opened && opened.error().code == ErrorCode::unavailable) {
      return opened;
    }
    if (!opened || !facts_) {
      record.quality.reason = opened ? "the server answered no chat" : opened.error().message;
      return keep(std::move(record));
    }
    QualityJob job;
    job.endpoint = session.endpoint;
    job.model = facts_->model;
    job.options = &options_;
    job.n_parallel = size.chats;
    job.seconds_left = options_.budget_seconds > 0 ? std::max(1.0, options_.budget_seconds - spent()) : 0;
    job.known = answers_;
    job.keep = [this](const std::string& line) { return keep(AnswerRecord{line}); };
    job.on_progress = [&](int64_t done, int64_t total) {
      if (job_.on_progress) {
        RunProgress progress;
        const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
        progress.cells_total = static_cast<int64_t>(sizes_.size() * options_.depths.size());
        progress.cells_done = progress.cells_total;
        progress.now = fmt::format("coding tasks, {} of {}", done, total);
        progress.seconds_done = spent();
        progress.seconds_left =
            done > 0 ? seconds / static_cast<double>(done) * static_cast<double>(total - done) : 0;
        job_.on_progress(progress);
      }
    };
    job.cancel = job_.cancel;
    FL_ASSIGN(record.quality, measure_quality(job));
    record.seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    return keep(std::move(record));
  }

  void say(const std::string& line) const {
    if (job_.say) {
      job_.say(line);
    }
  }

  static constexpr int64_t kLeastWindow = 256;

  const RunJob& job_;
  const Options& options_;
  OpenJournal& open_;
  std::unique_ptr<Nvml> nvml_;
  Clock::time_point begun_;

  std::string run_id_;
  bool has_run_ = false;
  std::optional<Facts> facts_;
  CostModel cost_;
  TextSizes texts_;
  std::vector<ConfigSize> sizes_;
  std::vector<std::vector<std::string>> chosen_;
  std::map<std::pair<int64_t, int64_t>, ConfigPlan> plans_;
  std::set<std::pair<int64_t, int64_t>> ended_;
  DoneBatches done_;
  std::vector<std::string> answers_;
  bool quality_done_ = false;
  double quality_reserve_ = 0;
  double spent_before_ = 0;
  double taken_ = 0;
  double predicted_ = 0;
  int n_failed_ = 0;
};

}  // namespace

Result<RunOutcome> run_matrix(const RunJob& job) {
  FL_ASSIGN(OpenJournal open, open_journal(job.out_dir, job.manifest, job.fresh));
  RunOutcome out;
  out.resumed = open.resumed;
  Walker walker(job, open);
  const Status walked = walker.walk();
  std::string reason;
  if (!walked) {
    out.interrupted = walked.error().code == ErrorCode::unavailable && job.cancel->load();
    out.error = walked.error();
    reason = walked.error().message;
  }
  out.document = assemble(job.manifest, open.records, reason);
  const Status written = job.write(out.document);
  if (!written && !out.error) {
    out.error = written.error();
  }
  // The end is recorded when the report is on disk: killed in between, the next start writes it.
  if (!out.error) {
    if (const Status ended = open.journal.append(to_line(EndRecord{now_utc()})); !ended) {
      out.error = ended.error();
    }
  }
  return out;
}

}  // namespace fl::report
