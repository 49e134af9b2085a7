// `generation_settings` of native replies, `params` of /props and /slots.
#include <cmath>

#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/request.h"

namespace fl::server {
namespace {

const char* sampler_name(engine::SamplerKind kind) {
  using enum engine::SamplerKind;
  switch (kind) {
    case penalties:
      return "penalties";
    case dry:
      return "dry";
    case top_n_sigma:
      return "top_n_sigma";
    case top_k:
      return "top_k";
    case typical_p:
      return "typ_p";
    case top_p:
      return "top_p";
    case min_p:
      return "min_p";
    case xtc:
      return "xtc";
    case temperature:
      return "temperature";
  }
  return "";
}

const char* format_name(chat::ReasoningFormat format) {
  switch (format) {
    case chat::ReasoningFormat::none:
      return "none";
    case chat::ReasoningFormat::deepseek:
      return "deepseek";
    case chat::ReasoningFormat::automatic:
      break;
  }
  return "auto";
}

}  // namespace

Json generation_settings(const Context& context, const GenerationRequest& request, bool reduced) {
  const engine::SamplingParams& s = request.sampling;
  Json out = {{"seed", s.seed},
              {"temperature", s.temperature},
              {"dynatemp_range", s.dynatemp_range},
              {"dynatemp_exponent", s.dynatemp_exponent},
              {"top_k", s.top_k},
              {"top_p", s.top_p},
              {"min_p", s.min_p},
              {"top_n_sigma", s.top_n_sigma},
              {"xtc_probability", s.xtc_probability},
              {"xtc_threshold", s.xtc_threshold},
              {"typical_p", s.typical_p},
              {"repeat_last_n", s.repeat_last_n},
              {"repeat_penalty", s.repeat_penalty},
              {"presence_penalty", s.presence_penalty},
              {"frequency_penalty", s.frequency_penalty},
              {"dry_multiplier", s.dry_multiplier},
              {"dry_base", s.dry_base},
              {"dry_allowed_length", s.dry_allowed_length},
              {"dry_penalty_last_n", s.dry_penalty_last_n},
              {"mirostat", s.mirostat},
              {"mirostat_tau", s.mirostat_tau},
              {"mirostat_eta", s.mirostat_eta},
              {"max_tokens", request.n_predict},
              {"n_predict", request.n_predict},
              {"n_keep", request.n_keep},
              {"n_discard", request.n_discard},
              {"ignore_eos", request.ignore_eos},
              {"stream", request.stream},
              {"n_probs", request.n_probs},
              {"min_keep", s.min_keep},
              {"chat_format", request.api == Api::chat ? "peg-native" : "Content-only"},
              {"reasoning_format", format_name(request.chat.format)},
              {"reasoning_in_content", false},
              {"generation_prompt", request.chat.prefix}};
  Json samplers = Json::array();
  for (const engine::SamplerKind kind : s.samplers) {
    samplers.push_back(sampler_name(kind));
  }
  out["samplers"] = std::move(samplers);
  out["speculative.types"] = "none";
  out["timings_per_token"] = request.timings_per_token;
  out["post_sampling_probs"] = request.post_sampling_probs;
  out["backend_sampling"] = false;
  out["lora"] = Json::array();
  if (!reduced) {
    out["dry_sequence_breakers"] = request.dry_breakers;
    out["stop"] = request.stop;
    Json biases = Json::array();
    const auto add = [&](int32_t token, float bias) {
      biases.push_back({{"bias", std::isfinite(bias) ? Json(bias) : Json(nullptr)}, {"token", token}});
    };
    for (const auto& [token, bias] : s.logit_bias) {
      add(token, bias);
    }
    if (request.ignore_eos) {
      for (const int32_t token : context.tokenizer().end_of_generation()) {
        add(token, -INFINITY);
      }
    }
    out["logit_bias"] = std::move(biases);
    out["grammar"] = "";
  }
  return out;
}

}  // namespace fl::server
