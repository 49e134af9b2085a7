#include "report/plan.h"

#include <algorithm>

#include "report/statistics.h"

namespace fl::report {
namespace {

constexpr int64_t kWarmUpTokens = 16;
// Until a long prompt was read, a token at 32k is assumed to cost twice one at the beginning.
constexpr double kAssumedDoubling = 32768;
constexpr double kUncachedShare = 0.1;
constexpr double kReuseShare = 0.5;
// Estimates are kept under this share of what is left: they are not exact.
constexpr double kUsableShare = 0.92;
constexpr double kPerBatchSeconds = 0.15;  // connections, the watch's last look, the journal

}  // namespace

void CostModel::learn(const Facts& facts) {
  if (facts.calibration_prefill > 0) {
    read_a_ = 1 / facts.calibration_prefill;
    read_b_ = read_a_ / kAssumedDoubling;
  }
  if (facts.calibration_decode > 0) {
    step_c_ = 1 / facts.calibration_decode;
  }
}

void CostModel::learn(const Start& start) {
  if (start.started) {
    start_ = (start_ * static_cast<double>(n_starts_) + start.startup_seconds) /
             static_cast<double>(n_starts_ + 1);
    ++n_starts_;
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
      prompt_tokens_.push_back(prompt);
      per_token_.push_back(*sample.ttft_seconds / prompt);
    }
    if (batch.kind == "warm-up" && batch.depth != "empty" && sample.cached_tokens >= 0) {
      reuse_ = cached > kReuseShare * prompt;
    }
  }
  if (batch.kind == "measure" && batch.decode_total && *batch.decode_total > 0) {
    chats_.push_back(static_cast<double>(batch.chats));
    step_.push_back(static_cast<double>(batch.chats) / *batch.decode_total);
  }
  fit();
}

void CostModel::fit() {
  if (!per_token_.empty()) {
    const auto [low, high] = std::minmax_element(prompt_tokens_.begin(), prompt_tokens_.end());
    constexpr double kEnoughRange = 4;
    if (*high > kEnoughRange * *low) {
      const Line line = fit_robust_line(prompt_tokens_, per_token_);
      read_b_ = std::max(0.0, line.slope);
      read_a_ = std::max(0.1 * median(per_token_), line.at_zero);
    } else {
      read_a_ = median(per_token_);
      read_b_ = read_a_ / kAssumedDoubling;
    }
  }
  if (!step_.empty()) {
    const Line line = fit_robust_line(chats_, step_);
    step_d_ = std::max(0.0, line.slope);
    step_c_ = std::max(0.1 * median(step_), line.at_zero);
  }
}

double CostModel::read(int64_t n_tokens) const {
  const auto n = static_cast<double>(std::max<int64_t>(n_tokens, 0));
  return n * (read_a_ + read_b_ * n);
}

double CostModel::decode(int64_t n_tokens, int64_t chats) const {
  return static_cast<double>(n_tokens) * (step_c_ + step_d_ * static_cast<double>(chats));
}

Shape stretched(Shape shape, const CostModel& cost, int64_t chats) {
  const double one = cost.read(shape.filled + shape.prompt) - (cost.reuse() ? cost.read(shape.filled) : 0);
  const double step = cost.decode(1, chats);
  const double stagger = static_cast<double>(chats - 1) * one;
  const auto most = static_cast<double>(longest_answer(shape));
  shape.answer = static_cast<int64_t>(std::min(most, static_cast<double>(shape.answer) + stagger / step));
  return shape;
}

double batch_seconds(const CostModel& cost, const ConfigSize& size, const Shape& shape) {
  const double again = cost.reuse() ? 0 : cost.read(shape.filled);
  const double prompt = cost.read(shape.filled + shape.prompt) - cost.read(shape.filled);
  return static_cast<double>(size.chats) * (prompt + again) + cost.decode(shape.answer, size.chats) +
         kPerBatchSeconds;
}

double fill_seconds(const CostModel& cost, const ConfigSize& size, int64_t from, int64_t to) {
  const double begin = cost.reuse() ? cost.read(from) : 0;
  return static_cast<double>(size.chats) * (cost.read(to) - begin + kPerBatchSeconds);
}

double config_seconds(const CostModel& cost, const ConfigSize& size, const std::vector<std::string>& depths,
                      const Options& options, const Facts& facts, bool starts) {
  double sum = starts ? cost.start() : 0;
  int64_t filled = 0;
  for (const std::string& depth : depths) {
    Shape shape = stretched(shape_of(depth, size.window, options, facts), cost, size.chats);
    sum += static_cast<double>(options.repeats) * batch_seconds(cost, size, shape);
    if (shape.filled > 0) {
      sum += fill_seconds(cost, size, filled, shape.filled);
      filled = shape.filled;
    }
    shape.answer = kWarmUpTokens;
    sum += batch_seconds(cost, size, shape);
  }
  return sum;
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

}  // namespace fl::report
