// The end of a run: the cells that the profiles rest on, again and again in other starts of their servers,
// until the end that was said.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "report/statistics.h"
#include "report/walker.h"

namespace fl::report {
namespace {

// Until the cells of profiles are known: so many, as large as those of the matrix are on average.
constexpr size_t kAssumedProfiles = 4;

// What other cells must get is kept for them, should the machine become slower.
constexpr double kUnsureDue = 1.3;

// Of repeats of one start of a server: what their speeds have in common, as seen on virtual cores.
constexpr double kAlikeInAStart = 0.4;
constexpr double kMostOfAVisit = 5;

}  // namespace

bool Walker::has_profile_visits() const {
  return !options_.quick && options_.sample_seconds > 0 && (comes_back() || sizes_.size() == 1) &&
         has_every_cell();
}

std::vector<ProfileCell> Walker::profile_cells(const Document& so_far) const {
  std::vector<ProfileCell> out;
  for (const Profile& profile : so_far.recommendation.profiles) {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const std::pair key{sizes_[i].ctx, sizes_[i].chats};
      for (const std::string& depth : options_.depths) {
        const bool same = profile.cell == fmt::format("{}x{} {}", key.first, key.second, depth);
        const bool known = std::find(out.begin(), out.end(), ProfileCell(i, depth)) != out.end();
        if (same && !known && plans_.contains(key) && !ended_.contains(key)) {
          out.emplace_back(i, depth);
        }
      }
    }
  }
  return out;
}

int64_t Walker::n_repeats(const ProfileCell& cell) const {
  const ConfigSize& size = sizes_[cell.first];
  int64_t n = 0;
  while (done_.contains({size.ctx, size.chats, cell.second, n + 1, size.parts})) {
    ++n;
  }
  return n;
}

int64_t Walker::n_due(const ProfileCell& cell) const {
  return std::clamp<int64_t>(options_.repeats + n_more_ - n_repeats(cell), 0, n_more_);
}

int64_t Walker::most_more() const {
  // One configuration has them in its plan.
  return sizes_.size() > 1 ? (kMoreRepeats - 1) * options_.repeats : 0;
}

void Walker::choose_n_more() {
  n_more_ = most_more();
  while (n_more_ > 1 && spent() + due_seconds(HUGE_VAL) > visits_end_) {
    --n_more_;
  }
}

double Walker::due_seconds(double room) const {
  if (!has_profile_visits()) {
    return 0;
  }
  double sum = 0;
  const auto add = [&](double seconds) { sum += sum + seconds <= room ? seconds : 0; };
  size_t n_unknown = kAssumedProfiles;
  if (profile_cells_) {
    for (const ProfileCell& cell : *profile_cells_) {
      add(profile_ == cell ? 0 : visit_seconds(sizes_[cell.first], {cell.second}, n_due(cell)));
    }
    n_unknown -= std::min(n_unknown, profile_cells_->size());
  }
  if (walk_ > 1 || n_unknown == 0) {
    return sum;
  }
  // Those of many chats are chosen when most of the matrix is known.
  double mean = 0;
  for (const ConfigSize& size : sizes_) {
    mean += visit_seconds(size, {options_.depths.back()}, n_more_) / static_cast<double>(sizes_.size());
  }
  for (; n_unknown > 0; --n_unknown) {
    add(mean);
  }
  return sum;
}

std::vector<Step> Walker::profile_steps(const ProfileCell& cell) const {
  const ConfigSize& size = sizes_[cell.first];
  ConfigPlan plan = plans_.at({size.ctx, size.chats});
  plan.depths = {cell.second};
  plan.repeats = n_repeats(cell) + 1;
  return steps_of(plan, done_);
}

int64_t Walker::n_of_a_visit(const ProfileCell& cell) const {
  // What makes the mean of all visits known best for their time (Kish 1965, optimum size of clusters).
  const double all = visit_seconds(sizes_[cell.first], {cell.second}, 1);
  const double repeat = static_cast<double>(sizes_[cell.first].parts) *
                        step_seconds(sizes_[cell.first], {cell.second, "measure", 1});
  const double setup = std::max(0.0, all - repeat);
  const double n = std::sqrt(setup / std::max(repeat, 1e-9) * (1 - kAlikeInAStart) / kAlikeInAStart);
  return std::llround(std::clamp(n, 1.0, kMostOfAVisit));
}

std::optional<ProfileCell> Walker::next_profile_visit() {
  std::vector<ProfileCell> cells = *profile_cells_;
  // Repeats of one start resemble each other, so starts are what makes a mean known; and cells of one machine
  // scatter alike: a cell whose few repeats happen to agree is not known better than others.
  const auto n_starts = [&](const ProfileCell& cell) {
    const ConfigSize& size = sizes_[cell.first];
    const auto starts = starts_.find({size.ctx, size.chats, cell.second});
    return starts != starts_.end() ? starts->second.size() : 0;
  };
  std::stable_sort(cells.begin(), cells.end(), [&](const ProfileCell& a, const ProfileCell& b) {
    const int64_t due_a = n_due(a);
    const int64_t due_b = n_due(b);
    return due_a != due_b ? due_a > due_b : n_starts(a) < n_starts(b);
  });
  const double left = visits_end_ - spent();
  for (const ProfileCell& cell : cells) {
    const double seconds = visit_seconds(sizes_[cell.first], {cell.second}, 1);
    const bool fits = options_.budget_seconds <= 0 || seconds <= budget_left();
    if (seconds <= left || (n_due(cell) > 0 && fits)) {
      return cell;
    }
  }
  return std::nullopt;
}

void Walker::go_on_with_profile(const ProfileCell& cell, std::vector<Step>& steps, size_t at) {
  const ConfigSize& size = sizes_[cell.first];
  const Step step = steps[at];
  if (step.closes) {
    return;
  }
  const double left = visits_end_ - spent() - kUnsureDue * due_seconds(HUGE_VAL);
  const double part = step_seconds(size, step);
  const bool due = n_due(cell) > 0;
  if (step.part < size.parts) {
    // A repeat with half of its parts may end the run.
    if (!due && 2 * step.part >= size.parts && left < part / 2) {
      steps.resize(at + 1);
    } else if (!due && 2 * (step.part + 1) >= size.parts && left < 1.5 * part) {
      steps.resize(at + 2);
      steps.back().closes = true;
    }
    return;
  }
  ++n_visited_;
  const double repeat = static_cast<double>(size.parts) * part;
  bool another = due || (left > repeat / 2 && n_visited_ < n_of_a_visit(cell));
  if (!another && left > repeat / 2) {
    // The rest of the time, when no other visit fits.
    another = std::none_of(profile_cells_->begin(), profile_cells_->end(), [&](const ProfileCell& other) {
      return visit_seconds(sizes_[other.first], {other.second}, 1) <= left;
    });
  }
  for (int64_t next = 1; another && next <= size.parts; ++next) {
    steps.push_back({step.depth, "measure", step.repeat + 1, -1, false, next});
  }
}

Status Walker::walk_profiles() {
  const Document so_far = assemble(job_.manifest, open_.records, "");
  profile_cells_ = profile_cells(so_far);
  if (!has_profile_visits() || (visits_ && visits_->done)) {
    profile_cells_->clear();
    return {};
  }
  if (!visits_) {
    const double due = spent() + due_seconds(HUGE_VAL) + write_seconds_;
    const double end = std::max(promise_.said(), std::min(due, promise_.latest()));
    ProfileVisits visits{std::max(0.0, end - write_seconds_ - spent()), false, {}};
    for (const Profile& profile : so_far.recommendation.profiles) {
      visits.chosen.push_back({profile.name, profile.cell});
    }
    FL_TRY(keep(std::move(visits)));
  }
  visits_end_ = spent() + visits_->seconds - visits_before_;
  if (options_.budget_seconds > 0) {
    visits_end_ = std::min(visits_end_, options_.budget_seconds - write_seconds_);
  }
  while (true) {
    choose_n_more();
    const std::optional<ProfileCell> next = next_profile_visit();
    if (!next) {
      break;
    }
    profile_ = next;
    n_visited_ = 0;
    const int64_t n_before = n_repeats(*next);
    FL_TRY(visit(next->first));
    profile_.reset();
    if (n_repeats(*next) == n_before) {
      std::erase(*profile_cells_, *next);  // its server failed, or the time is over
    }
  }
  ProfileVisits done = *visits_;
  done.done = true;
  return keep(std::move(done));
}

}  // namespace fl::report
