// How long steps that are still to come will take: what steps of their own cell took and, the fewer those
// are, what the model of cost says, corrected by how it errs for steps of their kind.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <tuple>

#include "report/records.h"
#include "report/steps.h"

namespace fl::report {

/// Steps of one place take about as long as each other.
struct StepPlace {
  int64_t ctx = 0;
  int64_t chats = 0;
  std::string depth;
  std::string kind;  ///< "measure" (anchors, too), "warm-up", "fill", "start" (without a depth)

  bool operator<(const StepPlace& other) const {
    return std::tie(ctx, chats, depth, kind) < std::tie(other.ctx, other.chats, other.depth, other.kind);
  }
};

StepPlace place_of(int64_t ctx, int64_t chats, const Step& step);

/// Seconds throughout.
class Forecast {
 public:
  /// One step took so long.
  void add(const StepPlace& place, double taken);
  /// Just now, where `forecast` was expected, in a run of about `run` in all.
  void add(const StepPlace& place, double taken, double forecast, double run);
  /// `model` says what one step of a place takes by what is known now: the kinds' errors are counted anew.
  void compare(const std::function<double(const StepPlace&)>& model);
  /// What one step will take whose model says `modelled`.
  double seconds(const StepPlace& place, double modelled) const;
  /// What the last steps took for each second of their forecasts, half way to 1: a machine that is slower now
  /// may stay so or not.
  double pace() const;
  /// Of steps that were forecast to take `seconds`: the next ones at the pace of the last ones.
  double paced(double seconds) const { return seconds + (pace() - 1) * std::min(seconds, kPaced * span_); }
  /// What all steps so far took for each second of the model.
  double correction() const;

 private:
  // Spans of the pace for which it goes on.
  static constexpr double kPaced = 2;
  struct Seen {
    double n = 0;
    double taken = 0;
    double modelled = 0;
  };
  double of_kind(const StepPlace& place) const;

  double recent_taken_ = 0;
  double recent_forecast_ = 0;
  double span_ = 0;
  std::map<StepPlace, Seen> places_;
  std::map<std::string, Seen> kinds_;
};

/// How far apart values of one place are, over all places: the standard deviation of their logarithms.
class Scatter {
 public:
  void add(const StepPlace& place, double value);
  double pooled() const;  ///< 0: no place has two

 private:
  struct Values {
    double n = 0;
    double mean = 0;
  };
  std::map<StepPlace, Values> places_;
  double squares_ = 0;
  double freedom_ = 0;
};

/// The end of a run whose last phase may be shorter or longer. Each time left that is said, from a tenth of
/// the run on, is kept: the end stays where none of them was wrong by more than kTolerance, as long as the
/// last phase can be as short or long as that takes. Seconds since the run's begin.
class Promise {
 public:
  static constexpr double kFrom = 0.1;
  static constexpr double kTolerance = 0.18;

  /// The end as said at `now`, when it is expected at `wanted` and can be between `least` and `most`.
  double end(double now, double least, double wanted, double most);
  double said() const { return said_; }  ///< 0: nothing yet
  /// Later than this one of the times left that were said is wrong.
  double latest() const { return latest_; }

 private:
  double said_ = 0;
  double at_ = 0;
  // Where every time left that was said is right.
  double earliest_ = 0;
  double latest_ = std::numeric_limits<double>::infinity();
};

/// Cells whose repeats spread get more of them. On a busy machine that would be every cell: together they
/// take at most a tenth of what everything else took so far, so that cells which come later have their time
/// and the time left is known.
class Extra {
 public:
  static constexpr double kMostShare = 0.1;

  /// n_asked: repeats without more
  void add(const Batch& batch, int64_t n_asked);
  bool has_room(double seconds) const { return extra_ + seconds <= kMostShare * asked_; }
  /// What they will take beside `left` seconds of everything else, when the cells would like `wanted` seconds
  /// of them, as far as `n_known` cells tell; one repeat takes `repeat` seconds. While no cell tells: half of
  /// what they may.
  double expected(double left, double wanted, double repeat, int64_t n_known) const;

 private:
  double asked_ = 0;
  double extra_ = 0;
};

}  // namespace fl::report
