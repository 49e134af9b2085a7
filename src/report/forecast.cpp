#include "report/forecast.h"

#include <algorithm>
#include <cmath>

namespace fl::report {
namespace {

// So many steps of a place's own count as much as the model.
constexpr double kOwnSteps = 2;
// Of what was seen with each new step: the last 16 or so count, which lie in the last walk.
constexpr double kOwnKept = 1 - 1.0 / 16;
// Of the run, over which the pace is taken; the assumption that it is 1 counts as much.
constexpr double kPaceShare = 0.05;
// The model counts as so many steps when the error of a kind is taken.
constexpr double kKindSteps = 4;
constexpr double kMostCorrection = 2;
// Of the run, over which the end that is said follows a new estimate, and of what is left, at most: one slow
// answer moves the estimate of everything; later it has been forgotten, near the end sooner.
constexpr double kSteadyShare = 0.05;
constexpr double kSteadyLeft = 0.1;
// Before cells have repeats to compare, they are taken to want half of the room; that counts as so many
// cells.
constexpr double kAssumedShare = 0.5;
constexpr double kAssumedCells = 4;

// Empty and filled windows err apart: what a token in the window costs is another number of the model.
std::string kind_of(const StepPlace& place) {
  return place.kind + (place.depth.empty() || place.depth == "empty" ? "" : " filled");
}

}  // namespace

StepPlace place_of(int64_t ctx, int64_t chats, const Step& step) {
  return {ctx, chats, step.depth, step.kind == "anchor" ? "measure" : step.kind};
}

void Forecast::add(const StepPlace& place, double taken) {
  Seen& seen = places_[place];
  seen.n *= kOwnKept;
  seen.taken *= kOwnKept;
  ++seen.n;
  seen.taken += taken;
}

void Forecast::add(const StepPlace& place, double taken, double forecast, double run) {
  add(place, taken);
  span_ = kPaceShare * run;
  const double kept = span_ > 0 ? std::exp(-taken / span_) : 1;
  recent_taken_ = kept * recent_taken_ + taken;
  recent_forecast_ = kept * recent_forecast_ + forecast;
}

double Forecast::pace() const {
  const double all = recent_forecast_ + span_;
  return all > 0 ? (recent_taken_ + span_) / all : 1;
}

void Forecast::compare(const std::function<double(const StepPlace&)>& model) {
  kinds_.clear();
  for (auto& [place, seen] : places_) {
    seen.modelled = seen.n * model(place);
    Seen& kind = kinds_[kind_of(place)];
    kind.n += seen.n;
    kind.taken += seen.taken;
    kind.modelled += seen.modelled;
  }
}

double Forecast::of_kind(const StepPlace& place) const {
  const auto kind = kinds_.find(kind_of(place));
  if (kind == kinds_.end() || kind->second.modelled <= 0) {
    return 1;
  }
  const Seen& seen = kind->second;
  const double prior = kKindSteps * seen.modelled / seen.n;
  return (seen.taken + prior) / (seen.modelled + prior);
}

double Forecast::seconds(const StepPlace& place, double modelled) const {
  const double expected = modelled * of_kind(place);
  const auto own = places_.find(place);
  return own == places_.end() ? expected
                              : (kOwnSteps * expected + own->second.taken) / (kOwnSteps + own->second.n);
}

double Forecast::correction() const {
  double taken = 0;
  double modelled = 0;
  for (const auto& [name, kind] : kinds_) {
    taken += kind.taken;
    modelled += kind.modelled;
  }
  return modelled > 0 ? std::clamp(taken / modelled, 1 / kMostCorrection, kMostCorrection) : 1;
}

void Scatter::add(const StepPlace& place, double value) {
  if (value <= 0) {
    return;
  }
  const double x = std::log(value);
  Values& values = places_[place];
  const double before = x - values.mean;
  freedom_ += values.n > 0 ? 1 : 0;
  ++values.n;
  values.mean += before / values.n;
  squares_ += before * (x - values.mean);
}

double Scatter::pooled() const {
  return freedom_ > 0 ? std::sqrt(squares_ / freedom_) : 0;
}

double Promise::end(double now, double least, double wanted, double most) {
  const double target = std::clamp(std::clamp(wanted, earliest_, latest_), least, std::max(least, most));
  const double span = std::min(kSteadyShare * target, kSteadyLeft * (target - now));
  const double since = said_ > 0 && span > 0 ? (now - at_) / span : 1;
  said_ += std::min(1.0, since) * (target - said_);
  at_ = now;
  if (now >= kFrom * said_) {
    earliest_ = std::min(said_, std::max(earliest_, (said_ + kTolerance * now) / (1 + kTolerance)));
    latest_ = std::max(said_, std::min(latest_, (said_ - kTolerance * now) / (1 - kTolerance)));
  }
  return said_;
}

void Extra::add(const Batch& batch, int64_t n_asked) {
  (batch.kind == "measure" && batch.repeat > n_asked ? extra_ : asked_) += batch.seconds;
}

double Extra::expected(double left, double wanted, double repeat, int64_t n_known) const {
  // Less than a repeat stays unused.
  const double room = std::max(0.0, kMostShare * (asked_ + left) - extra_ - repeat);
  const auto n = static_cast<double>(n_known);
  return (kAssumedCells * kAssumedShare * room + n * std::min(room, wanted)) / (kAssumedCells + n);
}

}  // namespace fl::report
