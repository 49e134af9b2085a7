#include "engine/sampling_params.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/sampler.h"

namespace fl::engine {

namespace {

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

}  // namespace

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

namespace {

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
    if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity()) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("logit_bias: expected a number for token {}", token));
    }
  }
  return {};
}

model::DeviceSampling device_sampling(const SamplingParams& p, const model::Capacity& capacity) {
  using Mode = model::DeviceSampling::Mode;
  model::DeviceSampling device;
  if (capacity.max_device_top_k < 1 || p.mirostat != 0 ||
      p.logit_bias.size() > static_cast<size_t>(capacity.max_device_bias)) {
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
    device.bias = p.logit_bias;
    return device;
  }
  const bool has_k = has(p, SamplerKind::top_k) && p.top_k > 0;
  const float temperature = has(p, SamplerKind::temperature) ? p.temperature : 1.0F;
  if (!has_k || p.top_k > capacity.max_device_top_k || p.dynatemp_range > 0.0F || p.min_keep > 1 ||
      temperature <= 0.0F) {
    return device;
  }
  device.mode = Mode::random;
  device.top_k = p.top_k;
  device.top_p = has(p, SamplerKind::top_p) ? p.top_p : 1.0F;
  device.min_p = has(p, SamplerKind::min_p) ? p.min_p : 0.0F;
  device.temperature = temperature;
  device.bias = p.logit_bias;
  return device;
}

}  // namespace fl::engine
