// One cell measured again, later, by servers that are started in two ways in turn: as a profile starts its
// server, and as the report started it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "report/alike.h"
#include "report/instruments.h"
#include "report/plan.h"

namespace fl::report {

/// The one cell of a manifest, in several starts of its server.
class CellAgain {
 public:
  /// `job` and `tools` must outlive it. The manifest has one context, number of chats and depth. `name` goes
  /// into the id of its run, from which the texts are made.
  CellAgain(const RunJob& job, Instruments& tools, const std::string& name);
  /// One start: fills the window, warms up, and takes `n_repeats` repeats; `n_when_slow` where the rest of
  /// the start took longer than kSlowStart seconds. Errors: those of starting and measuring; integrity when
  /// the server is not what was asked for.
  Status visit(int64_t n_repeats, int64_t n_when_slow);
  Document document() const;
  std::vector<Repeat> repeats() const;

  static constexpr double kSlowStart = 20;

 private:
  Status step(const Session& session, const Step& step);

  const RunJob& job_;
  Instruments& tools_;
  std::string run_id_;
  std::vector<Record> records_;
  std::optional<Facts> facts_;
  CostModel cost_;
  ConfigSize size_;
  std::string depth_;
  int64_t n_visits_ = 0;
  int64_t n_repeats_ = 0;
};

/// A profile as its server is started, and the same cell as the report started it.
struct Checked {
  Document profile;
  Document reference;
  double change = 0;  ///< of the profile's mean against the report's
  Alike report;       ///< the profile now against the report's repeats
  Alike reported;     ///< the reference now against them
  Alike start;        ///< the profile against the reference, both now
  int n_turns = 0;
  double seconds = 0;
};

/// What a profile may differ by from its report.
inline constexpr double kProfileTolerance = 0.05;

/// Takes turns, six or, where they are slow or agree, two, and more until judge() says that it holds or the
/// whole interval lies beyond kProfileTolerance; ends before a turn that would end after `most_seconds`.
/// `cell` is the report's, `others` are its other cells (compare_alike), `now` a clock. Errors: those of
/// CellAgain::visit; integrity when no repeat has a number.
Result<Checked> check_cell(const Cell& cell, const CellsRepeats& others, bool reads_memory,
                           CellAgain& profile, CellAgain& reference, double most_seconds,
                           const std::function<double()>& now,
                           const std::function<void(const Checked&)>& on_turn);

enum class Judgement { holds, differs, unknown };
/// Of the profile against the report. It holds when it differs by at most kProfileTolerance and that is known
/// as well; it differs when it differs by more, and that is known as well or the whole interval lies beyond.
Judgement judge(const Alike& report);

}  // namespace fl::report
