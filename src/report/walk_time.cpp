// What fits into the time that is left, and how much that is.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/statistics.h"
#include "report/walker.h"

namespace fl::report {
namespace {

constexpr int64_t kWarmUpTokens = 16;
constexpr double kMostCorrection = 2;
constexpr int64_t kMostRepeats = 2;  // times the asked ones, when they spread
// The share of the budget that is kept for the coding tasks, and its most.
constexpr double kQualityShare = 0.25;
constexpr double kQualitySeconds = 300;
// Interleaving that was given up is taken up again when it fits this share of what is left.
constexpr double kAgainShare = 0.6;
constexpr double kSteadyShare = 0.05;  // of the run, over which the time left follows a new estimate
constexpr double kTaskSeconds = 1;     // of a task beside its answer: its prompt and the sandbox

bool for_time(const Flag& cut) {
  return cut.text.find(kForTime) != std::string::npos;
}

bool left_out_for_time(const ConfigPlan& plan) {
  return std::any_of(plan.cut.begin(), plan.cut.end(), for_time);
}

// Moves a depth that was left out for time back among those that are measured. False: it was not left out.
bool take_back(ConfigPlan& plan, const std::string& depth, const std::vector<std::string>& order) {
  const auto cut = std::find_if(plan.cut.begin(), plan.cut.end(),
                                [&](const Flag& flag) { return flag.code == depth && for_time(flag); });
  if (cut == plan.cut.end()) {
    return false;
  }
  plan.cut.erase(cut);
  std::vector<std::string> depths;
  for (const std::string& known : order) {
    if (known == depth || std::find(plan.depths.begin(), plan.depths.end(), known) != plan.depths.end()) {
      depths.push_back(known);
    }
  }
  plan.depths = std::move(depths);
  return true;
}

}  // namespace

double Walker::spent() const {
  return spent_before_ + std::chrono::duration<double>(Clock::now() - begun_).count();
}

void Walker::choose() {
  std::vector<size_t> open;
  std::vector<ConfigSize> todo;
  double left = (options_.budget_seconds - spent() - quality_reserve() - anchor_seconds()) / correction();
  for (size_t k = 0; k < sizes_.size(); ++k) {
    if (const auto known = plans_.find({sizes_[k].ctx, sizes_[k].chats}); known != plans_.end()) {
      chosen_[k] = known->second.depths;
      sizes_[k].parts = known->second.parts;
      left -= planned_seconds(k, false);
    } else if (!ended_.contains({sizes_[k].ctx, sizes_[k].chats})) {
      open.push_back(k);
      todo.push_back(sizes_[k]);
    }
  }
  const auto chosen = choose_cells(cost_, todo, options_, *facts_, starts(), left);
  for (size_t n = 0; n < open.size(); ++n) {
    chosen_[open[n]] = chosen[n];
    sizes_[open[n]].parts = todo[n].parts;
  }
}

int64_t Walker::repeats_after(int64_t walk) const {
  return (options_.repeats * walk + kWalks - 1) / kWalks;
}

bool Walker::interleave(size_t i) {
  if (walk_ >= kWalks || repeats_after(walk_) >= options_.repeats) {
    return false;
  }
  double left = anchor_seconds();
  size_t n_others = 0;
  for (size_t k = 0; k < sizes_.size(); ++k) {
    const auto known = plans_.find({sizes_[k].ctx, sizes_[k].chats});
    if (known != plans_.end() && left_out_for_time(known->second)) {
      return false;
    }
    const double seconds = planned_seconds(k, true);
    n_others += k != i && seconds > 0 ? 1 : 0;
    left += seconds;
  }
  left *= correction();
  const double total =
      spent() + quality_reserve() +
      (left + extra_.expected_in_walks(left, false)) / (may_interleave_ ? kUsableShare : kAgainShare);
  may_interleave_ = options_.budget_seconds <= 0 || total <= options_.budget_seconds;
  return may_interleave_ && n_others > 0;
}

std::vector<Step> Walker::steps_up_to(const ConfigPlan& plan, int64_t last) const {
  ConfigPlan part = plan;
  part.repeats = std::min(plan.repeats, last);
  return steps_of(part, done_);
}

Result<ConfigPlan> Walker::plan_for(size_t i) {
  choose();
  const ConfigSize& size = sizes_[i];
  if (const auto known = plans_.find({size.ctx, size.chats}); known != plans_.end()) {
    return known->second;
  }
  ConfigPlan plan{size.ctx, size.chats, chosen_[i], options_.repeats, 0, {}, size.parts};
  plan.estimated_seconds = config_seconds(cost_, size, plan.depths, options_, *facts_, starts());
  for (const std::string& depth : options_.depths) {
    if (std::find(plan.depths.begin(), plan.depths.end(), depth) == plan.depths.end()) {
      std::vector<std::string> with = plan.depths;
      with.push_back(depth);
      const double more = config_seconds(cost_, size, with, options_, *facts_, starts()) -
                          (plan.depths.empty() ? 0 : plan.estimated_seconds);
      plan.cut.push_back({depth, fmt::format("its estimated {:.0f} s and those of the cells before it do not "
                                             "fit {} {:.0f} s",
                                             more, kForTime, options_.budget_seconds)});
    }
  }
  FL_TRY(keep(plan));
  return plan;
}

Status Walker::walk_left_out() {
  if (options_.budget_seconds <= 0 || !facts_) {
    return {};
  }
  std::map<size_t, ConfigPlan> again;
  double left = kUsableShare * (options_.budget_seconds - spent() - quality_reserve() - anchor_seconds()) /
                correction();
  // The order of choose_depths: empty windows, then full ones.
  for (const std::string depth : {"empty", "full", "half"}) {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const std::pair key{sizes_[i].ctx, sizes_[i].chats};
      const auto known = plans_.find(key);
      if (known == plans_.end() || ended_.contains(key)) {
        continue;
      }
      const double seconds = config_seconds(cost_, sizes_[i], {depth}, options_, *facts_, starts());
      if (seconds > left) {
        continue;
      }
      ConfigPlan& plan = again.try_emplace(i, known->second).first->second;
      if (take_back(plan, depth, options_.depths)) {
        left -= seconds;
      }
    }
  }
  for (auto& [i, plan] : again) {
    const ConfigPlan& before = plans_.at({plan.ctx, plan.chats});
    if (plan.depths.size() == before.depths.size()) {
      continue;
    }
    plan.estimated_seconds = config_seconds(cost_, sizes_[i], plan.depths, options_, *facts_, starts());
    FL_TRY(keep(plan));
    FL_TRY(visit(i));  // as a whole: it is the last walk
  }
  return {};
}

Shape Walker::shape_for(const ConfigSize& size, const Step& step) const {
  Shape shape = shape_of(step.depth, size.window, options_, *facts_);
  if (step.kind == "warm-up") {
    shape.answer = std::min(shape.answer, kWarmUpTokens);
    return shape;
  }
  return stretched(shape, cost_, size.chats);
}

double Walker::step_seconds(const ConfigSize& size, const Step& step) const {
  return report::step_seconds(cost_, size, step, shape_for(size, step));
}

double Walker::visit_seconds(size_t k, int64_t n_repeats) const {
  Options part = options_;
  part.repeats = n_repeats;
  return n_repeats > 0 && !chosen_[k].empty()
             ? config_seconds(cost_, sizes_[k], chosen_[k], part, *facts_, starts())
             : 0;
}

double Walker::later_seconds(size_t k) const {
  double sum = 0;
  for (int64_t walk = walk_ + 1; walk <= kWalks; ++walk) {
    sum += visit_seconds(k, repeats_after(walk) - repeats_after(walk - 1));
  }
  return sum;
}

double Walker::planned_seconds(size_t k, bool interleaved) const {
  const std::pair key{sizes_[k].ctx, sizes_[k].chats};
  if (ended_.contains(key)) {
    return 0;
  }
  const int64_t last = interleaved ? repeats_after(walk_) : options_.repeats;
  const auto known = plans_.find(key);
  double sum = interleaved ? later_seconds(k) : 0;
  if (known == plans_.end()) {
    return sum + visit_seconds(k, last);
  }
  const std::vector<Step> steps = steps_up_to(known->second, last);
  sum += steps.empty() || !starts() ? 0 : cost_.start();
  for (const Step& step : steps) {
    sum += step_seconds(sizes_[k], step);
  }
  return sum;
}

double Walker::seconds_left(size_t i, const std::vector<Step>& steps, size_t at) const {
  double left = anchor_seconds() + (interleaved_ ? later_seconds(i) : 0);
  for (size_t s = at; s < steps.size(); ++s) {
    left += step_seconds(sizes_[i], steps[s]);
  }
  for (size_t k = 0; k < sizes_.size(); ++k) {
    left += k == i ? 0 : planned_seconds(k, interleaved_);
  }
  return left * correction();
}

void Walker::show(size_t i, const std::vector<Step>& steps, size_t at) {
  if (!job_.on_progress) {
    return;
  }
  RunProgress out;
  const double left = seconds_left(i, steps, at);
  const bool walks = options_.sample_seconds > 0 && (interleaved_ || walk_ > 1);
  out.seconds_left = left +
                     (walks ? extra_.expected_in_walks(left, walk_ == kWalks) : extra_.expected(left)) +
                     (quality_done_ || options_.tasks == "none" ? 0 : quality_estimate());
  out.seconds_done = spent();
  // One slow answer moves the estimate of everything; a twentieth of the run later it has been forgotten.
  const double total = out.seconds_done + out.seconds_left;
  const double since =
      shown_total_ > 0 && total > 0 ? (out.seconds_done - shown_at_) / (kSteadyShare * total) : 1;
  shown_total_ += std::min(1.0, since) * (total - shown_total_);
  shown_at_ = out.seconds_done;
  out.seconds_left = std::max(0.0, shown_total_ - out.seconds_done);
  out.cells_total = static_cast<int64_t>(sizes_.size() * options_.depths.size());
  // Of this walk.
  const int64_t repeat = interleaved_ ? repeats_after(walk_) : options_.repeats;
  if (interleaved_ || walk_ > 1) {
    out.walk = walk_;
    out.n_walks = kWalks;
  }
  for (const auto& [key, plan] : plans_) {
    out.cells_done += static_cast<int64_t>(plan.cut.size());
    for (const std::string& depth : plan.depths) {
      out.cells_done += done_.contains({key.first, key.second, depth, repeat, plan.parts}) ? 1 : 0;
    }
  }
  if (at < steps.size()) {
    out.now = fmt::format("{}, {} {}, {}{}", short_tokens(sizes_[i].ctx), sizes_[i].chats,
                          sizes_[i].chats == 1 ? "chat" : "chats", steps[at].depth,
                          steps[at].kind == "fill" ? ", reading" : "");
  }
  out.total_rate = rate_;
  job_.on_progress(out);
}

double Walker::correction() const {
  return predicted_ > 0 ? std::clamp(taken_ / predicted_, 1 / kMostCorrection, kMostCorrection) : 1;
}

double Walker::n_tasks() const {
  constexpr double kBuiltinTasks = 20;
  constexpr double kHumanEvalTasks = 164;
  const double all = options_.tasks == "builtin" ? kBuiltinTasks : kHumanEvalTasks;
  return options_.task_limit > 0 ? std::min(all, static_cast<double>(options_.task_limit)) : all;
}

double Walker::quality_reserve() const {
  if (options_.budget_seconds <= 0 || options_.tasks == "none" || quality_done_) {
    return 0;
  }
  // Every answer as long as it may be, one after another.
  const double longest =
      cost_.start() + n_tasks() * (cost_.decode(options_.task_tokens, 1, 0) + kTaskSeconds);
  return std::min({kQualityShare * options_.budget_seconds, kQualitySeconds, longest});
}

double Walker::quality_estimate() const {
  const double n = n_tasks();
  const double most =
      options_.budget_seconds > 0 ? std::max(0.0, options_.budget_seconds - spent()) : kQualitySeconds;
  return std::min(most, n * cost_.decode(options_.task_tokens / 4, 1, 0));
}

Result<bool> Walker::drop_depth(size_t i, const std::string& depth, const std::vector<Step>& steps) {
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
      spent() + seconds + quality_reserve() <= options_.budget_seconds) {
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

bool Walker::wants_more(size_t i, const std::vector<Step>& steps, size_t at) const {
  const ConfigSize& size = sizes_[i];
  const Step& step = steps[at];
  if (options_.sample_seconds <= 0 || step.repeat >= kMostRepeats * options_.repeats) {
    return false;
  }
  const double more = correction() * static_cast<double>(size.parts) * step_seconds(size, step);
  // A run of one configuration has nothing else to do with its time.
  if (sizes_.size() > 1 && !extra_.has_room(more)) {
    return false;
  }
  // Cells come before more repeats of one.
  for (size_t k = i; k < sizes_.size(); ++k) {
    const auto known = plans_.find({sizes_[k].ctx, sizes_[k].chats});
    if (known != plans_.end() ? left_out_for_time(known->second)
                              : chosen_[k].size() < options_.depths.size()) {
      return false;
    }
  }
  const std::vector<double> rates = repeat_rates(open_.records, size.ctx, size.chats, step.depth);
  if (stat_of(rates).cv <= kMaxCv) {
    return false;
  }
  return options_.budget_seconds <= 0 ||
         spent() + quality_reserve() + (more + seconds_left(i, steps, at + 1)) / kUsableShare <=
             options_.budget_seconds;
}

double Walker::anchor_seconds() const {
  const std::optional<ConfigSize> size = anchor_size(false);
  if (!size || !facts_ || sizes_.size() < 2) {
    return 0;
  }
  const bool middle = !past_middle_ && !interleaved_ && walk_ == 1 && sizes_.size() >= kLongRun;
  const double n = (middle ? 1 : 0) + (past_end_ ? 0 : 1);
  return n * config_seconds(cost_, *size, {kAnchorDepth}, options_, *facts_, starts());
}

}  // namespace fl::report
