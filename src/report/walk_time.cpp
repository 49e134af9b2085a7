// What fits into the time that is left, and how much that is.
#include <algorithm>

#include <fmt/format.h>

#include "report/assemble.h"
#include "report/statistics.h"
#include "report/walker.h"

namespace fl::report {
namespace {

constexpr int64_t kWarmUpTokens = 16;
constexpr double kMostCorrection = 2;
constexpr int64_t kMostRepeats = 2;      // times the asked ones, when they spread
constexpr double kQualitySeconds = 300;  // when there is no budget

}  // namespace

double Walker::spent() const {
  return spent_before_ + std::chrono::duration<double>(Clock::now() - begun_).count();
}

Result<ConfigPlan> Walker::plan_for(size_t i) {
  const ConfigSize& size = sizes_[i];
  const bool starts = options_.kind != "url";
  std::vector<ConfigSize> todo(sizes_.begin() + static_cast<std::ptrdiff_t>(i), sizes_.end());
  const double left =
      (options_.budget_seconds - spent() - quality_reserve_ - anchor_seconds()) / correction();
  const auto chosen = choose_cells(cost_, todo, options_, *facts_, starts, left);
  std::copy(chosen.begin(), chosen.end(), chosen_.begin() + static_cast<std::ptrdiff_t>(i));
  std::copy(todo.begin(), todo.end(), sizes_.begin() + static_cast<std::ptrdiff_t>(i));
  if (const auto known = plans_.find({size.ctx, size.chats}); known != plans_.end()) {
    chosen_[i] = known->second.depths;
    sizes_[i].parts = known->second.parts;
    return known->second;
  }
  ConfigPlan plan{size.ctx, size.chats, chosen[0], options_.repeats, 0, {}, size.parts};
  plan.estimated_seconds = config_seconds(cost_, size, plan.depths, options_, *facts_, starts);
  for (const std::string& depth : options_.depths) {
    if (std::find(plan.depths.begin(), plan.depths.end(), depth) == plan.depths.end()) {
      std::vector<std::string> with = plan.depths;
      with.push_back(depth);
      const double more = config_seconds(cost_, size, with, options_, *facts_, starts) -
                          (plan.depths.empty() ? 0 : plan.estimated_seconds);
      plan.cut.push_back({depth, fmt::format("its estimated {:.0f} s do not fit {} {:.0f} s", more, kForTime,
                                             options_.budget_seconds)});
    }
  }
  FL_TRY(keep(plan));
  return plan;
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

double Walker::seconds_left(size_t i, const std::vector<Step>& steps, size_t at) const {
  double left = anchor_seconds();
  for (size_t s = at; s < steps.size(); ++s) {
    left += step_seconds(sizes_[i], steps[s]);
  }
  for (size_t k = i + 1; k < sizes_.size(); ++k) {
    if (!chosen_[k].empty() && !ended_.contains({sizes_[k].ctx, sizes_[k].chats})) {
      left += config_seconds(cost_, sizes_[k], chosen_[k], options_, *facts_, options_.kind != "url");
    }
  }
  return left * correction();
}

void Walker::show(size_t i, const std::vector<Step>& steps, size_t at) {
  if (!job_.on_progress) {
    return;
  }
  RunProgress out;
  out.seconds_left =
      seconds_left(i, steps, at) + (quality_done_ || options_.tasks == "none" ? 0 : quality_estimate());
  out.seconds_done = spent();
  out.cells_total = static_cast<int64_t>(sizes_.size() * options_.depths.size());
  for (const auto& [key, plan] : plans_) {
    out.cells_done += static_cast<int64_t>(plan.cut.size());
    for (const std::string& depth : plan.depths) {
      out.cells_done += done_.contains({key.first, key.second, depth, plan.repeats, plan.parts}) ? 1 : 0;
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

double Walker::quality_estimate() const {
  constexpr double kTasks = 20;
  const double n = options_.task_limit > 0 ? static_cast<double>(options_.task_limit) : kTasks;
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

bool Walker::wants_more(size_t i, const std::vector<Step>& steps, size_t at) const {
  const ConfigSize& size = sizes_[i];
  const Step& step = steps[at];
  if (options_.sample_seconds <= 0 || step.repeat >= kMostRepeats * options_.repeats) {
    return false;
  }
  // Cells come before more repeats of one.
  if (std::any_of(chosen_.begin() + static_cast<std::ptrdiff_t>(i), chosen_.end(),
                  [&](const auto& depths) { return depths.size() < options_.depths.size(); })) {
    return false;
  }
  const std::vector<double> rates = repeat_rates(open_.records, size.ctx, size.chats, step.depth);
  if (stat_of(rates).cv <= kMaxCv) {
    return false;
  }
  const double more = correction() * static_cast<double>(size.parts) * step_seconds(size, step);
  return options_.budget_seconds <= 0 ||
         spent() + more + seconds_left(i, steps, at + 1) + quality_reserve_ <= options_.budget_seconds;
}

double Walker::anchor_seconds() const {
  const std::optional<ConfigSize> size = anchor_size();
  const size_t n = sizes_.size() >= kLongRun ? 2 : sizes_.size() > 1 ? 1 : 0;
  if (!size || !facts_ || anchors_walked_ >= n) {
    return 0;
  }
  return static_cast<double>(n - anchors_walked_) *
         config_seconds(cost_, *size, {kAnchorDepth}, options_, *facts_, options_.kind != "url");
}

}  // namespace fl::report
