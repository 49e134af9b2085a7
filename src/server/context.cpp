#include "server/context.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

#include "server/fields.h"

namespace fl::server {

struct Context::Rendered {
  Json kwargs = Json::object();
  Json caps = Json::object();
};

Result<std::pair<int32_t, float>> parse_logit_bias(const std::string& text) {
  const auto bad = [&] {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format("--logit-bias: expected a token id, + or -, and a bias (15043+1, 15043-inf), found '{}'",
                    text));
  };
  const size_t sign = text.find_first_of("+-");
  if (sign == std::string::npos) {
    return bad();
  }
  int32_t token = 0;
  const char* end = text.data() + sign;
  const auto id = std::from_chars(text.data(), end, token);
  if (id.ec != std::errc() || id.ptr != end || token < 0) {
    return bad();
  }
  float bias = 0;
  const auto number = std::from_chars(end + 1, text.data() + text.size(), bias);
  if (number.ec != std::errc() || number.ptr != text.data() + text.size() || std::isnan(bias) || bias < 0) {
    return bad();
  }
  if (*end == '+' && std::isinf(bias)) {
    return bad();
  }
  return std::pair(token, *end == '-' ? -bias : bias);
}

std::vector<std::vector<int32_t>> breaker_ids(const tokenizer::Tokenizer& tokenizer,
                                              const std::vector<std::string>& breakers) {
  std::vector<std::vector<int32_t>> ids;
  ids.reserve(breakers.size());
  for (const std::string& breaker : breakers) {
    ids.push_back(tokenizer.encode(breaker, tokenizer::Special::plain));
  }
  return ids;
}

Context::Context(const ServerOptions& options, Metrics& metrics, LoadedModel model)
    : options_(options),
      metrics_(metrics),
      model_(std::move(model)),
      rendered_(std::make_unique<Rendered>()) {}

Context::~Context() {
  model_.engine.reset();  // its thread may still ask a hook, which reads the tokenizer
}

Result<std::shared_ptr<const Context>> Context::make(const ServerOptions& options, Metrics& metrics,
                                                     LoadedModel model) {
  FL_CHECK(model.engine != nullptr, "a loaded model has an engine");
  std::shared_ptr<Context> context(new Context(options, metrics, std::move(model)));
  FL_TRY(context->prepare());
  FL_TRY(context->probe_template());
  return context;
}

Status Context::prepare() {
  aliases_ = options_.aliases;
  std::ranges::sort(aliases_);
  aliases_.erase(std::unique(aliases_.begin(), aliases_.end()), aliases_.end());
  if (aliases_.empty()) {
    aliases_.push_back(options_.model_path.empty()
                           ? model_.engine->runner().config().name
                           : std::filesystem::path(options_.model_path).filename().string());
  }
  const int32_t n_vocab = model_.engine->runner().config().n_vocab;
  for (const std::string& text : options_.defaults.logit_bias) {
    FL_ASSIGN(const auto bias, parse_logit_bias(text));
    if (bias.first >= n_vocab) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("--logit-bias: expected a token below {}, found {}", n_vocab, bias.first));
    }
    logit_bias_.push_back(bias);
  }
  for (const std::string_view marker : {"<think>", "</think>", "<tool_call>", "</tool_call>"}) {
    const auto id = model_.tokenizer.special_id(marker);
    if (id && model_.tokenizer.type(*id) == tokenizer::TokenType::control) {
      chat_markers_.push_back(*id);
    }
  }
  const RequestDefaults& d = options_.defaults;
  Json& kwargs = rendered_->kwargs;
  if (d.reasoning != Reasoning::automatic) {
    kwargs["enable_thinking"] = d.reasoning == Reasoning::on;
  }
  kwargs["preserve_thinking"] = d.reasoning_preserve;
  if (!d.reasoning_effort.empty()) {
    kwargs["reasoning_effort"] = d.reasoning_effort;
  }
  if (!d.chat_template_kwargs.empty()) {
    Json given;
    if (auto parsed = parse_json(d.chat_template_kwargs, given); !parsed) {
      return fail(parsed.error(), "--chat-template-kwargs");
    }
    if (!given.is_object()) {
      return fail(ErrorCode::invalid_argument,
                  "--chat-template-kwargs: expected a JSON object, found " + excerpt(given));
    }
    for (const auto& [key, value] : given.items()) {
      kwargs[key] = value;
    }
  }
  return {};
}

const chat::Template& Context::chat_template() const {
  return options_.defaults.jinja && model_.chat_template ? *model_.chat_template : chat::Template::chatml();
}

const Json& Context::template_kwargs() const {
  return rendered_->kwargs;
}

const Json& Context::template_caps() const {
  return rendered_->caps;
}

Status Context::probe_template() {
  const auto render = [&](const Json& messages, const Json* tools, const Json& kwargs) -> std::string {
    chat::RenderInput input;
    input.messages = &messages;
    input.tools = tools;
    input.kwargs = &kwargs;
    const auto segments = chat_template().render(input);
    return segments ? chat::join(*segments) : std::string();
  };
  const Json hello = Json::array({{{"role", "user"}, {"content", "Hello"}}});
  {
    chat::RenderInput input;
    input.messages = &hello;
    input.kwargs = &rendered_->kwargs;
    if (const auto segments = chat_template().render(input); !segments) {
      return fail(segments.error(), "the chat template cannot render a conversation of one message");
    }
  }
  // Abilities are what renderings show, not what a template's text contains.
  const std::string mark = "zqx";
  const Json none = Json::object();
  const Json parameters = {{"type", "object"}, {"properties", {{"a", {{"type", "string"}}}}}};
  const Json tools =
      Json::array({{{"type", "function"},
                    {"function", {{"name", mark}, {"description", "d"}, {"parameters", parameters}}}}});
  const auto call = [&](const char* name) -> Json {
    return {{"type", "function"}, {"id", "1"}, {"function", {{"name", name}, {"arguments", {{"a", "b"}}}}}};
  };
  const Json with_system = Json::array({{{"role", "system"}, {"content", mark}}, hello[0]});
  const Json typed =
      Json::array({{{"role", "user"}, {"content", Json::array({{{"type", "text"}, {"text", mark}}})}}});
  const auto calling = [&](Json calls) {
    return Json::array(
        {hello[0], {{"role", "assistant"}, {"content", ""}, {"tool_calls", std::move(calls)}}});
  };
  const auto shows = [&](const std::string& text) { return text.find(mark) != std::string::npos; };
  const Json thoughtful = Json::array(
      {hello[0], {{"role", "assistant"}, {"content", "a"}, {"reasoning_content", mark}}, hello[0]});
  const std::string two = render(calling(Json::array({call("zqx"), call("zqy")})), nullptr, none);
  rendered_->caps = {
      {"supports_string_content", true},
      {"supports_typed_content", shows(render(typed, nullptr, none))},
      {"supports_tools", shows(render(hello, &tools, none))},
      {"supports_tool_calls", shows(render(calling(Json::array({call("zqx")})), nullptr, none))},
      {"supports_parallel_tool_calls", shows(two) && two.find("zqy") != std::string::npos},
      {"supports_system_role", shows(render(with_system, nullptr, none))},
      {"supports_preserve_reasoning", shows(render(thoughtful, nullptr, {{"preserve_thinking", true}}))},
      {"supports_reasoning_effort", shows(render(hello, nullptr, {{"reasoning_effort", mark}}))},
      {"supports_object_arguments", shows(render(calling(Json::array({call("zqx")})), nullptr, none))},
  };
  has_thinking_ = render(hello, nullptr, {{"enable_thinking", true}}) !=
                  render(hello, nullptr, {{"enable_thinking", false}});
  return {};
}

std::string_view Context::piece(int32_t token, bool chat, bool special) const {
  if (special || model_.tokenizer.type(token) != tokenizer::TokenType::control ||
      (chat && std::ranges::find(chat_markers_, token) != chat_markers_.end())) {
    return model_.tokenizer.piece(token);
  }
  return {};
}

GenerationRequest defaults(const Context& context, Api api) {
  const RequestDefaults& d = context.options().defaults;
  GenerationRequest request;
  request.api = api;
  request.sampling = d.sampling;
  request.sampling.logit_bias = context.logit_bias();
  request.dry_breakers = d.dry_breakers;
  request.cache_prompt = d.cache_prompt;
  request.ignore_eos = d.ignore_eos;
  request.n_predict = d.n_predict;
  request.special = d.special;
  request.sse_ping_seconds = context.options().sse_ping_seconds;
  request.reasoning_budget = d.reasoning_budget;
  request.reasoning_budget_message = d.reasoning_budget_message;
  request.chat.format = d.reasoning_format;
  return request;
}

}  // namespace fl::server
