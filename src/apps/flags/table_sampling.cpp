// Flags of sampling: the defaults of requests, by llama-server's names and definitions.
#include <array>
#include <utility>

#include <fmt/format.h>

#include "apps/flags/flags.h"

namespace fl::apps {
namespace {

using engine::SamplerKind;
using engine::SamplingParams;

constexpr double kAnyInt = 2147483647;
constexpr double kAnyReal = 1e9;
constexpr double kLeastPositive = 1e-6;
constexpr double kMaxWindow = 1 << 26;

struct SamplerName {
  std::string_view name;
  std::string_view other;
  char letter;
  SamplerKind kind;
};
constexpr std::array kSamplerNames{
    SamplerName{"penalties", "", 'e', SamplerKind::penalties},
    SamplerName{"dry", "", 'd', SamplerKind::dry},
    SamplerName{"top_n_sigma", "top-n-sigma", 's', SamplerKind::top_n_sigma},
    SamplerName{"top_k", "top-k", 'k', SamplerKind::top_k},
    SamplerName{"typ_p", "typical_p", 'y', SamplerKind::typical_p},
    SamplerName{"top_p", "top-p", 'p', SamplerKind::top_p},
    SamplerName{"min_p", "min-p", 'm', SamplerKind::min_p},
    SamplerName{"xtc", "", 'x', SamplerKind::xtc},
    SamplerName{"temperature", "temp", 't', SamplerKind::temperature},
};

Status read_samplers(Options& o, const FlagValue& v) {
  std::vector<SamplerKind> samplers;
  std::string_view rest = v.text;
  while (!rest.empty()) {
    const size_t end = rest.find(';');
    const std::string_view word = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    bool known = false;
    for (const SamplerName& sampler : kSamplerNames) {
      if (word == sampler.name || word == sampler.other) {
        samplers.push_back(sampler.kind);
        known = true;
      }
    }
    if (!known) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("expected samplers such as top_k;top_p;temperature, found '{}'", word));
    }
  }
  o.server.defaults.sampling.samplers = std::move(samplers);
  return {};
}

Status read_sampler_letters(Options& o, const FlagValue& v) {
  std::vector<SamplerKind> samplers;
  for (const char letter : v.text) {
    bool known = false;
    for (const SamplerName& sampler : kSamplerNames) {
      if (letter == sampler.letter) {
        samplers.push_back(sampler.kind);
        known = true;
      }
    }
    if (!known) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("expected letters of edskypmxt, found '{}'", letter));
    }
  }
  o.server.defaults.sampling.samplers = std::move(samplers);
  return {};
}

// A number of the sampling parameters, in one row.
template <float SamplingParams::*Field>
void set_real(Options& o, const FlagValue& v) {
  o.server.defaults.sampling.*Field = static_cast<float>(v.real);
}
template <int32_t SamplingParams::*Field>
void set_integer(Options& o, const FlagValue& v) {
  o.server.defaults.sampling.*Field = static_cast<int32_t>(v.integer);
}

const std::array kSampling{
    Flag{.names = "--temperature,--temp",
         .env = "LLAMA_ARG_TEMPERATURE",
         .value = "F",
         .kind = Kind::real,
         .least = -kAnyReal,
         .most = kAnyReal,
         .fallback = "0.8",
         .priority = 'A',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "flatness of the distribution; 0 and less: the most likely token always",
         .set =
             [](Options& o, const FlagValue& v) {
               o.server.defaults.sampling.temperature = static_cast<float>(v.real < 0 ? 0 : v.real);
             }},
    Flag{.names = "--top-k",
         .env = "LLAMA_ARG_TOP_K",
         .value = "N",
         .kind = Kind::integer,
         .least = -1,
         .most = kAnyInt,
         .fallback = "40",
         .priority = 'A',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "only the N most likely tokens; 0: all",
         .set = set_integer<&SamplingParams::top_k>},
    Flag{.names = "--top-p",
         .env = "LLAMA_ARG_TOP_P",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = 1,
         .fallback = "0.95",
         .priority = 'A',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "only the most likely tokens that have this probability together; 1: all",
         .set = set_real<&SamplingParams::top_p>},
    Flag{.names = "--min-p",
         .env = "LLAMA_ARG_MIN_P",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = 1,
         .fallback = "0.05",
         .priority = 'A',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "only tokens with this share of the most likely one's probability; 0: all",
         .set = set_real<&SamplingParams::min_p>},
    Flag{.names = "--repeat-penalty",
         .env = "LLAMA_ARG_REPEAT_PENALTY",
         .value = "F",
         .kind = Kind::real,
         .least = kLeastPositive,
         .most = kAnyReal,
         .fallback = "1",
         .priority = 'A',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "divides the logit of a token seen in the window; 1: off",
         .set = set_real<&SamplingParams::repeat_penalty>},
    Flag{.names = "--repeat-last-n",
         .value = "N",
         .kind = Kind::integer,
         .least = 0,
         .most = kMaxWindow,
         .fallback = "64",
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "tokens of that window; 0: off",
         .set = set_integer<&SamplingParams::repeat_last_n>},
    Flag{.names = "--presence-penalty",
         .env = "LLAMA_ARG_PRESENCE_PENALTY",
         .value = "F",
         .kind = Kind::real,
         .least = -kAnyReal,
         .most = kAnyReal,
         .fallback = "0",
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "taken from the logit of a token seen in the window; 0: off",
         .set = set_real<&SamplingParams::presence_penalty>},
    Flag{.names = "--frequency-penalty",
         .env = "LLAMA_ARG_FREQUENCY_PENALTY",
         .value = "F",
         .kind = Kind::real,
         .least = -kAnyReal,
         .most = kAnyReal,
         .fallback = "0",
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "the same for each time it was seen; 0: off",
         .set = set_real<&SamplingParams::frequency_penalty>},
    Flag{.names = "-s,--seed",
         .value = "N",
         .kind = Kind::integer,
         .least = -1,
         .most = 4294967295.0,
         .fallback = "-1",
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "of the random numbers; -1: another one for each request",
         .set =
             [](Options& o, const FlagValue& v) {
               o.server.defaults.sampling.seed = static_cast<uint32_t>(v.integer);
             }},
    Flag{.names = "--samplers",
         .value = "LIST",
         .kind = Kind::text,
         .fallback = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "which samplers, in their order",
         .read = read_samplers},
    Flag{.names = "--sampling-seq,--sampler-seq",
         .value = "LETTERS",
         .kind = Kind::text,
         .fallback = "edskypmxt",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "the same by letters",
         .read = read_sampler_letters},
    Flag{.names = "--typical-p,--typical",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = 1,
         .fallback = "1",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "locally typical sampling; 1: off",
         .set = set_real<&SamplingParams::typical_p>},
    Flag{.names = "--top-n-sigma,--top-nsigma",
         .value = "F",
         .kind = Kind::real,
         .least = -1,
         .most = kAnyReal,
         .fallback = "-1",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "only logits within this many standard deviations of the largest; 0 and less: off",
         .set = set_real<&SamplingParams::top_n_sigma>},
    Flag{.names = "--xtc-probability",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = 1,
         .fallback = "0",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "chance that the likeliest tokens are left out; 0: off",
         .set = set_real<&SamplingParams::xtc_probability>},
    Flag{.names = "--xtc-threshold",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = 1,
         .fallback = "0.1",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "probability from which a token may be left out; above 0.5: off",
         .set = set_real<&SamplingParams::xtc_threshold>},
    Flag{.names = "--dynatemp-range",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = kAnyReal,
         .fallback = "0",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "the temperature moves this far with the entropy; 0: off",
         .set = set_real<&SamplingParams::dynatemp_range>},
    Flag{.names = "--dynatemp-exp",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = kAnyReal,
         .fallback = "1",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "and with this exponent",
         .set = set_real<&SamplingParams::dynatemp_exponent>},
    Flag{.names = "--dry-multiplier",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = kAnyReal,
         .fallback = "0",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "strength of the penalty on continuing a repetition; 0: off",
         .set = set_real<&SamplingParams::dry_multiplier>},
    Flag{.names = "--dry-base",
         .value = "F",
         .kind = Kind::real,
         .least = 1,
         .most = kAnyReal,
         .fallback = "1.75",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "its growth with each token",
         .set = set_real<&SamplingParams::dry_base>},
    Flag{.names = "--dry-allowed-length",
         .value = "N",
         .kind = Kind::integer,
         .least = 0,
         .most = kMaxWindow,
         .fallback = "2",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "repetitions up to this length are free",
         .set = set_integer<&SamplingParams::dry_allowed_length>},
    Flag{.names = "--dry-penalty-last-n",
         .value = "N",
         .kind = Kind::integer,
         .least = -1,
         .most = kMaxWindow,
         .fallback = "-1",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "tokens that are searched; -1: the whole context",
         .set = set_integer<&SamplingParams::dry_penalty_last_n>},
    Flag{.names = "--dry-sequence-breaker",
         .value = "TEXT",
         .kind = Kind::text,
         .fallback = "newline, colon, quote, asterisk",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kServe,
         .repeats = true,
         .doc = "text that ends a repetition; the first one given replaces the default, none: no breakers",
         .set =
             [](Options& o, const FlagValue& v) {
               auto& breakers = o.server.defaults.dry_breakers;
               if (!o.given.contains("--dry-sequence-breaker")) {
                 breakers.clear();
               }
               if (v.text != "none") {
                 breakers.emplace_back(v.text);
               }
             }},
    Flag{.names = "--mirostat",
         .value = "N",
         .kind = Kind::choice,
         .words = "0|2",
         .fallback = "0",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "2: control of the surprise in place of the chain; 0: off",
         .set = [](Options& o,
                   const FlagValue& v) { o.server.defaults.sampling.mirostat = v.text == "2" ? 2 : 0; }},
    Flag{.names = "--mirostat-ent",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = kAnyReal,
         .fallback = "5",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "its target",
         .set = set_real<&SamplingParams::mirostat_tau>},
    Flag{.names = "--mirostat-lr",
         .value = "F",
         .kind = Kind::real,
         .least = 0,
         .most = kAnyReal,
         .fallback = "0.1",
         .priority = 'C',
         .group = Group::sampling,
         .commands = kLoad,
         .doc = "its learning rate",
         .set = set_real<&SamplingParams::mirostat_eta>},
    Flag{.names = "-l,--logit-bias",
         .value = "ID(+/-)BIAS",
         .kind = Kind::text,
         .priority = 'C',
         .group = Group::sampling,
         .repeats = true,
         .doc = "added to the logit of a token: 15043+1, 15043-inf",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.logit_bias.emplace_back(v.text); }},
};

}  // namespace

std::span<const Flag> sampling_flags() {
  return kSampling;
}

}  // namespace fl::apps
