// What is asked when the matrix is walked: the profiles' cells and the anchor again, and the coding tasks.
#include <algorithm>

#include <fmt/format.h>

#include "report/quality.h"
#include "report/walker.h"

namespace fl::report {
namespace {

constexpr int64_t kQualityWindow = 4096;  // tokens of a chat that solves tasks

}  // namespace

std::vector<std::pair<size_t, std::string>> Walker::profile_cells(const Document& so_far) const {
  std::vector<std::pair<size_t, std::string>> out;
  for (const Profile& profile : so_far.recommendation.profiles) {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      for (const std::string& depth : options_.depths) {
        const bool same = profile.cell == fmt::format("{}x{} {}", sizes_[i].ctx, sizes_[i].chats, depth);
        const bool known = std::find(out.begin(), out.end(), std::pair(i, depth)) != out.end();
        if (same && !known && !profile_steps(i, depth).empty()) {
          out.emplace_back(i, depth);
        }
      }
    }
  }
  return out;
}

std::vector<Step> Walker::profile_steps(size_t i, const std::string& depth) const {
  const auto known = plans_.find({sizes_[i].ctx, sizes_[i].chats});
  if (known == plans_.end() || ended_.contains(known->first)) {
    return {};
  }
  ConfigPlan plan = known->second;
  plan.depths = {depth};
  plan.repeats = kMostRepeats * options_.repeats;
  return steps_of(plan, done_);
}

Status Walker::walk_profiles() {
  if (options_.quick || !comes_back() || options_.sample_seconds <= 0 || !has_every_cell()) {
    profile_cells_.emplace();
    return {};
  }
  // More repeats may choose another cell for a profile, once.
  constexpr int kRounds = 2;
  for (int round = 0; round < kRounds; ++round) {
    profile_cells_ = profile_cells(assemble(job_.manifest, open_.records, ""));
    while (!profile_cells_->empty()) {
      const auto [i, depth] = profile_cells_->front();
      const double seconds = visit_seconds(sizes_[i], {depth}, (kMostRepeats - 1) * options_.repeats);
      profile_cells_->erase(profile_cells_->begin());
      if (options_.budget_seconds <= 0 || seconds + anchor_seconds() <= budget_left()) {
        profile_depth_ = depth;
        FL_TRY(visit(i));
      }
    }
  }
  profile_depth_.reset();
  return {};
}

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
    if (job_.on_progress) {
      RunProgress progress;
      progress.cells_total = static_cast<int64_t>(sizes_.size() * options_.depths.size());
      progress.cells_done = progress.cells_total;
      progress.now = fmt::format("coding tasks, {} of {}", done, total);
      progress.seconds_done = spent();
      progress.seconds_left =
          quality_seconds(static_cast<double>(total - done), done - n_known, tools_.now() - *asked);
      job_.on_progress(progress);
    }
  };
  job.cancel = job_.cancel;
  FL_ASSIGN(record.quality, tools_.score(job));
  record.seconds = tools_.now() - begun;
  return keep(std::move(record));
}

}  // namespace fl::report
