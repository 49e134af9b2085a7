#include "report/plan.h"

#include <algorithm>
#include <cmath>

#include "report/statistics.h"

namespace fl::report {
namespace {

constexpr int64_t kWarmUpTokens = 16;
// Until a long prompt was read, a token at 32k is assumed to cost twice one at the beginning.
constexpr double kAssumedDoubling = 32768;
constexpr double kLongShare = 1.0 / 16;
constexpr double kUnknownSecondsPerToken = 1e-3;
constexpr int64_t kCalibrationPrompt = 600;  // tokens of the longer calibration text, roughly
constexpr double kLeastShare = 0.1;          // of a step is the same for any number of chats
constexpr double kUncachedShare = 0.1;
constexpr double kReuseShare = 0.5;
constexpr int kShareHalvings = 5;          // of the samples' length, until it fits
constexpr double kPerBatchSeconds = 0.03;  // connections, the watch's last look, the journal

// Lengths differ by a few tokens: they share a place when they are within a tenth.
int64_t place_of(int64_t n_tokens) {
  int64_t place = 1;
  while (place < n_tokens) {
    place = std::max(place + 1, place + place / 10);
  }
  return place;
}

}  // namespace

void CostModel::learn(const Facts& facts) {
  if (facts.calibration_prefill > 0) {
    const int64_t n = kCalibrationPrompt;
    learn_read(n, static_cast<double>(n) / facts.calibration_prefill);
  }
  if (facts.calibration_decode > 0) {
    step_c_ = 1 / facts.calibration_decode;
  }
  fit();
}

void CostModel::learn(const Start& start) {
  if (start.started && visits_.empty()) {
    starts_.push_back(start.startup_seconds);
    start_ = median(starts_);
  }
}

void CostModel::learn_visit(double seconds) {
  visits_.push_back(std::max(seconds, 0.0));
  start_ = median(visits_);
}

void CostModel::Place::add(double value) {
  seconds.push_back(value);
  middle = median(seconds);
}

void CostModel::learn_read(int64_t n_tokens, double seconds) {
  const int64_t place = place_of(n_tokens);
  reads_[place].add(seconds * static_cast<double>(place) / static_cast<double>(n_tokens));
}

void CostModel::learn_step(const Batch& batch) {
  if (!batch.decode_total || *batch.decode_total <= 0 || batch.samples.empty()) {
    return;
  }
  const double step = static_cast<double>(batch.chats) / *batch.decode_total;
  if (batch.depth == "empty") {
    steps_[{batch.chats, batch.ctx}].add(step);
  } else {
    filled_[{batch.chats, place_of(batch.samples.front().prompt_tokens)}].add(step);
  }
}

void CostModel::learn(const Batch& batch) {
  for (const Sample& sample : batch.samples) {
    if (sample.status != "ok" || !sample.ttft_seconds || sample.prompt_tokens <= 0) {
      continue;
    }
    const auto prompt = static_cast<double>(sample.prompt_tokens);
    const auto cached = static_cast<double>(std::max<int64_t>(sample.cached_tokens, 0));
    if (batch.samples.size() == 1 && cached < kUncachedShare * prompt) {
      learn_read(sample.prompt_tokens, *sample.ttft_seconds);
    }
    if (batch.kind == "warm-up" && batch.depth != "empty") {
      // A server that does not state it shows it: reading the window again takes as long as the first time.
      reuse_ = sample.cached_tokens >= 0 ? cached > kReuseShare * prompt
                                         : *sample.ttft_seconds < kReuseShare * read(sample.prompt_tokens);
    }
  }
  if (batch.kind == "measure") {
    learn_step(batch);
  }
  fit();
}

void CostModel::fit() {
  reading_.clear();
  for (const auto& [tokens, place] : reads_) {
    const double before = reading_.empty() ? 0 : reading_.back().second;
    reading_.emplace_back(static_cast<double>(tokens), std::max(before, place.middle));
  }
  // Short prompts have a share that is the same for any length: they say little about growth.
  std::vector<double> tokens;
  std::vector<double> per_token;
  for (const auto& [n, seconds] : reading_) {
    if (n >= kLongShare * reading_.back().first) {
      tokens.push_back(n);
      per_token.push_back(seconds / n);
    }
  }
  growth_.reset();
  if (tokens.size() > 1) {
    growth_ = std::max(0.0, fit_robust_line(tokens, per_token).slope);
  }
  if (!steps_.empty()) {
    std::vector<double> chats;
    std::vector<double> step;
    for (const auto& [key, place] : steps_) {
      chats.push_back(static_cast<double>(key.first));
      step.push_back(place.middle);
    }
    const Line line = fit_robust_line(chats, step);
    step_d_ = std::max(0.0, line.slope);
    step_c_ = std::max(kLeastShare * median(step), line.at_zero);
  }
  // A line through zero: small windows say little about what a token in them costs.
  double xy = 0;
  double xx = 0;
  for (const auto& [key, place] : filled_) {
    const auto chats = static_cast<double>(key.first);
    const double held = chats * static_cast<double>(key.second);
    xy += held * (place.middle - step_c_ - step_d_ * chats);
    xx += held * held;
  }
  step_e_ = xx > 0 ? std::max(0.0, xy / xx) : 0;
}

double CostModel::read(int64_t n_tokens) const {
  const auto n = static_cast<double>(std::max<int64_t>(n_tokens, 0));
  if (reading_.empty()) {
    return n * kUnknownSecondsPerToken;
  }
  const auto above = std::lower_bound(reading_.begin(), reading_.end(), std::pair(n, 0.0));
  if (above == reading_.begin()) {
    return above->second * n / above->first;
  }
  const auto& [below_tokens, below_seconds] = *(above - 1);
  if (above != reading_.end()) {
    const double share = (n - below_tokens) / (above->first - below_tokens);
    return below_seconds + share * (above->second - below_seconds);
  }
  // Beyond the longest: seconds a token grow along a straight line, t(n) = n * (a + b * n), through the
  // longest.
  const double per_token = below_seconds / below_tokens;
  const double growth = growth_.value_or(per_token / kAssumedDoubling);
  return n * (per_token + growth * (n - below_tokens));
}

double CostModel::decode(int64_t n_tokens, int64_t chats, int64_t depth) const {
  const auto p = static_cast<double>(chats);
  return static_cast<double>(n_tokens) * (step_c_ + p * (step_d_ + step_e_ * static_cast<double>(depth)));
}

namespace {

// Of what is new behind a filled window: at least what it costs in an empty one.
double prompt_seconds(const CostModel& cost, const Shape& shape) {
  return std::max(cost.read(shape.prompt), cost.read(shape.filled + shape.prompt) - cost.read(shape.filled));
}

}  // namespace

Shape stretched(Shape shape, const CostModel& cost, int64_t chats) {
  const double one = cost.reuse() ? prompt_seconds(cost, shape) : cost.read(shape.filled + shape.prompt);
  const double step = cost.decode(1, chats, shape.filled);
  const double stagger = static_cast<double>(chats - 1) * one;
  const auto most = static_cast<double>(longest_answer(shape));
  shape.answer = static_cast<int64_t>(std::min(most, static_cast<double>(shape.answer) + stagger / step));
  return shape;
}

double batch_seconds(const CostModel& cost, const ConfigSize& size, const Shape& shape) {
  const double again = cost.reuse() ? 0 : cost.read(shape.filled);
  const double prompt = prompt_seconds(cost, shape);
  return static_cast<double>(size.chats) * (prompt + again) +
         cost.decode(shape.answer, size.chats, shape.filled) + kPerBatchSeconds;
}

int64_t parts_for(const CostModel& cost, const ConfigSize& size, double seconds, const Options& options,
                  const Facts& facts) {
  const Shape shape = shape_of("empty", size.window, options, facts);
  const double one = cost.decode(shape.answer, size.chats, 0);
  const auto most = static_cast<double>(kMostParts);
  return one > 0 ? static_cast<int64_t>(std::clamp(std::round(seconds / one), 1.0, most)) : 1;
}

double fill_seconds(const CostModel& cost, const ConfigSize& size, int64_t from, int64_t to) {
  const double begin = cost.reuse() ? cost.read(from) : 0;
  return static_cast<double>(size.chats) * (cost.read(to) - begin + kPerBatchSeconds);
}

double step_seconds(const CostModel& cost, const ConfigSize& size, const Step& step, const Shape& shape) {
  if (step.kind == "fill") {
    // Half a window is read before the whole one.
    const int64_t from = step.depth == "full" && step.after_half ? shape.filled / 2 : 0;
    return fill_seconds(cost, size, from, shape.filled) / static_cast<double>(size.chats);
  }
  return batch_seconds(cost, size, shape);
}

Shape shape_for(const CostModel& cost, const ConfigSize& size, const Step& step, const Options& options,
                const Facts& facts) {
  Shape shape = shape_of(step.depth, size.window, options, facts);
  if (step.kind == "warm-up") {
    shape.answer = std::min(shape.answer, kWarmUpTokens);
    return shape;
  }
  return stretched(shape, cost, size.chats);
}

double visit_seconds(const ConfigSize& size, const std::vector<std::string>& depths, int64_t n_repeats,
                     double start, const std::function<double(const Step&)>& seconds) {
  if (n_repeats <= 0 || depths.empty()) {
    return 0;
  }
  double sum = start + seconds({"empty", "warm-up"});
  const bool half = std::find(depths.begin(), depths.end(), "half") != depths.end();
  for (const std::string& depth : depths) {
    if (depth != "empty") {
      sum += static_cast<double>(size.chats) * seconds({depth, "fill", 0, 0, half});
      sum += seconds({depth, "warm-up"});
    }
    sum += static_cast<double>(n_repeats * size.parts) * seconds({depth, "measure", 1});
  }
  return sum;
}

double config_seconds(const CostModel& cost, const ConfigSize& size, const std::vector<std::string>& depths,
                      const Options& options, const Facts& facts, bool starts) {
  return visit_seconds(size, depths, options.repeats, starts ? cost.start() : 0, [&](const Step& step) {
    return step_seconds(cost, size, step, shape_for(cost, size, step, options, facts));
  });
}

std::vector<std::vector<std::string>> choose_depths(const CostModel& cost,
                                                    const std::vector<ConfigSize>& todo,
                                                    const Options& options, const Facts& facts, bool starts,
                                                    double seconds_left) {
  std::vector<std::vector<std::string>> chosen(todo.size());
  if (options.budget_seconds <= 0) {
    std::fill(chosen.begin(), chosen.end(), options.depths);
    return chosen;
  }
  const int64_t most_chats =
      todo.empty() ? 0 : std::max_element(todo.begin(), todo.end(), [](const auto& a, const auto& b) {
                           return a.chats < b.chats;
                         })->chats;
  double left = kUsableShare * seconds_left;
  std::vector<double> spent(todo.size());
  // Adds a depth to a configuration, in the order of options.depths, when it fits.
  const auto add = [&](size_t i, const std::string& depth) {
    std::vector<std::string> wanted;
    for (const std::string& known : options.depths) {
      const bool has = std::find(chosen[i].begin(), chosen[i].end(), known) != chosen[i].end();
      if (has || known == depth) {
        wanted.push_back(known);
      }
    }
    if (wanted.size() == chosen[i].size()) {
      return;
    }
    const double seconds = config_seconds(cost, todo[i], wanted, options, facts, starts);
    if (seconds - spent[i] <= left) {
      left -= seconds - spent[i];
      spent[i] = seconds;
      chosen[i] = wanted;
    }
  };
  // Corners first, so that a budget too small for every empty window still spans the matrix.
  const auto rank_of = [&](const ConfigSize& size) {
    const bool end = size.ctx == todo.front().ctx || size.ctx == todo.back().ctx;
    return (end ? 0 : 2) + (size.chats == 1 || size.chats == most_chats ? 0 : 1);
  };
  for (int rank = 0; rank < 4; ++rank) {
    for (size_t i = 0; i < todo.size(); ++i) {
      if (rank_of(todo[i]) == rank) {
        add(i, options.depths.front());
      }
    }
  }
  for (const int64_t group : {int64_t{1}, most_chats, int64_t{0}}) {
    for (const char* depth : {"full", "half", "empty"}) {
      if (std::find(options.depths.begin(), options.depths.end(), depth) == options.depths.end()) {
        continue;
      }
      for (size_t i = 0; i < todo.size(); ++i) {
        if ((group == 0 || todo[i].chats == group) && !chosen[i].empty()) {
          add(i, depth);
        }
      }
    }
  }
  return chosen;
}

std::vector<std::vector<std::string>> choose_cells(const CostModel& cost, std::vector<ConfigSize>& todo,
                                                   const Options& options, const Facts& facts, bool starts,
                                                   double seconds_left) {
  std::vector<std::vector<std::string>> chosen;
  const auto fit_all = [&](double share) {
    for (ConfigSize& size : todo) {
      size.parts = parts_for(cost, size, share * options.sample_seconds, options, facts);
    }
    chosen = choose_depths(cost, todo, options, facts, starts, seconds_left);
    return std::all_of(chosen.begin(), chosen.end(),
                       [&](const auto& depths) { return depths.size() == options.depths.size(); });
  };
  if (fit_all(1) || !fit_all(0)) {
    return chosen;
  }
  double low = 0;
  double high = 1;
  for (int i = 0; i < kShareHalvings; ++i) {
    const double middle = (low + high) / 2;
    (fit_all(middle) ? low : high) = middle;
  }
  fit_all(low);
  return chosen;
}

}  // namespace fl::report
