#include "report/again.h"

#include <cmath>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/prompts.h"

namespace fl::report {
namespace {

constexpr int64_t kRepeats = 3;       // of a visit
constexpr int64_t kSlowRepeats = 5;   // of one that took long to come to them
constexpr int kLeastTurns = 2;        // when a turn takes long, or the machine does not change:
constexpr double kWellKnown = 0.015;  // half of the interval
constexpr int kUsualTurns = 6;        // states of a machine last some ten seconds

// The whole interval.
bool lies_beyond(const Alike& report) {
  return report.change && std::abs(*report.change) - report.error > kProfileTolerance;
}

}  // namespace

CellAgain::CellAgain(const RunJob& job, Instruments& tools, const std::string& name)
    : job_(job), tools_(tools), depth_(job.manifest.options.depths.front()) {
  const Options& options = job.manifest.options;
  size_.ctx = options.ctx.front();
  size_.chats = options.chats.front();
  size_.window = size_.ctx / size_.chats;
  RunRecord run;
  run.started_at = now_utc();
  run.id = fmt::format("{}-{}", run.started_at, name);
  run.command = job.command;
  run.ceilings = job.ceilings;
  run_id_ = run.id;
  records_.emplace_back(std::move(run));
}

Status CellAgain::step(const Session& session, const Step& step) {
  const Options& options = job_.manifest.options;
  const BatchSpec spec{size_.ctx, size_.chats, step.depth,
                       step.kind, step.repeat, step.part,
                       0,         step.only,   shape_for(cost_, size_, step, options, *facts_),
                       run_id_,   n_visits_};
  FL_ASSIGN(Batch batch, measure_beside(tools_, session, *facts_, spec, size_.parts));
  cost_.learn(batch);
  const bool bad = batch.samples.empty() || batch.samples.front().status != "ok";
  const std::string error = batch.samples.empty() ? "no request was sent" : batch.samples.front().error;
  records_.emplace_back(std::move(batch));
  return bad ? Status(fail(ErrorCode::integrity, "the server did not answer: " + error)) : Status();
}

Status CellAgain::visit(int64_t n_repeats, int64_t n_when_slow) {
  const Options& options = job_.manifest.options;
  const double begun = tools_.now();
  Session session;
  ++n_visits_;
  FL_TRY(tools_.open(size_, {}, session));
  if (!facts_) {
    FL_ASSIGN(facts_, tools_.ask(session, seed_of(run_id_, "calibration")));
    records_.emplace_back(*facts_);
    cost_.learn(*facts_);
    size_.parts = parts_for(cost_, size_, options.sample_seconds, options, *facts_);
  }
  FL_ASSIGN(const Facts now, tools_.describe(session));
  if ((now.n_slots > 0 && now.n_slots < size_.chats) || (now.window > 0 && now.window < size_.window)) {
    return fail(ErrorCode::integrity, fmt::format("the server has {} slots of {} tokens, the cell {} of {}",
                                                  now.n_slots, now.window, size_.chats, size_.window));
  }
  records_.emplace_back(Start{size_.ctx, size_.chats, size_.window, session.command, true, "",
                              session.startup_seconds, now.parts});
  FL_TRY(step(session, {"empty", "warm-up"}));
  if (depth_ != "empty") {
    for (int64_t chat = 0; chat < size_.chats; ++chat) {
      FL_TRY(step(session, {depth_, "fill", 0, chat}));
    }
    FL_TRY(step(session, {depth_, "warm-up"}));
  }
  const int64_t n = tools_.now() - begun > kSlowStart ? n_when_slow : n_repeats;
  for (int64_t i = 0; i < n; ++i) {
    ++n_repeats_;
    for (int64_t part = 1; part <= size_.parts; ++part) {
      FL_TRY(step(session, {depth_, "measure", n_repeats_, -1, false, part}));
    }
  }
  return {};
}

Document CellAgain::document() const {
  std::vector<Record> records = records_;
  records.emplace_back(ConfigPlan{size_.ctx, size_.chats, {depth_}, n_repeats_, 0, {}, size_.parts});
  return assemble(job_.manifest, records, "");
}

std::vector<Repeat> CellAgain::repeats() const {
  const Document so_far = document();
  const Cell* cell = find_cell(so_far, size_.ctx, size_.chats, depth_);
  return cell != nullptr ? cell->repeats.value_or(std::vector<Repeat>{}) : std::vector<Repeat>{};
}

Result<Checked> check_cell(const Cell& cell, const CellsRepeats& others, bool reads_memory,
                           CellAgain& profile, CellAgain& reference, double most_seconds,
                           const std::function<double()>& now,
                           const std::function<void(const Checked&)>& on_turn) {
  const std::vector<Repeat> then = cell.repeats.value_or(std::vector<Repeat>{});
  const double begun = now();
  Checked out;
  for (int turn = 1;; ++turn) {
    FL_TRY(profile.visit(kRepeats, kSlowRepeats));
    FL_TRY(reference.visit(kRepeats, kSlowRepeats));
    out.profile = profile.document();
    out.reference = reference.document();
    const std::vector<Repeat> again = profile.repeats();
    const Cell* measured = find_cell(out.profile, cell.ctx, cell.chats, cell.depth);
    if (measured == nullptr || !measured->decode_total || !cell.decode_total) {
      return fail(ErrorCode::integrity, measured != nullptr && !measured->reason.empty()
                                            ? measured->reason
                                            : std::string("nothing was measured"));
    }
    out.change = measured->decode_total->mean / cell.decode_total->mean - 1;
    const std::vector<Repeat> as_reported = reference.repeats();
    out.report = compare_alike(then, again, reads_memory, as_reported, others);
    out.reported = compare_alike(then, as_reported, reads_memory, again, others);
    out.start = compare_alike(as_reported, again, reads_memory, then, others);
    out.n_turns = turn;
    out.seconds = now() - begun;
    on_turn(out);
    const double mean = out.seconds / turn;
    const bool over = out.seconds + mean > most_seconds;
    const bool slow = mean * kUsualTurns > most_seconds;
    // A difference that may still be chance gets more turns.
    const bool holds = judge(out.report) == Judgement::holds;
    const bool known = holds || lies_beyond(out.report);
    const bool few = slow || (holds && out.report.error <= kWellKnown);
    if (over || (known && turn >= (few ? kLeastTurns : kUsualTurns))) {
      return out;
    }
  }
}

Judgement judge(const Alike& report) {
  if (!report.change) {
    return Judgement::unknown;
  }
  const double off = std::abs(*report.change);
  const bool known = report.error <= kProfileTolerance;
  if (off > kProfileTolerance) {
    return known || lies_beyond(report) ? Judgement::differs : Judgement::unknown;
  }
  return known ? Judgement::holds : Judgement::unknown;
}

}  // namespace fl::report
