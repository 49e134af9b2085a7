// What is asked when the matrix is walked: the anchor again, and the coding tasks.
#include <algorithm>

#include <fmt/format.h>

#include "report/quality.h"
#include "report/walker.h"

namespace fl::report {
namespace {

constexpr int64_t kQualityWindow = 4096;  // tokens of a chat that solves tasks

}  // namespace

std::optional<ConfigSize> Walker::anchor_size(bool measured) const {
  for (const size_t i : order_) {
    const ConfigSize& size = sizes_[i];
    const auto plan = plans_.find({size.ctx, size.chats});
    if (plan == plans_.end()) {
      continue;
    }
    const std::vector<std::string>& depths = plan->second.depths;
    if (measured
            ? done_.contains({size.ctx, size.chats, kAnchorDepth, plan->second.repeats, plan->second.parts})
            : std::find(depths.begin(), depths.end(), kAnchorDepth) != depths.end()) {
      return ConfigSize{size.ctx, size.chats, size.window, plan->second.parts};
    }
  }
  return std::nullopt;
}

Status Walker::walk_anchor(size_t n_before) {
  const std::optional<ConfigSize> size = anchor_size(true);
  const auto anchor = static_cast<int64_t>(n_before);
  if (sizes_.size() < 2 || !size) {
    return {};
  }
  std::vector<Step> steps{{kAnchorDepth, "warm-up", 0}};
  for (int64_t repeat = 1; repeat <= options_.repeats; ++repeat) {
    for (int64_t part = 1; part <= size->parts; ++part) {
      if (!anchored_.contains({anchor, repeat, part})) {
        steps.push_back({kAnchorDepth, "anchor", repeat, -1, false, part});
      }
    }
  }
  double seconds = start_seconds(*size);
  for (const Step& step : steps) {
    seconds += step_seconds(*size, step);
  }
  const bool late = options_.budget_seconds > 0 && spent() + seconds > options_.budget_seconds;
  if (steps.size() == 1 || late) {
    return {};
  }
  Session session;
  if (const Status opened = tools_.open(*size, {}, session); !opened) {
    say(fmt::format("the first configuration did not start again: {}", opened.error().message));
    return opened.error().code == ErrorCode::unavailable ? opened : Status();
  }
  for (size_t s = 0; s < steps.size(); ++s) {
    show_anchor(*size, steps, s);
    bool lost = false;
    FL_TRY(walk_step(*size, steps[s], anchor, session, lost));
    if (lost) {
      return {};
    }
  }
  return {};
}

ConfigSize Walker::quality_size() const {
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

Status Walker::walk_quality() {
  if (options_.tasks == "none" || quality_done_) {
    return {};
  }
  const double begun = tools_.now();
  std::optional<double> asked;  // when the first task was
  int64_t n_known = 0;
  const ConfigSize size = quality_size();
  Session session;
  QualityRecord record;
  record.quality.tasks = options_.tasks.substr(0, options_.tasks.find('='));
  record.quality.mode = "chat";
  record.quality.thinking = options_.thinking;
  Status opened = tools_.open(size, {}, session);
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
    if (!asked) {
      asked = tools_.now();
      n_known = done;
    }
    show_end(quality_seconds(static_cast<double>(total - done), done - n_known, tools_.now() - *asked),
             fmt::format("coding tasks, {} of {}", done, total));
  };
  job.cancel = job_.cancel;
  FL_ASSIGN(record.quality, tools_.score(job));
  record.seconds = tools_.now() - begun;
  return keep(std::move(record));
}

}  // namespace fl::report
