// What fits into the time that is left, and how much that is.
#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/format.h"
#include "report/statistics.h"
#include "report/walker.h"

namespace fl::report {
namespace {

constexpr double kAssumedSpread = 0.5;       // share of the cells that spread, counts as one cell
constexpr double kMoreWhenSpread = 2.0 / 3;  // of the asked repeats, that a cell takes which spreads
// The share of the budget that is kept for the coding tasks, and its most.
constexpr double kQualityShare = 0.25;
constexpr double kQualitySeconds = 300;
// Until the first configurations, which enclose the others, were measured, estimates are far off:
// interleaving is only given up when half as much again would not do.
constexpr size_t kSpanningVisits = 3;
constexpr double kUnsureShare = 1.5;
constexpr double kChooseSeconds = 1;    // until what is still open is chosen anew
constexpr double kTaskSeconds = 1;      // of a task beside its answer, at most: its prompt and the sandbox
constexpr double kCheckSeconds = 0.02;  // of a task's own two checks in the sandbox
// The share of the run that visits for profiles take, by the variance of the machine's speeds (as the repeats
// that make a mean equally well known), at most, and how much more they may take to end when it was said.
constexpr double kVisitsPerVariance = 100;
constexpr double kVisitsShare = 0.42;
constexpr double kLongestVisits = 1.5;

bool for_time(const Cut& cut) {
  return cut.code == kCutBudget;
}

bool left_out_for_time(const ConfigPlan& plan) {
  return std::any_of(plan.cut.begin(), plan.cut.end(), for_time);
}

// Moves a depth that was left out for time back among those that are measured. False: it was not left out.
bool take_back(ConfigPlan& plan, const std::string& depth, const std::vector<std::string>& order) {
  const auto cut = std::find_if(plan.cut.begin(), plan.cut.end(),
                                [&](const Cut& each) { return each.depth == depth && for_time(each); });
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
  return spent_before_ + tools_.now() - begun_;
}

void Walker::choose() {
  chosen_at_ = tools_.now();
  std::vector<size_t> open;
  std::vector<ConfigSize> todo;
  double left = options_.budget_seconds - spent() - quality_reserve() - anchor_seconds();
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
  left /= forecast_.correction();
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
  if (!may_interleave_ || walk_ >= kWalks || repeats_after(walk_) >= options_.repeats) {
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
  const bool unsure = sizes_.size() >= kLongRun && plans_.size() < kSpanningVisits;
  const double share = unsure ? kUnsureShare : kUsableShare;
  const double total =
      spent() + quality_reserve() + (left + extra_seconds(left) + due_seconds(HUGE_VAL)) / share;
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
      plan.cut.push_back(
          {depth, kCutBudget,
           fmt::format("its estimated {:.0f} s and those of the cells before it do not fit the "
                       "budget of {:.0f} s",
                       more, options_.budget_seconds)});
    }
  }
  FL_TRY(keep(plan));
  return plan;
}

std::map<size_t, ConfigPlan> Walker::fits_again(double left) const {
  std::map<size_t, ConfigPlan> again;
  // The order of choose_depths: empty windows, then full ones.
  for (const std::string depth : {"empty", "full", "half"}) {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const std::pair key{sizes_[i].ctx, sizes_[i].chats};
      const auto known = plans_.find(key);
      if (known == plans_.end() || ended_.contains(key)) {
        continue;
      }
      const double seconds = visit_seconds(sizes_[i], {depth}, options_.repeats);
      if (seconds > left) {
        continue;
      }
      ConfigPlan& plan = again.try_emplace(i, known->second).first->second;
      if (take_back(plan, depth, options_.depths)) {
        left -= seconds;
        plan.estimated_seconds = visit_seconds(sizes_[i], plan.depths, options_.repeats);
      }
    }
  }
  std::erase_if(again, [&](const auto& entry) {
    const ConfigPlan& plan = entry.second;
    return plan.depths.size() == plans_.at({plan.ctx, plan.chats}).depths.size();
  });
  return again;
}

Status Walker::walk_left_out() {
  if (options_.budget_seconds <= 0 || !facts_) {
    return {};
  }
  // What these take leaves time for others again.
  constexpr int kRounds = 3;
  for (int round = 0; round < kRounds; ++round) {
    for (auto& [i, plan] : fits_again(budget_left() - anchor_seconds())) {
      FL_TRY(keep(plan));
      FL_TRY(visit(i));  // as a whole: it is the last walk
    }
  }
  return {};
}

double Walker::left_out_seconds(double left) const {
  if (options_.budget_seconds <= 0 || past_end_) {
    return 0;
  }
  double sum = 0;
  // What walk_left_out() will find when the rest is done: little is kept back then for estimates that err.
  const double anchor = anchor_seconds();
  for (const auto& [i, plan] : fits_again(budget_left() - kUsableShare * (left - anchor) - anchor)) {
    for (const std::string& depth : plan.depths) {
      const std::vector<std::string>& before = plans_.at({plan.ctx, plan.chats}).depths;
      sum += std::find(before.begin(), before.end(), depth) == before.end()
                 ? visit_seconds(sizes_[i], {depth}, options_.repeats)
                 : 0;
    }
  }
  return sum;
}

Shape Walker::shape_for(const ConfigSize& size, const Step& step) const {
  return report::shape_for(cost_, size, step, options_, *facts_);
}

double Walker::step_seconds(const ConfigSize& size, const Step& step) const {
  return forecast_.seconds(place_of(size.ctx, size.chats, step),
                           report::step_seconds(cost_, size, step, shape_for(size, step)));
}

double Walker::start_seconds(const ConfigSize& size) const {
  return starts() ? forecast_.seconds({size.ctx, size.chats, "", "start"}, cost_.start()) : 0;
}

double Walker::visit_seconds(const ConfigSize& size, const std::vector<std::string>& depths,
                             int64_t n_repeats) const {
  return report::visit_seconds(size, depths, n_repeats, start_seconds(size),
                               [&](const Step& step) { return step_seconds(size, step); });
}

double Walker::modelled_seconds(const StepPlace& place) const {
  if (place.kind == "start") {
    return cost_.start();
  }
  const auto size = std::find_if(sizes_.begin(), sizes_.end(), [&](const ConfigSize& s) {
    return s.ctx == place.ctx && s.chats == place.chats;
  });
  const auto plan = plans_.find({place.ctx, place.chats});
  if (size == sizes_.end() || plan == plans_.end()) {
    return 0;
  }
  const std::vector<std::string>& depths = plan->second.depths;
  const bool half = std::find(depths.begin(), depths.end(), "half") != depths.end();
  const Step step{place.depth, place.kind, 0, 0, half};
  return report::step_seconds(cost_, *size, step, shape_for(*size, step));
}

double Walker::later_seconds(size_t k) const {
  const ConfigSize& size = sizes_[k];
  const auto known = plans_.find({size.ctx, size.chats});
  double sum = 0;
  for (int64_t walk = walk_ + 1; walk <= kWalks; ++walk) {
    std::vector<std::string> depths = known != plans_.end() ? known->second.depths : chosen_[k];
    std::erase_if(depths, [&](const std::string& depth) {
      return done_.contains({size.ctx, size.chats, depth, repeats_after(walk), size.parts});
    });
    sum += visit_seconds(size, depths, repeats_after(walk) - repeats_after(walk - 1));
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
    return sum + visit_seconds(sizes_[k], chosen_[k], last);
  }
  const std::vector<Step> steps = steps_up_to(known->second, last);
  sum += steps.empty() ? 0 : start_seconds(sizes_[k]);
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
  return left;
}

void Walker::show(size_t i, const std::vector<Step>& steps, size_t at) {
  if (tools_.now() - chosen_at_ >= kChooseSeconds) {
    choose();  // what was learned since decides about the configurations to come
  }
  forecast_.compare([this](const StepPlace& place) { return modelled_seconds(place); });
  // A visit for a profile ends when the time is over.
  const bool must = !profile_ || n_due(*profile_) > 0;
  const double left = must ? forecast_.paced(seconds_left(i, steps, at)) : 0;
  std::string now;
  if (at < steps.size()) {
    now = fmt::format("{}, {}, {}{}", short_tokens(sizes_[i].ctx), format_chats(sizes_[i].chats),
                      steps[at].depth,
                      steps[at].kind == "fill" ? ", reading"
                      : profile_               ? ", again"
                                               : "");
  }
  show_left(left + extra_seconds(left) + left_out_seconds(left), std::move(now));
}

void Walker::show_anchor(const ConfigSize& size, const std::vector<Step>& steps, size_t at) {
  double left = seconds_left(sizes_.size(), {}, 0);
  for (size_t s = at; s < steps.size(); ++s) {
    left += step_seconds(size, steps[s]);
  }
  left = forecast_.paced(left);
  show_left(
      left + extra_seconds(left) + left_out_seconds(left),
      fmt::format("{}, {}, {}, again", short_tokens(size.ctx), format_chats(size.chats), steps[at].depth));
}

void Walker::show_left(double matrix_left, std::string now) {
  double left = matrix_left;
  if (!quality_done_ && options_.tasks != "none") {
    const double check = options_.quick ? 0 : kCheckSeconds * n_tasks();
    left += start_seconds(quality_size()) + check +
            quality_seconds(n_tasks() - static_cast<double>(answers_.size()), 0, 0);
  }
  show_end(left, std::move(now));
}

void Walker::show_end(double left, std::string now) {
  RunProgress out;
  out.seconds_done = spent();
  left += write_seconds_;
  double least = 0;
  double wanted = 0;
  double most = 0;
  if (has_profile_visits()) {
    const double room = options_.budget_seconds > 0 ? std::max(0.0, budget_left() - left) : HUGE_VAL;
    least = due_seconds(room);
    const double share = std::min(kVisitsShare, kVisitsPerVariance * scatter_.pooled() * scatter_.pooled());
    wanted = std::max(least, share / (1 - share) * (out.seconds_done + left));
    most = std::max(least, std::min(kLongestVisits * wanted, room));
    wanted = std::min(wanted, most);
  }
  const double now_left = out.seconds_done + left;
  const double end = visits_ ? visits_end_ + write_seconds_ : now_left + wanted;
  out.seconds_left = std::max(0.0, promise_.end(out.seconds_done, now_left + least, end,
                                                visits_ ? std::max(end, now_left) : now_left + most) -
                                       out.seconds_done);
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
  out.now = std::move(now);
  out.total_rate = rate_;
  if (job_.on_progress) {
    job_.on_progress(out);
  }
}

std::vector<double> Walker::rates_of(const ConfigSize& size, const std::string& depth) const {
  std::vector<double> out;
  if (const auto known = rates_.find({size.ctx, size.chats, depth}); known != rates_.end()) {
    for (const auto& [repeat, mean] : known->second) {
      out.push_back(mean.value().value_or(0));
    }
  }
  return out;
}

bool Walker::comes_back() const {
  return sizes_.size() > 1 && may_interleave_ && repeats_after(1) < options_.repeats;
}

double Walker::extra_seconds(double left) const {
  if (options_.sample_seconds <= 0 || sizes_.size() == 1 || past_end_ || !has_every_cell()) {
    return 0;
  }
  if (comes_back()) {
    return 0;
  }
  // A cell whose repeats so far spread may still end without, and the other way round: its own word counts
  // the more the nearer it is to the end of what was asked, that of all cells the rest.
  int64_t n_known = 0;
  int64_t n_spread = 0;
  int64_t n_cells = 0;
  double repeats = 0;
  double shortest = HUGE_VAL;  // repeat of a cell that may still ask
  double wanted_own = 0;
  double wanted_all = 0;
  for (size_t k = 0; k < sizes_.size(); ++k) {
    const ConfigSize& size = sizes_[k];
    if (ended_.contains({size.ctx, size.chats})) {
      continue;
    }
    const auto plan = plans_.find({size.ctx, size.chats});
    for (const std::string& depth : plan != plans_.end() ? plan->second.depths : chosen_[k]) {
      const std::vector<double> rates = rates_of(size, depth);
      const auto n = static_cast<int64_t>(rates.size());
      const bool known = n > 1;
      const bool spreads = known && stat_of(rates).cv > kMaxCv;
      const bool spread = n > options_.repeats || spreads;
      const double repeat = static_cast<double>(size.parts) * step_seconds(size, {depth, "measure", 1});
      repeats += repeat;
      ++n_cells;
      n_known += known ? 1 : 0;
      n_spread += spread ? 1 : 0;
      if (done_.contains({size.ctx, size.chats, depth, options_.repeats, size.parts})) {
        continue;
      }
      const double more = kMoreWhenSpread * repeat * static_cast<double>(options_.repeats);
      shortest = std::min(shortest, repeat);
      const auto asked = static_cast<double>(std::max<int64_t>(options_.repeats - 1, 1));
      const double own = known ? std::min(1.0, static_cast<double>(n - 1) / asked) : 0;
      wanted_all += (1 - own) * more;
      wanted_own += spread ? own * more : 0;
    }
  }
  const double share = (kAssumedSpread + static_cast<double>(n_spread)) / (1 + static_cast<double>(n_known));
  const double wanted = wanted_own + share * wanted_all;
  const double one = n_cells > 0 ? repeats / static_cast<double>(n_cells) : 0;
  const double expected = extra_.expected(left, wanted, one, n_known);
  const double room = options_.budget_seconds > 0 ? budget_left() - left : HUGE_VAL;
  return room < shortest ? 0 : std::min(room, expected);
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

double Walker::quality_seconds(double n_left, int64_t n_seen, double taken) const {
  // A quarter of the longest answer a task, as good as so many tasks that were seen.
  constexpr double kAssumedTasks = 2;
  const int64_t chats = quality_size().chats;
  const double assumed = cost_.decode(options_.task_tokens / 4, chats, 0) / static_cast<double>(chats);
  const auto n = static_cast<double>(n_seen);
  const double left = n_left * (kAssumedTasks * assumed + taken) / (kAssumedTasks + n);
  const double most =
      options_.budget_seconds > 0 ? std::max(0.0, options_.budget_seconds - spent()) : kQualitySeconds;
  return std::clamp(left, 0.0, most);
}

Result<bool> Walker::drop_depth(size_t i, const std::string& depth, const std::vector<Step>& steps) {
  const ConfigSize& size = sizes_[i];
  double seconds = 0;
  for (const Step& step : steps) {
    seconds += step.depth == depth ? step_seconds(size, step) : 0;
  }
  const bool begun = std::any_of(done_.begin(), done_.end(), [&](const auto& key) {
    return std::get<0>(key) == size.ctx && std::get<1>(key) == size.chats && std::get<2>(key) == depth;
  });
  if (options_.budget_seconds <= 0 || begun ||
      spent() + seconds + quality_reserve() <= options_.budget_seconds) {
    return false;
  }
  ConfigPlan plan = plans_.at({size.ctx, size.chats});
  std::erase(plan.depths, depth);
  plan.cut.push_back(
      {depth, kCutBudget,
       fmt::format("of the budget of {:.0f} s {:.0f} were left, it takes about {:.0f}",
                   options_.budget_seconds, std::max(0.0, options_.budget_seconds - spent()), seconds)});
  FL_TRY(keep(std::move(plan)));
  return true;
}

bool Walker::wants_more(size_t i, const std::vector<Step>& steps, size_t at) const {
  const ConfigSize& size = sizes_[i];
  const Step& step = steps[at];
  // Repeats that follow at once meet the machine as it is: in several walks those of profiles come later. A
  // run of one configuration has them in its plan.
  if (options_.sample_seconds <= 0 || sizes_.size() == 1 || comes_back() ||
      step.repeat >= kMoreRepeats * options_.repeats) {
    return false;
  }
  const double more = static_cast<double>(size.parts) * step_seconds(size, step);
  if (!extra_.has_room(more)) {
    return false;
  }
  // Cells come before more repeats of one.
  if (!has_every_cell() || stat_of(rates_of(size, step.depth)).cv <= kMaxCv) {
    return false;
  }
  return options_.budget_seconds <= 0 || more + seconds_left(i, steps, at + 1) <= budget_left();
}

double Walker::budget_left() const {
  return kUsableShare * (options_.budget_seconds - spent() - quality_reserve());
}

bool Walker::has_every_cell() const {
  for (size_t k = 0; k < sizes_.size(); ++k) {
    const auto known = plans_.find({sizes_[k].ctx, sizes_[k].chats});
    if (known != plans_.end() ? left_out_for_time(known->second)
                              : chosen_[k].size() < options_.depths.size()) {
      return false;
    }
  }
  return true;
}

double Walker::anchor_seconds() const {
  const std::optional<ConfigSize> size = anchor_size(false);
  if (!size || !facts_ || sizes_.size() < 2) {
    return 0;
  }
  const bool middle = !past_middle_ && !interleaved_ && walk_ == 1 && sizes_.size() >= kLongRun;
  const double n = (middle ? 1 : 0) + (past_end_ ? 0 : 1);
  return n * visit_seconds(*size, {kAnchorDepth}, options_.repeats);
}

}  // namespace fl::report
