#include "report/steps.h"

#include <algorithm>

namespace fl::report {

std::vector<Step> steps_of(const ConfigPlan& plan, const DoneBatches& batches) {
  std::vector<Step> steps;
  int64_t n_empty = 0;
  const bool empty = std::find(plan.depths.begin(), plan.depths.end(), "empty") != plan.depths.end();
  const auto add_repeat = [&](const std::string& depth, int64_t repeat) {
    for (int64_t part = 1; part <= plan.parts; ++part) {
      steps.push_back({depth, "measure", repeat, -1, false, part});
    }
  };
  const auto add_empty = [&](int64_t up_to) {
    while (empty && n_empty < std::min(up_to, plan.repeats)) {
      add_repeat("empty", ++n_empty);
    }
  };
  const bool half = std::find(plan.depths.begin(), plan.depths.end(), "half") != plan.depths.end();
  add_empty(1);
  for (const std::string& depth : plan.depths) {
    if (depth == "empty") {
      continue;
    }
    for (int64_t chat = 0; chat < plan.chats; ++chat) {
      steps.push_back({depth, "fill", 0, chat, depth == "full" && half});
    }
    steps.push_back({depth, "warm-up", 0});
    for (int64_t repeat = 1; repeat <= plan.repeats; ++repeat) {
      add_repeat(depth, repeat);
    }
    add_empty(n_empty + 1);
  }
  add_empty(plan.repeats);
  const auto done = [&](const Step& step) {
    return step.kind == "measure" &&
           batches.contains({plan.ctx, plan.chats, step.depth, step.repeat, step.part});
  };
  const auto all_done = [&](const std::string& depth) {
    return std::all_of(steps.begin(), steps.end(), [&](const Step& step) {
      return step.depth != depth || step.kind != "measure" || done(step);
    });
  };
  std::vector<Step> left;
  for (const Step& step : steps) {
    if (!done(step) && !all_done(step.depth)) {
      left.push_back(step);
    }
  }
  if (!left.empty()) {
    left.insert(left.begin(), {"empty", "warm-up", 0});
  }
  return left;
}

}  // namespace fl::report
