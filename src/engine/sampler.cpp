#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/random.h"

namespace fl::engine {

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kGreedyTemperature =
    1e-6F;  ///< below it only exact ties are left to chance, and quotients overflow
constexpr float kLargestLogit = 1e30F;  ///< where bias and penalties stop, so that no sum overflows

}  // namespace

// The candidates while the chain runs. They start as "all of `logits`" and become a list when a sampler needs
// one.
struct Sampler::Pick {
  const SamplingParams& p;
  SamplerScratch& s;
  std::span<const float> logits;
  std::span<const float> maxima;  ///< of the logits as they came; empty once they are edited
  bool all = true;                ///< the candidates are all of `logits`, `s.items` is not filled
  bool edited = false;            ///< `logits` is the copy in the scratch
  bool ordered = false;

  std::span<float> edit() {
    if (!edited) {
      s.logits.assign(logits.begin(), logits.end());
      logits = s.logits;
      maxima = {};
      edited = true;
    }
    return s.logits;
  }

  void gather(float threshold) {
    if (!all) {
      std::erase_if(s.items, [threshold](const Candidate& c) { return c.logit < threshold; });
      return;
    }
    s.items.clear();
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] >= threshold && logits[i] > -kInf) {
        s.items.push_back({logits[i], static_cast<int32_t>(i)});
      }
    }
    all = false;
    ordered = false;
  }

  void order() {
    gather(-kInf);
    if (!ordered) {
      std::ranges::sort(s.items, before);
      ordered = true;
    }
  }

  float max() const {
    if (all) {
      return largest(logits, maxima);
    }
    float m = -kInf;
    for (const Candidate& c : s.items) {
      m = std::max(m, c.logit);
    }
    return m;
  }

  /// Fills s.weights with exp(logit - max) of s.items; returns the sum.
  double weigh() {
    const float m = max();
    s.weights.clear();
    double sum = 0;
    for (const Candidate& c : s.items) {
      s.weights.push_back(std::exp(static_cast<double>(c.logit) - m));
      sum += s.weights.back();
    }
    return sum;
  }

  size_t min_keep() const { return static_cast<size_t>(std::max(p.min_keep, 1)); }

  void top_k(int32_t k) {
    if (all) {
      select_top(logits, k, s.select, s.items, maxima);
      all = false;
    } else if (static_cast<size_t>(k) < s.items.size()) {
      std::nth_element(s.items.begin(), s.items.begin() + k, s.items.end(), before);
      s.items.resize(k);
      ordered = false;
    }
    order();
  }

  void top_n_sigma() {
    const float m = max();
    double mean = 0;
    double squares = 0;
    int64_t n = 0;
    const auto visit = [&](auto&& f) {
      if (all) {
        for (const float v : logits) {
          if (v > -kInf) {
            f(v);
          }
        }
      } else {
        for (const Candidate& c : s.items) {
          f(c.logit);
        }
      }
    };
    visit([&](float v) {
      mean += v;
      ++n;
    });
    mean /= static_cast<double>(std::max<int64_t>(n, 1));
    visit([&](float v) { squares += (v - mean) * (v - mean); });
    const double sigma = n > 0 ? std::sqrt(squares / static_cast<double>(n)) : 0.0;
    gather(std::min(m, static_cast<float>(m - p.top_n_sigma * sigma)));
  }

  void typical() {
    gather(-kInf);
    order();
    const double sum = weigh();
    double entropy = 0;
    for (const double w : s.weights) {
      if (w > 0) {
        entropy -= w / sum * std::log(w / sum);
      }
    }
    // Sorted by how far the surprise is from the entropy; `extra` holds (-distance, index) so that `before`
    // sorts it.
    s.extra.clear();
    for (size_t i = 0; i < s.weights.size(); ++i) {
      const double distance = s.weights[i] > 0 ? std::abs(-std::log(s.weights[i] / sum) - entropy) : kInf;
      s.extra.push_back({static_cast<float>(-distance), static_cast<int32_t>(i)});
    }
    std::ranges::sort(s.extra, before);
    double mass = 0;
    size_t kept = 0;
    while (kept < s.extra.size()) {
      mass += s.weights[s.extra[kept++].id] / sum;
      if (mass > p.typical_p && kept >= min_keep()) {
        break;
      }
    }
    s.extra.resize(kept);
    for (Candidate& c : s.extra) {
      c = s.items[c.id];
    }
    std::swap(s.items, s.extra);
    ordered = false;
    order();
  }

  /// Orders the best of the vocabulary into s.items, a growing slice at a time, until `enough(mass, count)`
  /// of them are there; returns that count. s.weights and s.total are set. `all` only.
  template <typename F>
  size_t take_best(F&& enough) {
    const float m = max();
    s.total = sum_exp(logits, m);
    size_t count = 0;
    double mass = 0;
    s.weights.clear();
    for (size_t slice = kFirstSlice;; slice *= kSliceGrowth) {
      select_top(logits, static_cast<int32_t>(std::min(slice, logits.size())), s.select, s.items, maxima);
      for (size_t i = s.weights.size(); i < s.items.size(); ++i) {
        s.weights.push_back(std::exp(static_cast<double>(s.items[i].logit) - m));
      }
      while (count < s.items.size()) {
        mass += s.weights[count++];
        if (enough(mass, count)) {
          all = false;
          ordered = true;
          return count;
        }
      }
      if (slice >= logits.size()) {
        break;
      }
    }
    all = false;
    ordered = true;
    return count;
  }

  void top_p() {
    if (all) {
      s.items.resize(take_best(
          [&](double mass, size_t count) { return mass >= p.top_p * s.total && count >= min_keep(); }));
      return;
    }
    order();
    const double sum = weigh();
    double mass = 0;
    for (size_t i = 0; i < s.items.size(); ++i) {
      mass += s.weights[i];
      if (mass >= p.top_p * sum && i + 1 >= min_keep()) {
        s.items.resize(i + 1);
        return;
      }
    }
  }

  void min_p() {
    const float m = max();
    const float threshold = m + std::log(std::min(p.min_p, 1.0F));
    if (min_keep() > 1) {
      order();
      size_t kept = 1;
      while (kept < s.items.size() && (s.items[kept].logit >= threshold || kept < min_keep())) {
        ++kept;
      }
      s.items.resize(std::min(kept, s.items.size()));
      return;
    }
    gather(threshold);
  }

  void xtc(float draw) {
    if (draw > p.xtc_probability) {
      return;
    }
    order();
    if (s.items.size() < 2) {
      return;
    }
    const double sum = weigh();
    size_t last = 0;
    while (last + 1 < s.items.size() && s.weights[last + 1] / sum >= p.xtc_threshold) {
      ++last;
    }
    if (last > 0 && s.items.size() - last >= min_keep() && s.weights[0] / sum >= p.xtc_threshold) {
      s.items.erase(s.items.begin(), s.items.begin() + static_cast<int64_t>(last));
    }
  }

  void temperature() {
    float t = p.temperature;
    if (p.dynatemp_range > 0.0F) {
      gather(-kInf);
      if (s.items.size() < 2) {
        return;
      }
      const double sum = weigh();
      double entropy = 0;
      for (const double w : s.weights) {
        if (w > 0) {
          entropy -= w / sum * std::log(w / sum);
        }
      }
      const double share = entropy / std::log(static_cast<double>(s.items.size()));
      const float low = std::max(0.0F, p.temperature - p.dynatemp_range);
      const float high = p.temperature + p.dynatemp_range;
      t = low + (high - low) * static_cast<float>(std::pow(share, p.dynatemp_exponent));
    }
    if (t < kGreedyTemperature) {
      top_k(1);
      return;
    }
    if (t == 1.0F) {
      return;
    }
    if (all) {
      scale_all(edit(), t);
    }
    for (Candidate& c : s.items) {
      c.logit /= t;
    }
  }

  static constexpr size_t kFirstSlice = 512;
  static constexpr size_t kSliceGrowth = 8;
};

void Sampler::start(const SamplingParams& params, uint32_t seed, int32_t n_vocab,
                    std::span<const int32_t> prompt) {
  params_ = params;
  seed_ = seed;
  n_vocab_ = n_vocab;
  greedy_ = is_greedy(params);
  mu_ = 2.0F * params.mirostat_tau;
  window_ = 0;
  distinct_.clear();
  if (active(params, SamplerKind::penalties)) {
    window_ = params.repeat_last_n < 0 ? std::numeric_limits<int32_t>::max() : params.repeat_last_n;
    counts_.assign(n_vocab, 0);
    where_.assign(n_vocab, -1);
    distinct_.reserve(n_vocab);
    for (const int32_t token : prompt.last(std::min<size_t>(prompt.size(), window_))) {
      count(token, 1);
    }
  }
}

void Sampler::count(int32_t token, int32_t by) {
  int32_t& n = counts_[token];
  if (n == 0) {
    where_[token] = static_cast<int32_t>(distinct_.size());
    distinct_.push_back(token);
  }
  n += by;
  if (n == 0) {
    distinct_[where_[token]] = distinct_.back();
    where_[distinct_.back()] = where_[token];
    distinct_.pop_back();
  }
}

void Sampler::accept(std::span<const int32_t> history) {
  if (window_ > 0) {
    count(history.back(), 1);
    if (history.size() > static_cast<size_t>(window_)) {
      count(history[history.size() - 1 - window_], -1);
    }
  }
}

float Sampler::draw(int32_t position) const {
  return uniform(seed_, position, Draw::token);
}

Result<int32_t> Sampler::sample(std::span<const float> logits, std::span<const int32_t> history,
                                TokenHook* hook, SamplerScratch& scratch, int32_t n_listed,
                                std::span<const float> maxima) {
  Pick pick{params_, scratch, logits, maxima};
  const auto position = static_cast<int32_t>(history.size());
  if (!params_.logit_bias.empty()) {
    for (const auto& [token, bias] : params_.logit_bias) {
      float& logit = pick.edit()[token];
      logit = std::min(logit + bias, std::max(logit, kLargestLogit));
    }
  }
  if (hook != nullptr && hook->masks()) {
    hook->mask(pick.edit());
  }
  // Nothing to choose from. Selections see it in the pass they make anyway; other samplers are preceded by a
  // check.
  const auto nothing = [&]() -> Result<int32_t> {
    if (std::isnan(largest(pick.logits, pick.maxima))) {
      return fail(ErrorCode::internal, "the model's logits are not finite numbers");
    }
    return fail(ErrorCode::invalid_argument, "no token is allowed: every logit is forbidden by bias or mask");
  };
  bool checked = false;
  const auto empty = [&] {
    if (!checked) {
      checked = true;
      const float max = pick.max();
      return std::isnan(max) || max == -kInf;
    }
    return false;
  };

  const auto penalise = [&](int32_t token, auto&& change) {
    if (pick.all) {
      change(pick.edit()[token]);
      return;
    }
    for (Candidate& c : scratch.items) {
      if (c.id == token) {
        change(c.logit);
      }
    }
    pick.ordered = false;
  };
  const auto penalties = [&] {
    for (const int32_t token : distinct_) {
      penalise(token, [&](float& logit) {
        const auto n = static_cast<float>(counts_[token]);
        logit = logit <= 0.0F ? logit * params_.repeat_penalty : logit / params_.repeat_penalty;
        logit -= n * params_.frequency_penalty + params_.presence_penalty;
        logit = std::min(logit, kLargestLogit);
      });
    }
  };
  const auto dry = [&] {
    const auto last = params_.dry_penalty_last_n < 0
                          ? history.size()
                          : std::min<size_t>(history.size(), params_.dry_penalty_last_n);
    for (const auto& [token, length] :
         dry_repetitions(history.last(last), params_.dry_allowed_length, params_.dry_breakers, scratch.dry)) {
      penalise(token, [&, length = length](float& logit) {
        logit -= dry_penalty(params_.dry_multiplier, params_.dry_base, length, params_.dry_allowed_length);
        logit = std::min(logit, kLargestLogit);
      });
    }
  };

  if (greedy_) {
    for (const SamplerKind kind : params_.samplers) {
      if (kind == SamplerKind::penalties && active(params_, kind)) {
        penalties();
      } else if (kind == SamplerKind::dry && active(params_, kind)) {
        dry();
      }
    }
    const int32_t token = argmax(pick.logits, pick.maxima);
    if (token < 0) {
      return nothing();
    }
    scratch.items.assign(1, {pick.logits[token], token});
    scratch.weights.assign(1, 1.0);
    scratch.total = 1.0;
    return token;
  }
  if (params_.mirostat == 2) {
    if (empty()) {
      return nothing();
    }
    pick.temperature();
  } else {
    for (const SamplerKind kind : params_.samplers) {
      if (!active(params_, kind)) {
        continue;
      }
      if (kind == SamplerKind::top_k) {
        pick.top_k(params_.top_k);
        if (scratch.items.empty()) {
          return nothing();
        }
        checked = true;
        continue;
      }
      if (kind != SamplerKind::penalties && kind != SamplerKind::dry && empty()) {
        return nothing();
      }
      switch (kind) {
        case SamplerKind::penalties:
          penalties();
          break;
        case SamplerKind::dry:
          dry();
          break;
        case SamplerKind::top_n_sigma:
          pick.top_n_sigma();
          break;
        case SamplerKind::top_k:
          break;  // done above
        case SamplerKind::typical_p:
          pick.typical();
          break;
        case SamplerKind::top_p:
          pick.top_p();
          break;
        case SamplerKind::min_p:
          pick.min_p();
          break;
        case SamplerKind::xtc:
          pick.xtc(uniform(seed_, position, Draw::xtc));
          break;
        case SamplerKind::temperature:
          pick.temperature();
          break;
      }
    }
  }
  if (empty()) {
    return nothing();
  }

  const double uniform_draw = draw(position);
  size_t chosen = 0;
  if (params_.mirostat == 2) {
    if (pick.all) {
      const float m = pick.max();
      const double edge = m + std::log(sum_exp(pick.logits, m)) - mu_ * std::numbers::ln2;
      pick.gather(std::min(m, static_cast<float>(edge)));
    }
    pick.order();
    double total = pick.weigh();
    size_t kept = 0;
    while (kept < scratch.items.size() && -std::log2(scratch.weights[kept] / total) <= mu_) {
      ++kept;
    }
    scratch.items.resize(std::max<size_t>(kept, 1));
  }
  if (pick.all) {
    const auto enough = [&](double mass, size_t count) {
      return mass > uniform_draw * scratch.total && count >= static_cast<size_t>(n_listed);
    };
    pick.take_best(enough);
  } else {
    pick.order();
    FL_CHECK(!scratch.items.empty(), "the sampler chain left no candidate");
    scratch.total = pick.weigh();
  }
  double sum = 0;
  for (size_t i = 0; i < scratch.items.size() && scratch.weights[i] > 0; ++i) {
    chosen = i;
    sum += scratch.weights[i];
    if (sum > uniform_draw * scratch.total) {
      break;
    }
  }
  if (params_.mirostat == 2) {
    const auto surprise = static_cast<float>(-std::log2(scratch.weights[chosen] / scratch.total));
    mu_ -= params_.mirostat_eta * (surprise - params_.mirostat_tau);
  }
  return scratch.items[chosen].id;
}

}  // namespace fl::engine
