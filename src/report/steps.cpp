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
  std::erase_if(steps, done);
  std::set<std::string> open;
  for (const Step& step : steps) {
    if (step.kind == "measure") {
      open.insert(step.depth);
    }
  }
  std::vector<Step> left;
  for (Step& step : steps) {
    if (open.contains(step.depth)) {
      left.push_back(std::move(step));
    }
  }
  if (!left.empty()) {
    left.insert(left.begin(), {"empty", "warm-up", 0});
  }
  return left;
}

std::vector<size_t> spanning_order(size_t n) {
  std::vector<size_t> order;
  std::vector<bool> taken(n);
  const auto take = [&](size_t i) {
    if (i < n && !taken[i]) {
      taken[i] = true;
      order.push_back(i);
    }
  };
  take(0);
  take(n - 1);
  // Middles of ever smaller pieces.
  for (size_t n_pieces = 2; order.size() < n; n_pieces *= 2) {
    for (size_t piece = 1; piece < n_pieces; piece += 2) {
      take(piece * (n - 1) / n_pieces);
    }
  }
  return order;
}

}  // namespace fl::report
