// What fits into the budget, and how much is left: a model of cost that learns from what was measured.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/records.h"
#include "report/steps.h"
#include "report/target.h"

namespace fl::report {

/// Seconds. Reading a prompt costs what prompts of that length took, between lengths along straight lines,
/// beyond the longest with growing steps. One step of P chats costs c + d * P, and e * P for each token in
/// their windows.
class CostModel {
 public:
  void learn(const Facts& facts);
  void learn(const Start& start);
  void learn(const Batch& batch);
  /// What one start of a server took in all, beside the batches.
  void learn_visit(double seconds);

  double start() const { return start_; }
  double read(int64_t n_tokens) const;
  double decode(int64_t n_tokens, int64_t chats, int64_t depth) const;
  /// False: the server reads a filled window again for every request.
  bool reuse() const { return reuse_; }

 private:
  // Measurements that should agree. They are many: each new one is one look at its own place.
  struct Place {
    std::vector<double> seconds;
    double middle = 0;
    void add(double value);
  };

  void learn_read(int64_t n_tokens, double seconds);
  void learn_step(const Batch& batch);
  void fit();

  std::map<int64_t, Place> reads_;                       // of prompts, by length
  std::optional<double> growth_;                         // of the seconds a token, with each token
  std::vector<std::pair<double, double>> reading_;       // tokens and seconds, both ascending
  std::map<std::pair<int64_t, int64_t>, Place> steps_;   // with empty windows, by chats and context
  std::map<std::pair<int64_t, int64_t>, Place> filled_;  // with filled ones, by chats and tokens of one
  double step_c_ = 1.0 / 30;
  double step_d_ = 0;
  double step_e_ = 0;
  double start_ = 1;
  std::vector<double> starts_;
  std::vector<double> visits_;
  bool reuse_ = true;
};

struct ConfigSize {
  int64_t ctx = 0;
  int64_t chats = 0;
  int64_t window = 0;
  int64_t parts = 1;  ///< batches of one repeat
};

/// Estimates are kept under this share of what is left: they are not exact.
inline constexpr double kUsableShare = 0.92;

/// Of one repeat.
inline constexpr int64_t kMostParts = 16;

/// How many batches of that size write for about `seconds`: at least two thirds of them.
int64_t parts_for(const CostModel& cost, const ConfigSize& size, double seconds, const Options& options,
                  const Facts& facts);

/// Chats that start together begin to write one after another, as their prompts are read: with answers longer
/// by that time, all of them write together for about the asked number of tokens.
Shape stretched(Shape shape, const CostModel& cost, int64_t chats);

/// Of one repeat of a cell, and of filling its window once from `from` tokens on.
double batch_seconds(const CostModel& cost, const ConfigSize& size, const Shape& shape);
double fill_seconds(const CostModel& cost, const ConfigSize& size, int64_t from, int64_t to);

/// Of one step of a configuration.
double step_seconds(const CostModel& cost, const ConfigSize& size, const Step& step, const Shape& shape);

/// What the requests of one step are made of.
Shape shape_for(const CostModel& cost, const ConfigSize& size, const Step& step, const Options& options,
                const Facts& facts);

/// Of one start of a server, which takes `start`, and `n_repeats` repeats of these cells after it; `seconds`
/// says what one step takes. Nothing is started for no cell or no repeat.
double visit_seconds(const ConfigSize& size, const std::vector<std::string>& depths, int64_t n_repeats,
                     double start, const std::function<double(const Step&)>& seconds);

/// What the cells of one configuration take, by the model of cost alone.
double config_seconds(const CostModel& cost, const ConfigSize& size, const std::vector<std::string>& depths,
                      const Options& options, const Facts& facts, bool starts);

/// Chooses the depths of `todo`, in order; the first is the one that begins now. With a budget, every
/// configuration's empty window comes first, then one chat's full and half windows from small to large
/// contexts, then the largest number of chats, then the rest; what does not fit is left out. An empty list of
/// depths: the configuration is left out. The parts of `todo` count.
std::vector<std::vector<std::string>> choose_depths(const CostModel& cost,
                                                    const std::vector<ConfigSize>& todo,
                                                    const Options& options, const Facts& facts, bool starts,
                                                    double seconds_left);

/// choose_depths with the longest samples that leave room for every cell: those that are asked, shorter ones,
/// down to single batches. Sets the parts of `todo`.
std::vector<std::vector<std::string>> choose_cells(const CostModel& cost, std::vector<ConfigSize>& todo,
                                                   const Options& options, const Facts& facts, bool starts,
                                                   double seconds_left);

}  // namespace fl::report
