#include "server/fields.h"

#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fl::server {
namespace {

using P = engine::SamplingParams;
using R = GenerationRequest;
using enum FieldType;

constexpr double kMaxInt = 2147483647;
constexpr double kMaxSeed = 18446744073709551615.0;
constexpr double kMinSeed = -9223372036854775808.0;

// Ranges are wide enough for every setting that does something and narrow enough that float arithmetic stays
// finite.
// One row a field: name, aliases, routes, type, least, most, default, meaning, how it is set, state,
// expected.
// clang-format off
constexpr std::array kFields{
    // What to generate from
    Field{"prompt", {}, kRaw, any, 0, 0, "required",
          "The text to continue: a string, an array of token ids, or an array that mixes strings and "
          "ids. An array of such prompts gives several answers. Special tokens written in a string are "
          "parsed.", {}, FieldState::built, "a string, token ids, or an array of prompts"},
    Field{"messages", {}, kChat, array, 0, 0, "required",
          "The conversation, OpenAI's form. Roles system, developer (= system), user, assistant and "
          "tool; `content` is a string or an array of text parts; an assistant message may carry "
          "`reasoning_content` and `tool_calls`. Text of a message never becomes a control token."},
    Field{"tools", {}, kChat, array, 0, 0, "none", "Functions that the model may call, OpenAI's form."},
    Field{"tool_choice", {}, kChat, any, 0, 0, "auto",
          "`auto`, or `none`: calls in the answer stay text. `required` and a named function are refused.",
          &setters::tool_choice, FieldState::built, "\"auto\" or \"none\""},
    Field{"parallel_tool_calls", {}, kChat, boolean, 0, 0, "true",
          "false: the answer ends after its first call.", &setters::parallel_tool_calls},
    Field{"chat_template_kwargs", {}, kChat, object, 0, 0, "flag",
          "Variables of the chat template, e.g. `{\"enable_thinking\": false}`; key by key in front of "
          "the server's."},
    Field{"reasoning_effort", {}, kChat, string, 0, 0, "flag",
          "`none` turns thinking off; other words become the template's variable of that name."},
    Field{"reasoning_format", {}, kChat, string, 0, 0, "flag",
          "`none`: the thought stays in `content` with its tags; `deepseek` or `auto`: it is "
          "`reasoning_content`.", &setters::reasoning_format},
    Field{"reasoning_budget_tokens", {"thinking_budget_tokens"}, kChat, integer, -1, kMaxInt, "flag",
          "Tokens of thought before it is closed; -1 is the server's budget, which a request cannot lift.",
          &setters::reasoning_budget},
    Field{"reasoning_budget_message", {}, kChat, string, 0, 0, "flag",
          "Text that is written before the thought is closed.", &R::reasoning_budget_message},
    Field{"add_generation_prompt", {}, kChat, boolean, 0, 0, "true",
          "false: no assistant header after the last message."},
    Field{"continue_final_message", {}, kChat, any, 0, 0, "flag",
          "Continue a last assistant message instead of closing it: true, false, \"content\" or "
          "\"reasoning_content\".", {}, FieldState::built,
          "a boolean, \"content\" or \"reasoning_content\""},
    // How much, and how it is sent
    Field{"n_predict", {"max_completion_tokens", "max_tokens"}, kGenerate, integer, -1, kMaxInt, "flag",
          "Most tokens of the answer; -1: until the context is full; 0: only the prompt is read.",
          &setters::n_predict},
    Field{"stop", {}, kGenerate, any, 0, 0, "flag",
          "A string or an array of at most 32 strings of at most 1024 bytes, each ends the answer and is "
          "not part of it.", &setters::stop, FieldState::built,
          "a string or an array of at most 32 strings of at most 1024 bytes"},
    Field{"ignore_eos", {}, kGenerate, boolean, 0, 0, "flag", "Tokens that end an answer do not end it.",
          &R::ignore_eos},
    Field{"n_cmpl", {"n"}, kGenerate, integer, 1, 256, "1",
          "Answers to one prompt, at most as many as the server has slots; answer i uses seed + i.",
          &setters::n_choices},
    Field{"stream", {}, kGenerate, boolean, 0, 0, "false", "Server-sent events while the answer grows.",
          &R::stream},
    Field{"stream_options", {}, kGenerate, object, 0, 0, "none",
          "`include_usage` (boolean): chat streams end with a chunk that holds `usage`.",
          &setters::stream_options},
    Field{"cache_prompt", {}, kGenerate, boolean, 0, 0, "flag", "Reuse what the cache holds of the prompt.",
          &R::cache_prompt},
    Field{"id_slot", {}, kGenerate, integer, -1, kMaxInt, "-1",
          "The wanted slot, modulo their number; -1: any.", &R::id_slot},
    Field{"return_tokens", {}, kCompletion, boolean, 0, 0, "false",
          "The reply's `tokens` holds the ids of the answer.", &R::return_tokens},
    Field{"return_progress", {}, kGenerate, boolean, 0, 0, "false",
          "Streams also tell how much of the prompt has been read (`prompt_progress`).",
          &R::return_progress},
    Field{"timings_per_token", {}, kGenerate, boolean, 0, 0, "false", "`timings` in every chunk.",
          &R::timings_per_token},
    Field{"sse_ping_interval", {}, kGenerate, integer, -1, 86400, "flag",
          "Seconds of silence before a stream sends a comment; -1: never.", &R::sse_ping_seconds},
    Field{"t_max_predict_ms", {}, kGenerate, integer, -1, kMaxInt, "-1",
          "Stop after this time from the first token, at the next new line of the answer; -1: no limit.",
          &R::t_max_predict_ms},
    Field{"response_fields", {}, kCompletion, array, 0, 0, "all",
          "Paths of the reply's fields to send, not streamed; `a/b` lifts the inner value to the key "
          "\"a/b\".", &setters::response_fields},
    // Sampling
    Field{"seed", {}, kGenerate, integer, kMinSeed, kMaxSeed, "flag",
          "-1: drawn by the server. Folded to 32 bits.", &setters::seed},
    Field{"temperature", {}, kGenerate, number, 0, 1000, "flag", "0: always the likeliest token.",
          &P::temperature},
    Field{"dynatemp_range", {}, kGenerate, number, 0, 1000, "flag",
          "Temperature +- this, by entropy; 0: off.", &P::dynatemp_range},
    Field{"dynatemp_exponent", {}, kGenerate, number, 0, 1000, "flag", "How entropy moves the temperature.",
          &P::dynatemp_exponent},
    Field{"top_k", {}, kGenerate, integer, -1, kMaxInt, "flag",
          "Keep the k likeliest tokens; 0 or -1: all.", &P::top_k},
    Field{"top_p", {}, kGenerate, number, 0, 1, "flag", "Keep the likeliest tokens of this mass; 1: all.",
          &P::top_p},
    Field{"min_p", {}, kGenerate, number, 0, 1, "flag",
          "Keep tokens at least this likely, relative to the likeliest; 0: all.", &P::min_p},
    Field{"top_n_sigma", {}, kGenerate, number, -1, 1000, "flag",
          "Keep tokens within this many standard deviations of the largest logit; 0 or less: off.",
          &P::top_n_sigma},
    Field{"typical_p", {}, kGenerate, number, 0, 1, "flag", "Locally typical sampling; 1: off.",
          &P::typical_p},
    Field{"xtc_probability", {}, kGenerate, number, 0, 1, "flag",
          "Chance to drop the likeliest tokens; 0: off.", &P::xtc_probability},
    Field{"xtc_threshold", {}, kGenerate, number, 0, 1, "flag",
          "Least probability of a token that XTC may drop.", &P::xtc_threshold},
    Field{"repeat_penalty", {}, kGenerate, number, 0.01, 1000, "flag", "Of tokens seen lately; 1: off.",
          &P::repeat_penalty},
    Field{"repeat_last_n", {}, kGenerate, integer, -1, kMaxInt, "flag",
          "Tokens that count as seen lately, the prompt's too; 0: none, -1: all.", &P::repeat_last_n},
    Field{"presence_penalty", {}, kGenerate, number, -100, 100, "flag",
          "Subtracted once from the logit of a token seen.", &P::presence_penalty},
    Field{"frequency_penalty", {}, kGenerate, number, -100, 100, "flag",
          "Subtracted for each time a token was seen.", &P::frequency_penalty},
    Field{"dry_multiplier", {}, kGenerate, number, 0, 1000, "flag",
          "Strength of the penalty on repetitions (DRY); 0: off.", &P::dry_multiplier},
    Field{"dry_base", {}, kGenerate, number, 0, 1000, "flag",
          "Growth of that penalty with the length of a repetition.", &P::dry_base},
    Field{"dry_allowed_length", {}, kGenerate, integer, 0, kMaxInt, "flag",
          "Repetitions up to this length are free.", &P::dry_allowed_length},
    Field{"dry_penalty_last_n", {}, kGenerate, integer, -1, kMaxInt, "flag",
          "Tokens searched for repetitions; -1: all.", &P::dry_penalty_last_n},
    Field{"dry_sequence_breakers", {}, kGenerate, array, 0, 0, "flag",
          "At most 64 strings that end a repetition.", &setters::dry_breakers},
    Field{"mirostat", {}, kGenerate, integer, 0, 2, "flag",
          "2: Mirostat 2 instead of the other samplers; 1 is refused.", &setters::mirostat},
    Field{"mirostat_tau", {}, kGenerate, number, 0, 1000, "flag", "Its target surprise.", &P::mirostat_tau},
    Field{"mirostat_eta", {}, kGenerate, number, 0, 1000, "flag", "Its rate of learning.",
          &P::mirostat_eta},
    Field{"min_keep", {}, kGenerate, integer, 0, kMaxInt, "0", "Samplers leave at least this many tokens.",
          &P::min_keep},
    Field{"samplers", {}, kGenerate, any, 0, 0, "flag",
          "Which samplers, in which order: names (penalties, dry, top_n_sigma, top_k, typ_p, top_p, "
          "min_p, xtc, temperature) or a string of their letters (edskypmxt).", &setters::samplers,
          FieldState::built, "an array of names or a string of letters"},
    Field{"logit_bias", {}, kGenerate, any, 0, 0, "none",
          "`[[token id or text, number or false], ...]` or `{\"id or text\": number}`; false forbids the "
          "token. At most 1024 tokens.", &setters::logit_bias, FieldState::built,
          "an array of [token, bias] or an object"},
    // Probabilities
    Field{"n_probs", {}, kCompletion, integer, 0, 20, "0",
          "Log-probabilities of this many likeliest tokens at each step.", &R::n_probs},
    Field{"logprobs", {}, kOaiCompletion, integer, 0, 20, "0", "The same on /v1/completions.",
          &R::n_probs},
    Field{"logprobs", {}, kChat, boolean, 0, 0, "false", "Log-probabilities of the answer's tokens.",
          &R::logprobs},
    Field{"top_logprobs", {}, kChat, integer, 0, 20, "0",
          "Needs `logprobs`: likeliest alternatives at each step.", &R::n_probs},
    Field{"post_sampling_probs", {}, kCompletion, boolean, 0, 0, "false",
          "Probabilities after the sampler chain, instead of the model's own logarithms.",
          &R::post_sampling_probs},
    // Accepted for compatibility
    Field{"model", {}, kGenerate, string, 0, 0, "none", "Any name: the loaded model answers under its own.",
          {}, FieldState::ignored},
    Field{"user", {}, kGenerate, string, 0, 0, "none", "No effect.", {}, FieldState::ignored},
    Field{"metadata", {}, kChat, object, 0, 0, "none", "No effect.", {}, FieldState::ignored},
    Field{"store", {}, kChat, boolean, 0, 0, "false", "No effect: nothing is stored.", {},
          FieldState::ignored},
    Field{"service_tier", {}, kChat, string, 0, 0, "none", "No effect.", {}, FieldState::ignored},
    Field{"n_keep", {}, kGenerate, integer, -1, kMaxInt, "0",
          "No effect: the context of a hybrid model cannot be shifted.", &R::n_keep, FieldState::ignored},
    Field{"n_discard", {}, kGenerate, integer, 0, kMaxInt, "0", "No effect, as n_keep.", &R::n_discard,
          FieldState::ignored},
    Field{"n_cache_reuse", {}, kGenerate, integer, 0, kMaxInt, "0", "No effect, as n_keep.", {},
          FieldState::ignored},
    Field{"backend_sampling", {}, kGenerate, boolean, 0, 0, "false",
          "No effect: the engine decides where it samples.", {}, FieldState::ignored},
    // Known and not built: refused by name
    Field{"grammar", {}, kGenerate, string, 0, 0, "none", "GBNF grammars.", {}, FieldState::refused},
    Field{"json_schema", {}, kGenerate, object, 0, 0, "none", "Answers that match a schema.", {},
          FieldState::refused},
    Field{"response_format", {}, kGenerate, object, 0, 0, "text", "Only `{\"type\": \"text\"}`.",
          &setters::response_format},
    Field{"lora", {}, kGenerate, array, 0, 0, "none", "Adapters.", {}, FieldState::refused},
    Field{"suffix", {}, kOaiCompletion, string, 0, 0, "none", "Text after the answer.", {},
          FieldState::refused},
    Field{"echo", {}, kGenerate, boolean, 0, 0, "false", "The prompt in the answer.", {},
          FieldState::refused},
    Field{"best_of", {}, kOaiCompletion, integer, 1, 1, "1", "Only 1."},
    Field{"adaptive_target", {}, kGenerate, number, -1, 0, "-1",
          "The adaptive-p sampler: only off (0 or less)."},
    Field{"n_indent", {}, kGenerate, integer, 0, kMaxInt, "0", "Least indentation of code.", {},
          FieldState::refused},
    Field{"reasoning_control", {}, kChat, boolean, 0, 0, "false", "Ending a thought from outside.", {},
          FieldState::refused},
    Field{"verbose", {}, kGenerate, boolean, 0, 0, "false", "The native reply inside an OpenAI reply.", {},
          FieldState::refused},
    Field{"functions", {}, kChat, array, 0, 0, "none", "Use `tools`.", {}, FieldState::refused},
    Field{"function_call", {}, kChat, any, 0, 0, "none", "Use `tool_choice`.", {}, FieldState::refused,
          "nothing"},
    Field{"audio", {}, kChat, object, 0, 0, "none", "Spoken answers.", {}, FieldState::refused},
    Field{"prediction", {}, kChat, object, 0, 0, "none", "Predicted outputs.", {}, FieldState::refused},
    Field{"web_search_options", {}, kChat, object, 0, 0, "none", "Search.", {}, FieldState::refused},
    // Text and ids
    Field{"content", {}, kTokenize, any, 0, 0, "\"\"", "A string, or an array that mixes strings and ids.",
          {}, FieldState::built, "a string, or an array of strings and ids"},
    Field{"add_special", {}, kTokenize, boolean, 0, 0, "false",
          "Add the BOS token, if the model has one that is added."},
    Field{"parse_special", {}, kTokenize, boolean, 0, 0, "true",
          "Special tokens written in the text become their ids."},
    Field{"with_pieces", {}, kTokenize, boolean, 0, 0, "false",
          "`[{id, piece}]`; a piece that is not UTF-8 is an array of its bytes."},
    Field{"tokens", {}, kDetokenize, array, 0, 0, "[]", "Token ids."},
};
// clang-format on

const char* type_name(FieldType type) {
  switch (type) {
    case boolean:
      return "a boolean";
    case integer:
      return "an integer";
    case number:
      return "a number";
    case string:
      return "a string";
    case array:
      return "an array";
    case object:
      return "an object";
    case any:
      return "a value";
  }
  return "a value";
}

bool is_integer(const Json& value) {
  if (value.is_number_integer()) {
    return true;
  }
  // 20.0 is an integer to every client that has only one type of number.
  return value.is_number_float() && std::isfinite(value.get<double>()) &&
         std::trunc(value.get<double>()) == value.get<double>();
}

bool has_type(FieldType type, const Json& value) {
  switch (type) {
    case boolean:
      return value.is_boolean();
    case integer:
      return is_integer(value);
    case number:
      return value.is_number();
    case string:
      return value.is_string();
    case array:
      return value.is_array();
    case object:
      return value.is_object();
    case any:
      return true;
  }
  return false;
}

// A value of a refused field that asks for nothing.
bool asks_for_nothing(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == "" || value == "none" ||
         (value.is_structured() && value.empty());
}

class Apply {
 public:
  Apply(const Given& given, GenerationRequest& request) : given_(given), request_(request) {}

  ApiResult<void> operator()(std::monostate) const { return {}; }
  ApiResult<void> operator()(bool GenerationRequest::*member) const {
    request_.*member = given_.value.get<bool>();
    return {};
  }
  ApiResult<void> operator()(int32_t GenerationRequest::*member) const {
    request_.*member = given_.value.get<int32_t>();
    return {};
  }
  ApiResult<void> operator()(std::string GenerationRequest::*member) const {
    request_.*member = given_.value.get<std::string>();
    return {};
  }
  ApiResult<void> operator()(float engine::SamplingParams::*member) const {
    request_.sampling.*member = given_.value.get<float>();
    return {};
  }
  ApiResult<void> operator()(int32_t engine::SamplingParams::*member) const {
    request_.sampling.*member = given_.value.get<int32_t>();
    return {};
  }
  ApiResult<void> operator()(ApiResult<void> (*set)(const Given&, GenerationRequest&)) const {
    return set(given_, request_);
  }

 private:
  const Given& given_;
  GenerationRequest& request_;
};

}  // namespace

std::span<const Field> fields() {
  return kFields;
}

ApiResult<void> check_value(const Field& field, std::string_view name, const Json& value) {
  const bool numeric = field.type == integer || field.type == number;
  const std::string range = numeric ? fmt::format(" from {} to {}", field.min, field.max) : "";
  bool good = has_type(field.type, value);
  if (good && numeric) {
    const auto x = value.get<double>();
    good = x >= field.min && x <= field.max;  // false for NaN
  }
  if (!good) {
    const std::string expected =
        field.expected.empty() ? type_name(field.type) + range : std::string(field.expected);
    return refuse(
        bad_field(std::string(name), fmt::format("expected {}, found {}", expected, excerpt(value))));
  }
  return {};
}

ApiResult<void> apply_fields(const Json& body, uint8_t route, const Context& context,
                             GenerationRequest& request) {
  for (const Field& field : kFields) {
    if ((field.routes & route) == 0) {
      continue;
    }
    const Json* value = nullptr;
    std::string_view name;
    for (const std::string_view candidate : {field.name, field.aliases[0], field.aliases[1]}) {
      const auto at = candidate.empty() ? body.end() : body.find(candidate);
      if (at == body.end() || at->is_null()) {
        continue;
      }
      // Each spelling is checked, the first counts.
      if (auto checked = check_value(field, candidate, *at); !checked) {
        if (field.state == FieldState::refused && asks_for_nothing(*at)) {
          continue;
        }
        return checked;
      }
      if (value == nullptr) {
        value = &*at;
        name = candidate;
      }
    }
    if (value == nullptr) {
      continue;
    }
    if (field.state == FieldState::refused) {
      if (!asks_for_nothing(*value)) {
        return refuse(bad_field(std::string(name), "this server knows the field and has not built it"));
      }
      continue;
    }
    const Given given{name, *value, context};
    if (auto set = std::visit(Apply(given, request), field.set); !set) {
      return set;
    }
  }
  return {};
}

}  // namespace fl::server
