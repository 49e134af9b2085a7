// Fields whose value needs more than a range.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/fields.h"

namespace fl::server::setters {
namespace {

constexpr size_t kMaxStops = 32;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxBiases = 1024;
constexpr size_t kMaxBreakers = 64;
constexpr size_t kMaxBreakerBytes = 256;
constexpr size_t kMaxSamplers = 32;
constexpr size_t kMaxResponseFields = 64;
constexpr double kMaxBias = 1e6;

ApiError bad(const char* field, const std::string& expected, const Json& found) {
  return bad_field(field, fmt::format("expected {}, found {}", expected, excerpt(found)));
}

// An array of strings within limits.
ApiResult<std::vector<std::string>> strings(const char* field, const Json& value, size_t most,
                                            size_t most_bytes) {
  const std::string expected = fmt::format("at most {} strings of at most {} bytes", most, most_bytes);
  std::vector<std::string> out;
  if (value.size() > most) {
    return refuse(bad(field, expected, value));
  }
  for (const Json& item : value) {
    if (!item.is_string() || item.get_ref<const std::string&>().size() > most_bytes) {
      return refuse(bad(field, expected, item));
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

}  // namespace

ApiResult<void> seed(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  uint64_t bits = 0;
  if (value.is_number_float()) {
    const auto x = value.get<double>();
    constexpr double kExact = 9007199254740992.0;  // 2^53
    if (std::abs(x) > kExact) {
      return refuse(bad("seed", "an integer from -2^63 to 2^64 - 1", value));
    }
    bits = static_cast<uint64_t>(static_cast<int64_t>(x));
  } else if (value.is_number_unsigned()) {
    bits = value.get<uint64_t>();
  } else {
    bits = static_cast<uint64_t>(value.get<int64_t>());
  }
  constexpr uint64_t kDrawn = ~0ULL;  // -1
  const auto folded = static_cast<uint32_t>(bits ^ (bits >> 32));
  request.sampling.seed = bits == kDrawn ? std::numeric_limits<uint32_t>::max() : folded;
  return {};
}

ApiResult<void> n_choices(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  const Context& context = given.context;
  if (value.get<int64_t>() > context.n_slots()) {
    return refuse(
        bad_field(std::string(given.name), fmt::format("expected at most {} (the server's slots), found {}",
                                                       context.n_slots(), excerpt(value))));
  }
  request.n_choices = value.get<int32_t>();
  return {};
}

ApiResult<void> n_predict(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  if (value.get<int32_t>() >= 0) {  // -1 is the server's own limit
    request.n_predict = value.get<int32_t>();
  }
  return {};
}

ApiResult<void> stop(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  const Json list = value.is_string() ? Json::array({value}) : value;
  if (!list.is_array()) {
    return refuse(bad("stop", "a string or an array of strings", value));
  }
  auto stops = strings("stop", list, kMaxStops, kMaxStopBytes);
  if (!stops) {
    return refuse(stops.error());
  }
  std::erase(*stops, std::string());
  request.stop = std::move(*stops);
  return {};
}

ApiResult<void> stream_options(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  const auto include = value.find("include_usage");
  if (include == value.end() || include->is_null()) {
    return {};
  }
  if (!include->is_boolean()) {
    return refuse(bad("stream_options.include_usage", "a boolean", *include));
  }
  request.include_usage = include->get<bool>();
  return {};
}

ApiResult<void> samplers(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  using enum engine::SamplerKind;
  struct Name {
    std::string_view name;
    char letter;
    engine::SamplerKind kind;
  };
  constexpr std::array kNames{
      Name{"penalties", 'e', penalties}, Name{"dry", 'd', dry},         Name{"top_n_sigma", 's', top_n_sigma},
      Name{"top_k", 'k', top_k},         Name{"typ_p", 'y', typical_p}, Name{"top_p", 'p', top_p},
      Name{"min_p", 'm', min_p},         Name{"xtc", 'x', xtc},         Name{"temperature", 't', temperature},
      Name{"typical_p", 0, typical_p},   Name{"typ", 0, typical_p},     Name{"nucleus", 0, top_p},
      Name{"temp", 0, temperature},      Name{"typical", 0, typical_p},
  };
  const char* expected = "names of samplers, or a string of the letters edskypmxt";
  std::vector<engine::SamplerKind> chain;
  if (value.is_string() && value.get_ref<const std::string&>().size() <= kMaxSamplers) {
    for (const char letter : value.get_ref<const std::string&>()) {
      const auto* at =
          std::ranges::find_if(kNames, [&](const Name& n) { return n.letter == letter && letter != 0; });
      if (at == kNames.end()) {
        return refuse(bad("samplers", expected, value));
      }
      chain.push_back(at->kind);
    }
  } else if (value.is_array() && value.size() <= kMaxSamplers) {
    for (const Json& item : value) {
      std::string name = item.is_string() ? item.get<std::string>() : "";
      std::ranges::replace(name, '-', '_');
      const auto* at = std::ranges::find_if(kNames, [&](const Name& n) { return n.name == name; });
      if (at == kNames.end()) {
        return refuse(bad("samplers", expected, item));
      }
      chain.push_back(at->kind);
    }
  } else {
    return refuse(bad("samplers", expected, value));
  }
  request.sampling.samplers = std::move(chain);
  return {};
}

ApiResult<void> logit_bias(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  const Context& context = given.context;
  const char* expected = "[[token id or text, number or false], ...] or {\"id or text\": number}";
  const int32_t n_vocab = context.engine().runner().config().n_vocab;
  std::vector<std::pair<int32_t, float>> biases = context.logit_bias();
  const auto add = [&](const Json& token, const Json& bias) -> ApiResult<void> {
    float amount = 0;
    if (bias == false) {
      amount = -std::numeric_limits<float>::infinity();
    } else if (bias.is_number() && std::abs(bias.get<double>()) <= kMaxBias) {
      amount = bias.get<float>();
    } else {
      return refuse(
          bad("logit_bias", fmt::format("a number from {} to {}, or false", -kMaxBias, kMaxBias), bias));
    }
    std::vector<int32_t> ids;
    if (token.is_number_integer()) {
      // Ids outside the vocabulary are skipped, as llama-server does.
      const bool known =
          token.is_number_unsigned() ? token.get<uint64_t>() < static_cast<uint64_t>(n_vocab) : false;
      if (known) {
        ids.push_back(token.get<int32_t>());
      }
    } else if (token.is_string() && token.get_ref<const std::string&>().size() <= kMaxStopBytes) {
      ids = context.tokenizer().encode(token.get_ref<const std::string&>(), tokenizer::Special::parse);
    } else {
      return refuse(bad("logit_bias", "a token id or a text", token));
    }
    for (const int32_t id : ids) {
      biases.emplace_back(id, amount);
    }
    return {};
  };
  if ((!value.is_array() && !value.is_object()) || value.size() > kMaxBiases) {
    return refuse(bad("logit_bias", expected, value));
  }
  if (value.is_array()) {
    for (const Json& item : value) {
      if (!item.is_array() || item.size() != 2) {
        return refuse(bad("logit_bias", expected, item));
      }
      if (auto added = add(item[0], item[1]); !added) {
        return added;
      }
    }
  } else {
    for (const auto& [key, bias] : value.items()) {
      uint32_t id = 0;
      const auto number = std::from_chars(key.data(), key.data() + key.size(), id);
      const bool is_id = number.ec == std::errc() && number.ptr == key.data() + key.size();
      if (auto added = add(is_id ? Json(id) : Json(key), bias); !added) {
        return added;
      }
    }
  }
  if (biases.size() > kMaxBiases) {
    return refuse(bad_field("logit_bias",
                            fmt::format("expected at most {} tokens, found {}", kMaxBiases, biases.size())));
  }
  request.sampling.logit_bias = std::move(biases);
  return {};
}

ApiResult<void> dry_breakers(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  auto breakers = strings("dry_sequence_breakers", value, kMaxBreakers, kMaxBreakerBytes);
  if (!breakers) {
    return refuse(breakers.error());
  }
  if (breakers->empty()) {
    return refuse(bad("dry_sequence_breakers", "at least one string", value));
  }
  request.dry_breakers = std::move(*breakers);
  return {};
}

ApiResult<void> mirostat(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  const auto mode = value.get<int32_t>();
  if (mode == 1) {
    return refuse(bad_field("mirostat", "expected 0 or 2, found 1: version 1 is not built"));
  }
  request.sampling.mirostat = mode;
  return {};
}

ApiResult<void> response_fields(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  auto paths = strings("response_fields", value, kMaxResponseFields, kMaxBreakerBytes);
  if (!paths) {
    return refuse(paths.error());
  }
  request.response_fields = std::move(*paths);
  return {};
}

ApiResult<void> reasoning_format(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  const auto& word = value.get_ref<const std::string&>();
  if (word == "none") {
    request.chat.format = chat::ReasoningFormat::none;
  } else if (word == "deepseek" || word == "deepseek-legacy") {
    request.chat.format = chat::ReasoningFormat::deepseek;
  } else if (word == "auto") {
    request.chat.format = chat::ReasoningFormat::automatic;
  } else {
    return refuse(bad("reasoning_format", "none, deepseek, deepseek-legacy or auto", value));
  }
  return {};
}

ApiResult<void> reasoning_budget(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  const auto budget = value.get<int32_t>();
  if (budget >= 0) {
    request.reasoning_budget =
        request.reasoning_budget < 0 ? budget : std::min(budget, request.reasoning_budget);
  }
  return {};
}

ApiResult<void> parallel_tool_calls(const Given& given, GenerationRequest& request) {
  const Json& value = given.value;
  request.chat.parallel_tool_calls = value.get<bool>();
  return {};
}

ApiResult<void> tool_choice(const Given& given, GenerationRequest& /*request*/) {
  const Json& value = given.value;
  if (value == "auto" || value == "none") {
    return {};
  }
  if (value == "required" || value.is_object()) {
    return refuse(
        bad_field("tool_choice", "expected auto or none; 'required' and a named function are not built"));
  }
  return refuse(bad("tool_choice", "auto or none", value));
}

ApiResult<void> response_format(const Given& given, GenerationRequest& /*request*/) {
  const Json& value = given.value;
  const auto type = value.find("type");
  if (type == value.end() || *type == "text") {
    return {};
  }
  if (*type == "json_object" || *type == "json_schema") {
    return refuse(
        bad_field("response_format", fmt::format("expected the type text; {} is not built", dump(*type))));
  }
  return refuse(bad("response_format.type", "text", *type));
}

}  // namespace fl::server::setters
