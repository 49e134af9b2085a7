#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/random.h"

namespace fl::engine {

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kGreedyTemperature =
    1e-6F;  ///< below it only exact ties are left to chance, and quotients overflow
constexpr float kLargestLogit = 1e30F;  ///< where bias and penalties stop, so that no sum overflows

bool has(const SamplingParams& params, SamplerKind kind) {
  return std::ranges::find(params.samplers, kind) != params.samplers.end();
}

bool penalties_active(const SamplingParams& p) {
  return has(p, SamplerKind::penalties) && p.mirostat == 0 && p.repeat_last_n != 0 &&
         (p.repeat_penalty != 1.0F || p.presence_penalty != 0.0F || p.frequency_penalty != 0.0F);
}

bool dry_active(const SamplingParams& p) {
  return p.dry_multiplier != 0.0F && p.dry_base >= 1.0F && p.dry_penalty_last_n != 0;
}

/// Whether a sampler would change anything.
bool active(const SamplingParams& p, SamplerKind kind) {
  switch (kind) {
    case SamplerKind::penalties:
      return penalties_active(p);
    case SamplerKind::dry:
      return dry_active(p);
    case SamplerKind::top_n_sigma:
      return p.top_n_sigma > 0.0F;
    case SamplerKind::top_k:
      return p.top_k > 0;
    case SamplerKind::typical_p:
      return p.typical_p < 1.0F;
    case SamplerKind::top_p:
      return p.top_p < 1.0F;
    case SamplerKind::min_p:
      return p.min_p > 0.0F;
    case SamplerKind::xtc:
      return p.xtc_probability > 0.0F && p.xtc_threshold <= 0.5F;
    case SamplerKind::temperature:
      return p.temperature != 1.0F || p.dynatemp_range > 0.0F;
  }
  return false;
}

/// True when every draw is the largest logit left after bias, masks and penalties: nothing in the chain can
/// drop it.
bool is_greedy(const SamplingParams& p) {
  if (p.mirostat != 0 || p.dynatemp_range > 0.0F) {
    return false;
  }
  bool greedy = false;
  bool filtered =
      false;  // something before may have dropped tokens: penalties after it are not over all tokens
  for (const SamplerKind kind : p.samplers) {
    if (!active(p, kind)) {
      continue;
    }
    switch (kind) {
      case SamplerKind::typical_p:
      case SamplerKind::xtc:
        return false;
      case SamplerKind::penalties:
      case SamplerKind::dry:
        if (filtered) {
          return false;
        }
        break;
      case SamplerKind::temperature:
        greedy |= p.temperature <= 0.0F;
        filtered = true;
        break;
      case SamplerKind::top_k:
        greedy |= p.top_k == 1;
        filtered = true;
        break;
      default:
        filtered = true;
    }
  }
  return greedy;
}

Status check_number(const char* name, float value) {
  if (!std::isfinite(value)) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("{}: expected a finite number, found {}", name, value));
  }
  return {};
}

}  // namespace

std::vector<SamplerKind> default_samplers() {
  return {SamplerKind::penalties, SamplerKind::dry,       SamplerKind::top_n_sigma,
          SamplerKind::top_k,     SamplerKind::typical_p, SamplerKind::top_p,
          SamplerKind::min_p,     SamplerKind::xtc,       SamplerKind::temperature};
}

Status check(const SamplingParams& p, int32_t n_vocab) {
  FL_TRY(check_number("top_p", p.top_p));
  FL_TRY(check_number("min_p", p.min_p));
  FL_TRY(check_number("typical_p", p.typical_p));
  FL_TRY(check_number("top_n_sigma", p.top_n_sigma));
  FL_TRY(check_number("xtc_probability", p.xtc_probability));
  FL_TRY(check_number("xtc_threshold", p.xtc_threshold));
  FL_TRY(check_number("temperature", p.temperature));
  FL_TRY(check_number("dynatemp_range", p.dynatemp_range));
  FL_TRY(check_number("dynatemp_exponent", p.dynatemp_exponent));
  FL_TRY(check_number("repeat_penalty", p.repeat_penalty));
  FL_TRY(check_number("presence_penalty", p.presence_penalty));
  FL_TRY(check_number("frequency_penalty", p.frequency_penalty));
  FL_TRY(check_number("dry_multiplier", p.dry_multiplier));
  FL_TRY(check_number("dry_base", p.dry_base));
  FL_TRY(check_number("mirostat_tau", p.mirostat_tau));
  FL_TRY(check_number("mirostat_eta", p.mirostat_eta));
  if (p.repeat_penalty <= 0.0F) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("repeat_penalty: expected more than 0, found {}", p.repeat_penalty));
  }
  if (p.repeat_last_n < -1 || p.dry_penalty_last_n < -1 || p.dry_allowed_length < 0 || p.min_keep < 0) {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format(
            "expected repeat_last_n and dry_penalty_last_n of at least -1, dry_allowed_length and min_keep "
            "of at least 0, found {}, {}, {} and {}",
            p.repeat_last_n, p.dry_penalty_last_n, p.dry_allowed_length, p.min_keep));
  }
  if (p.mirostat != 0 && p.mirostat != 2) {
    return fail(ErrorCode::unsupported, fmt::format("mirostat: expected 0 or 2, found {}", p.mirostat));
  }
  for (const auto& [token, bias] : p.logit_bias) {
    if (token < 0 || token >= n_vocab) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("logit_bias: expected a token below {}, found {}", n_vocab, token));
    }
    if (std::isnan(bias) || bias == kInf) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("logit_bias: expected a number for token {}", token));
    }
  }
  return {};
}

model::DeviceSampling device_sampling(const SamplingParams& p, int32_t max_device_top_k) {
  using Mode = model::DeviceSampling::Mode;
  model::DeviceSampling device;
  if (max_device_top_k < 1 || p.mirostat != 0 || !p.logit_bias.empty()) {
    return device;
  }
  const bool greedy = is_greedy(p);
  constexpr SamplerKind kOrder[] = {SamplerKind::top_k, SamplerKind::top_p, SamplerKind::min_p,
                                    SamplerKind::temperature};
  size_t next = 0;
  for (const SamplerKind kind : p.samplers) {
    if (!active(p, kind)) {
      continue;
    }
    if (kind == SamplerKind::penalties || kind == SamplerKind::dry) {
      return device;
    }
    if (greedy) {
      continue;
    }
    const auto* at = std::find(kOrder + next, std::end(kOrder), kind);
    if (at == std::end(kOrder)) {
      return device;
    }
    next = static_cast<size_t>(at - kOrder) + 1;
  }
  if (greedy) {
    device.mode = Mode::greedy;
    return device;
  }
  const bool has_k = has(p, SamplerKind::top_k) && p.top_k > 0;
  const float temperature = has(p, SamplerKind::temperature) ? p.temperature : 1.0F;
  if (!has_k || p.top_k > max_device_top_k || p.dynatemp_range > 0.0F || p.min_keep > 1 ||
      temperature <= 0.0F) {
    return device;
  }
  device.mode = Mode::random;
  device.top_k = p.top_k;
  device.top_p = has(p, SamplerKind::top_p) ? p.top_p : 1.0F;
  device.min_p = has(p, SamplerKind::min_p) ? p.min_p : 0.0F;
  device.temperature = temperature;
  return device;
}

// The candidates while the chain runs. They start as "all of `logits`" and become a list when a sampler needs
// one.
struct Sampler::Pick {
  const SamplingParams& p;
  SamplerScratch& s;
  std::span<const float> logits;
  bool all = true;      ///< the candidates are all of `logits`, `s.items` is not filled
  bool edited = false;  ///< `logits` is the copy in the scratch
  bool ordered = false;

  std::span<float> edit() {
    if (!edited) {
      s.logits.assign(logits.begin(), logits.end());
      logits = s.logits;
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
      return largest(logits);
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
      select_top(logits, k, s.select, s.items);
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

  void top_p() {
    if (!all && !ordered && s.items.size() <= kFirstSlice) {
      order();
    }
    if (ordered) {
      keep_mass(weigh());
      return;
    }
    // Too many to sort: the mass of all, then ever larger ordered slices of the best until they hold enough
    // of it.
    const float m = max();
    double sum = 0;
    if (all) {
      sum = sum_exp(logits, m);
      gather(-kInf);
    } else {
      sum = weigh();
    }
    std::swap(s.items, s.extra);
    size_t sorted = 0;
    double mass = 0;
    s.items.clear();
    for (size_t want = kFirstSlice; sorted < s.extra.size(); want *= kSliceGrowth) {
      const size_t end = std::min(want, s.extra.size());
      if (end < s.extra.size()) {
        std::nth_element(s.extra.begin() + sorted, s.extra.begin() + end, s.extra.end(), before);
      }
      std::sort(s.extra.begin() + sorted, s.extra.begin() + end, before);
      for (; sorted < end; ++sorted) {
        s.items.push_back(s.extra[sorted]);
        mass += std::exp(static_cast<double>(s.extra[sorted].logit) - m);
        if (mass >= p.top_p * sum && s.items.size() >= min_keep()) {
          ordered = true;
          return;
        }
      }
    }
    ordered = true;
  }

  void keep_mass(double sum) {
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
    if (t != 1.0F) {
      gather(-kInf);
      for (Candidate& c : s.items) {
        c.logit /= t;
      }
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
  if (penalties_active(params)) {
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
                                TokenHook* hook, SamplerScratch& scratch) {
  Pick pick{params_, scratch, logits};
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
  const float max = pick.max();
  if (std::isnan(max)) {
    return fail(ErrorCode::internal, "the model's logits are not finite numbers");
  }
  if (max == -kInf) {
    return fail(ErrorCode::invalid_argument, "no token is allowed: every logit is forbidden by bias or mask");
  }

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
      });
    }
  };

  if (params_.mirostat == 2) {
    pick.temperature();
  } else {
    for (const SamplerKind kind : params_.samplers) {
      if (!active(params_, kind) || (greedy_ && kind != SamplerKind::penalties && kind != SamplerKind::dry)) {
        continue;
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
          pick.top_k(params_.top_k);
          break;
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
  if (greedy_) {
    const int32_t token = argmax(pick.logits);
    if (token < 0) {
      return fail(ErrorCode::internal, "the model's logits are not finite numbers");
    }
    scratch.items.assign(1, {pick.logits[token], token});
    scratch.weights.assign(1, 1.0);
    return token;
  }

  pick.order();
  FL_CHECK(!scratch.items.empty(), "the sampler chain left no candidate");
  double total = pick.weigh();
  if (params_.mirostat == 2) {
    size_t kept = 0;
    while (kept < scratch.items.size() && -std::log2(scratch.weights[kept] / total) <= mu_) {
      ++kept;
    }
    scratch.items.resize(std::max<size_t>(kept, 1));
    total = pick.weigh();
  }
  const double target = static_cast<double>(draw(position)) * total;
  size_t chosen = 0;
  double sum = 0;
  for (size_t i = 0; i < scratch.items.size() && scratch.weights[i] > 0; ++i) {
    chosen = i;
    sum += scratch.weights[i];
    if (sum > target) {
      break;
    }
  }
  if (params_.mirostat == 2) {
    const auto surprise = static_cast<float>(-std::log2(scratch.weights[chosen] / total));
    mu_ -= params_.mirostat_eta * (surprise - params_.mirostat_tau);
  }
  return scratch.items[chosen].id;
}

}  // namespace fl::engine
