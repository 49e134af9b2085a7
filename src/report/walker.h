// One run of the matrix: what is known from the journal, what is done next. Internal to the room.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "report/assemble.h"
#include "report/forecast.h"
#include "report/instruments.h"
#include "report/journal_file.h"
#include "report/steps.h"

namespace fl::report {

// So many configurations have an anchor in their middle, too, unless the repeats are interleaved; the first
// of them are measured before it is decided whether they are.
inline constexpr size_t kLongRun = 6;

// The matrix is walked so many times, each time for a part of every cell's repeats, when there is time for
// it.
inline constexpr int64_t kWalks = 3;

// Times the asked repeats: at least of cells that a profile rests on, at most of others that spread.
inline constexpr int64_t kMoreRepeats = 2;

// A cell of the matrix: configuration and depth.
using ProfileCell = std::pair<size_t, std::string>;

class Walker {
 public:
  Walker(const RunJob& job, Instruments& tools, OpenJournal& open);
  /// Everything that is left to do.
  Status walk();

 private:
  // Every record passes here, fresh or from the journal.
  void learn(const Record& record);
  // On disk first: what is not kept did not happen.
  Status keep(Record record);
  double spent() const;
  // A running server is asked before anything: its window decides the matrix.
  Status open_url();
  Result<std::vector<ConfigSize>> sizes() const;
  // Why a configuration cannot be what was asked, for every depth; nullopt: it can.
  std::optional<Cut> misfit(const ConfigSize& size, const Facts& facts) const;
  Status cut_all(const ConfigSize& size, Cut cut);
  bool starts() const { return options_.kind != "url"; }
  // Our own server gives no chat more than the model was trained for: known before anything is started.
  Status cut_beyond_training();
  // For every configuration that has no plan yet: its depths and parts, for the time left.
  void choose();
  // The repeats that a cell has after a walk, with interleaving.
  int64_t repeats_after(int64_t walk) const;
  // Is there time to come back to configuration `i` in another walk? Once there was not, there is not.
  bool interleave(size_t i);
  // What is left of a plan up to its repeat `last`.
  std::vector<Step> steps_up_to(const ConfigPlan& plan, int64_t last) const;
  // The plan for a configuration that begins now; chooses for the later ones too.
  Result<ConfigPlan> plan_for(size_t i);
  Shape shape_for(const ConfigSize& size, const Step& step) const;
  // What the model of cost says of one step, and with what steps like it took.
  double modelled_seconds(const StepPlace& place) const;
  double step_seconds(const ConfigSize& size, const Step& step) const;
  double start_seconds(const ConfigSize& size) const;
  // Of what is left of configuration `k`, as planned or as chosen, in this walk and, interleaved, the next
  // ones.
  double planned_seconds(size_t k, bool interleaved) const;
  // Of `n_repeats` repeats of these cells in one start of a server.
  double visit_seconds(const ConfigSize& size, const std::vector<std::string>& depths,
                       int64_t n_repeats) const;
  // Of configuration `k` in the walks after this one.
  double later_seconds(size_t k) const;
  // Of the matrix, from step `at` of configuration `i` on.
  double seconds_left(size_t i, const std::vector<Step>& steps, size_t at) const;
  // Of the budget, with the errors of estimates and without what is kept for the coding tasks.
  double budget_left() const;
  // Nothing was left out for time, and nothing will be.
  bool has_every_cell() const;
  // What more repeats of cells that spread will take beside `left` seconds.
  double extra_seconds(double left) const;
  // Total tok/s of each repeat so far.
  std::vector<double> rates_of(const ConfigSize& size, const std::string& depth) const;
  void show(size_t i, const std::vector<Step>& steps, size_t at);
  // What is left of an anchor, after which come the configurations that have no repeat yet.
  void show_anchor(const ConfigSize& size, const std::vector<Step>& steps, size_t at);
  // The rest of the matrix takes `matrix_left` more; what comes after it is added.
  void show_left(double matrix_left, std::string now);
  // All that must be done takes `left` more; the visits for profiles are as long as the end that was said
  // asks for.
  void show_end(double left, std::string now);
  double n_tasks() const;
  // Of `n_left` tasks when `n_seen` took `taken`.
  double quality_seconds(double n_left, int64_t n_seen, double taken) const;
  // Kept of the budget for the coding tasks.
  double quality_reserve() const;
  bool is_due(size_t i) const;
  // walk_configuration(), the report so far, and what both cost.
  Status visit(size_t i);
  // Measures one configuration, all of it or this walk's part. An error ends the run; a server that fails
  // ends the configuration.
  Status walk_configuration(size_t i);
  // What this start of the server says; the first one is asked everything.
  Result<Facts> ask(const Session& session);
  Status lose(const ConfigSize& size, Session& session, const Error& error);
  // The machine may have become slower since the plan: a filling that does not fit any more is left out
  // before it is begun. True: it was.
  Result<bool> drop_depth(size_t i, const std::string& depth, const std::vector<Step>& steps);
  // A server that did not start leaves its time, and estimates err: what was left out for time and fits after
  // all is measured.
  Status walk_left_out();
  // The plans with those cells that fit `left` seconds, by configuration.
  std::map<size_t, ConfigPlan> fits_again(double left) const;
  // What these will take when everything else takes `left`.
  double left_out_seconds(double left) const;
  Status walk_steps(size_t i, std::vector<Step> steps, Session& session);
  // Sends one batch and keeps it. `lost`: the server failed, which is kept.
  Status walk_step(const ConfigSize& size, const Step& step, int64_t anchor, Session& session, bool& lost);
  // Adds to the steps, or shortens them, when step `at` was done.
  void go_on(size_t i, std::vector<Step>& steps, size_t at);
  // A cell whose repeats spread gets more of them, up to twice as many, while the time has room.
  bool wants_more(size_t i, const std::vector<Step>& steps, size_t at) const;
  // Is the matrix walked several times, as far as is known?
  bool comes_back() const;
  // The cells that the profiles rest on, with what was measured so far.
  std::vector<ProfileCell> profile_cells(const Document& so_far) const;
  // The run ends with them: each gets as many repeats again in a start of its own, and more, in turn, until
  // the end that was said.
  Status walk_profiles();
  // Are there such visits, as far as is known?
  bool has_profile_visits() const;
  // The repeats of a visit, when it may have as many as are best.
  int64_t n_of_a_visit(const ProfileCell& cell) const;
  // The next one: of a cell that must get more, of the fewest starts; nullopt: the time is over.
  std::optional<ProfileCell> next_profile_visit();
  // The first steps of a visit, with one repeat.
  std::vector<Step> profile_steps(const ProfileCell& cell) const;
  void go_on_with_profile(const ProfileCell& cell, std::vector<Step>& steps, size_t at);
  // Repeats that it has; the one after them may have some of its parts.
  int64_t n_repeats(const ProfileCell& cell) const;
  // That it must get, whatever the end.
  int64_t n_due(const ProfileCell& cell) const;
  // As many as was planned, or as the time allows, at least one.
  void choose_n_more();
  int64_t most_more() const;
  // Of what the cells beside that of this visit must get, as far as it fits into `room`.
  double due_seconds(double room) const;
  // The first configuration that was measured, again: a machine that became slower or faster shows.
  // `measured`: it has all its repeats; otherwise the one that will be taken.
  std::optional<ConfigSize> anchor_size(bool measured) const;
  // Of the anchors that are still to come.
  double anchor_seconds() const;
  Status walk_anchor(size_t n_before);
  // The coding tasks run with the most chats for which each has room for a long answer.
  ConfigSize quality_size() const;
  Status walk_quality();

  // The report so far, now and then.
  Status write_so_far();

  void say(const std::string& line) const {
    if (job_.say) {
      job_.say(line);
    }
  }

  static constexpr int64_t kLeastWindow = 256;
  static constexpr const char* kAnchorDepth = "empty";

  const RunJob& job_;
  Options options_;  // of a run of one configuration, with its repeats
  Instruments& tools_;
  OpenJournal& open_;
  double begun_;                   // by the instruments' clock, as all times
  std::optional<double> written_;  // the report so far
  double in_steps_ = 0;            // seconds of this visit

  std::string run_id_;
  bool has_run_ = false;
  std::optional<Facts> facts_;
  CostModel cost_;
  Forecast forecast_;
  Extra extra_;
  std::map<std::tuple<int64_t, int64_t, std::string>, std::map<int64_t, HarmonicMean>> rates_;
  // The starts of a server that measured a cell.
  std::map<std::tuple<int64_t, int64_t, std::string>, std::set<int64_t>> starts_;
  Scatter scatter_;  // of the speeds of batches
  Promise promise_;
  double write_seconds_ = 0;  // of the report so far
  double chosen_at_ = 0;
  std::vector<ConfigSize> sizes_;
  std::vector<size_t> order_;  // in which they are visited
  std::vector<std::vector<std::string>> chosen_;
  std::map<std::pair<int64_t, int64_t>, ConfigPlan> plans_;
  std::set<std::pair<int64_t, int64_t>> ended_;
  DoneBatches done_;
  std::set<std::tuple<int64_t, int64_t, int64_t>> anchored_;  // after so many configurations, repeat, part
  // Cells of profiles that are still to come, as they would be chosen now; nullopt: nothing is known yet.
  std::optional<std::vector<ProfileCell>> profile_cells_;
  std::optional<ProfileCell> profile_;   // of this visit
  int64_t n_visited_ = 0;                // repeats of this visit
  std::optional<ProfileVisits> visits_;  // as begun or done
  double visits_before_ = 0;             // seconds of them that another process spent
  double visits_end_ = 0;                // by spent()
  int64_t n_more_ = 0;                   // repeats that each cell gets, at least
  bool past_middle_ = false;
  bool past_end_ = false;
  double rate_ = 0;
  std::vector<std::string> answers_;
  bool quality_done_ = false;
  double spent_before_ = 0;
  int64_t n_starts_ = 0;
  int64_t walk_ = 1;
  bool interleaved_ = false;
  bool may_interleave_ = true;
  int n_failed_ = 0;
};

}  // namespace fl::report
