// /v1/chat/completions: messages and tools to a prompt.
#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/fields.h"
#include "server/request.h"

namespace fl::server {
namespace {

ApiResult<Json> content_of(const Json& message, const std::string& where) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    return Json("");
  }
  if (content->is_string()) {
    return *content;
  }
  if (!content->is_array()) {
    return refuse(
        bad_field(where + ".content", "expected a string or an array of parts, found " + excerpt(*content)));
  }
  for (size_t i = 0; i < content->size(); ++i) {
    const Json& part = (*content)[i];
    const std::string place = fmt::format("{}.content[{}]", where, i);
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || !type->is_string()) {
      return refuse(bad_field(place, "expected an object with a type, found " + excerpt(part)));
    }
    const auto& kind = type->get_ref<const std::string&>();
    constexpr std::array<std::string_view, 6> kMedia{"image_url",   "image",       "input_image",
                                                     "input_audio", "input_video", "video_url"};
    if (std::ranges::find(kMedia, kind) != kMedia.end()) {
      return refuse(bad_field(
          place, fmt::format("parts of type {} cannot be read: images, audio and video are not built "
                             "into this server yet",
                             kind)));
    }
    if (kind != "text") {
      return refuse(bad_field(place + ".type", "expected text, found " + excerpt(*type)));
    }
    const auto text = part.find("text");
    if (text == part.end() || !text->is_string()) {
      return refuse(bad_field(place + ".text", "expected a string"));
    }
  }
  return *content;
}

ApiResult<Json> calls_of(const Json& calls, const std::string& where) {
  if (!calls.is_array()) {
    return refuse(bad_field(where, "expected an array, found " + excerpt(calls)));
  }
  Json out = Json::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string place = fmt::format("{}[{}]", where, i);
    const Json& call = calls[i];
    const auto function = call.is_object() ? call.find("function") : call.end();
    if (!call.is_object() || function == call.end() || !function->is_object()) {
      return refuse(bad_field(place, "expected an object with a function, found " + excerpt(call)));
    }
    const auto name = function->find("name");
    if (name == function->end() || !name->is_string()) {
      return refuse(bad_field(place + ".function.name", "expected a string"));
    }
    Json arguments = Json::object();
    const auto given = function->find("arguments");
    if (given != function->end() && given->is_string()) {
      const auto& text = given->get_ref<const std::string&>();
      if (!text.empty()) {
        if (auto parsed = parse_json(text, arguments); !parsed) {
          return refuse(bad_field(place + ".function.arguments", parsed.error().message));
        }
      }
    } else if (given != function->end() && !given->is_null()) {
      arguments = *given;
    }
    if (!arguments.is_object()) {
      return refuse(
          bad_field(place + ".function.arguments", "expected a JSON object, found " + excerpt(arguments)));
    }
    Json rebuilt = {{"type", "function"},
                    {"function", {{"name", *name}, {"arguments", std::move(arguments)}}}};
    if (const auto id = call.find("id"); id != call.end() && id->is_string()) {
      rebuilt["id"] = *id;
    }
    out.push_back(std::move(rebuilt));
  }
  return out;
}

// A message as templates expect it; keys that no template of the family reads are dropped.
ApiResult<Json> normalised(const Json& message, const std::string& where) {
  if (!message.is_object()) {
    return refuse(bad_field(where, "expected an object, found " + excerpt(message)));
  }
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) {
    return refuse(bad_field(where + ".role", "expected a string"));
  }
  Json out;
  out["role"] = *role == "developer" ? Json("system") : *role;
  const bool assistant = *role == "assistant";
  const auto has = [&](const char* key) {
    const auto at = message.find(key);
    return at != message.end() && !at->is_null();
  };
  if (!has("content") && !(assistant && (has("tool_calls") || has("reasoning_content")))) {
    return refuse(bad_field(where + ".content", "expected a string or an array of parts, found none"));
  }
  auto content = content_of(message, where);
  if (!content) {
    return content;
  }
  out["content"] = std::move(*content);
  for (const char* key : {"reasoning_content", "name", "tool_call_id"}) {
    if (!has(key)) {
      continue;
    }
    const Json& value = message.at(key);
    if (!value.is_string()) {
      return refuse(bad_field(where + "." + key, "expected a string, found " + excerpt(value)));
    }
    if (!value.get_ref<const std::string&>().empty()) {
      out[key] = value;
    }
  }
  if (has("tool_calls") && !message.at("tool_calls").empty()) {
    auto calls = calls_of(message.at("tool_calls"), where + ".tool_calls");
    if (!calls) {
      return calls;
    }
    out["tool_calls"] = std::move(*calls);
  }
  return out;
}

ApiResult<std::shared_ptr<const Json>> tools_of(const Json& body) {
  const auto tools = body.find("tools");
  if (tools == body.end() || tools->is_null() || tools->empty()) {
    return std::shared_ptr<const Json>();
  }
  for (size_t i = 0; i < tools->size(); ++i) {
    const Json& tool = (*tools)[i];
    const std::string place = fmt::format("tools[{}]", i);
    if (!tool.is_object() || tool.value("type", Json("function")) != "function") {
      return refuse(bad_field(place, "expected an object of type function, found " + excerpt(tool)));
    }
    const auto function = tool.find("function");
    if (function == tool.end() || !function->is_object()) {
      return refuse(bad_field(place + ".function", "expected an object"));
    }
    const auto name = function->find("name");
    if (name == function->end() || !name->is_string() || name->get_ref<const std::string&>().empty()) {
      return refuse(bad_field(place + ".function.name", "expected a string"));
    }
    const auto parameters = function->find("parameters");
    if (parameters != function->end() && !parameters->is_null() && !parameters->is_object()) {
      return refuse(
          bad_field(place + ".function.parameters", "expected an object, found " + excerpt(*parameters)));
    }
  }
  return std::make_shared<const Json>(*tools);
}

enum class Continue : uint8_t { no, content, reasoning };

struct Conversation {
  Json messages = Json::array();
  std::shared_ptr<const Json> tools;
  Json kwargs;
  bool add_generation_prompt = true;
  Continue how = Continue::no;
};

ApiResult<Continue> continuation(const Context& context, const Json& body, const Json& messages,
                                 bool asked_generation_prompt) {
  const Json& last = messages.back();
  const bool assistant = last.at("role") == "assistant";
  const auto field = body.find("continue_final_message");
  const bool given = field != body.end() && !field->is_null() && *field != false;
  if (given && *field != true && *field != "content" && *field != "reasoning_content") {
    return refuse(
        bad_field("continue_final_message",
                  "expected a boolean, \"content\" or \"reasoning_content\", found " + excerpt(*field)));
  }
  const bool refused = field != body.end() && *field == false;
  if (!assistant || refused || (!given && !context.options().defaults.prefill_assistant)) {
    if (given) {
      return refuse(bad_field("continue_final_message", "expected a last message of role assistant"));
    }
    return Continue::no;
  }
  if (messages.size() > 1 && messages[messages.size() - 2].at("role") == "assistant") {
    return refuse(bad_field("messages", "two assistant messages at the end cannot be continued"));
  }
  if (given && asked_generation_prompt) {
    return refuse(bad_field("continue_final_message", "cannot be given together with add_generation_prompt"));
  }
  if (last.contains("tool_calls")) {
    return given ? ApiResult<Continue>(
                       refuse(bad_field("continue_final_message", "a message with tool calls is complete")))
                 : ApiResult<Continue>(Continue::no);
  }
  if (!last.at("content").is_string()) {
    return refuse(bad_field("messages", "the content of a message to continue is a string"));
  }
  const bool only_reasoning = last.contains("reasoning_content") && last.at("content") == "";
  return only_reasoning || (given && *field == "reasoning_content") ? Continue::reasoning : Continue::content;
}

ApiResult<Conversation> conversation(const Context& context, const Json& body) {
  const auto messages = body.find("messages");
  if (messages == body.end() || !messages->is_array() || messages->empty()) {
    return refuse(bad_field("messages", "expected a non-empty array"));
  }
  Conversation out;
  for (size_t i = 0; i < messages->size(); ++i) {
    auto message = normalised((*messages)[i], fmt::format("messages[{}]", i));
    if (!message) {
      return refuse(message.error());
    }
    out.messages.push_back(std::move(*message));
  }
  auto tools = tools_of(body);
  if (!tools) {
    return refuse(tools.error());
  }
  out.tools = std::move(*tools);
  if (out.tools != nullptr && !context.options().defaults.jinja) {
    return refuse(
        bad_field("tools", "tools need the model's template, and this server runs with --no-jinja"));
  }
  out.kwargs = context.template_kwargs();
  if (const auto given = body.find("chat_template_kwargs"); given != body.end() && !given->is_null()) {
    for (const auto& [key, value] : given->items()) {
      out.kwargs[key] = value;
    }
  }
  if (const auto effort = body.find("reasoning_effort"); effort != body.end() && effort->is_string()) {
    if (*effort == "none") {
      out.kwargs["enable_thinking"] = false;
    } else {
      out.kwargs["reasoning_effort"] = *effort;
    }
  }
  if (const auto thinking = out.kwargs.find("enable_thinking");
      thinking != out.kwargs.end() && !thinking->is_boolean()) {
    return refuse(
        bad_field("chat_template_kwargs.enable_thinking", "expected a boolean, found " + excerpt(*thinking)));
  }
  const auto generation = body.find("add_generation_prompt");
  const bool asked = generation != body.end() && *generation == true;
  out.add_generation_prompt = generation == body.end() || generation->is_null() || *generation == true;
  auto how = continuation(context, body, out.messages, asked);
  if (!how) {
    return refuse(how.error());
  }
  out.how = *how;
  return out;
}

ApiResult<std::vector<chat::Segment>> render(const Context& context, const Conversation& conversation) {
  const tokenizer::Tokenizer& tokenizer = context.tokenizer();
  Json head;
  chat::RenderInput input;
  input.messages = &conversation.messages;
  if (conversation.how != Continue::no) {
    head = conversation.messages;
    head.erase(head.size() - 1);
    input.messages = &head;
    if (head.empty()) {
      return refuse(bad_field("messages", "expected a message before the one to continue"));
    }
  }
  input.tools = conversation.tools.get();
  input.kwargs = &conversation.kwargs;
  input.add_generation_prompt = conversation.add_generation_prompt || conversation.how != Continue::no;
  input.bos_token = tokenizer.bos() >= 0 ? tokenizer.piece(tokenizer.bos()) : "";
  input.eos_token = tokenizer.eos() >= 0 ? tokenizer.piece(tokenizer.eos()) : "";
  auto segments = context.chat_template().render(input);
  if (!segments) {
    ApiError error = bad_request("the chat template refuses this conversation: " + segments.error().message);
    error.param = "messages";
    return refuse(std::move(error));
  }
  if (conversation.how != Continue::no) {
    // The prompt ends inside the message: header, thought, answer, as the family's templates write them.
    const std::string prefix = chat::generation_prefix(*segments);
    size_t excess = prefix.size();
    while (excess > 0 && !segments->empty()) {
      std::string& text = segments->back().text;
      const size_t cut = std::min(excess, text.size());
      text.resize(text.size() - cut);
      excess -= cut;
      if (text.empty()) {
        segments->pop_back();
      }
    }
    const Json& last = conversation.messages.back();
    const std::string thought = last.value("reasoning_content", std::string());
    if (context.has_thinking()) {
      segments->push_back({"<think>\n", true});
      segments->push_back({thought, false});
    }
    if (conversation.how == Continue::content) {
      if (context.has_thinking()) {
        segments->push_back({"\n</think>\n\n", true});
      }
      segments->push_back({last.at("content").get<std::string>(), false});
    }
  }
  return std::move(*segments);
}

}  // namespace

ApiResult<std::vector<chat::Segment>> render_chat(const Context& context, const Json& body) {
  GenerationRequest request = defaults(context, Api::chat);
  if (auto applied = apply_fields(body, kChat, context, request); !applied) {
    return refuse(applied.error());
  }
  const auto parsed = conversation(context, body);
  return parsed ? render(context, *parsed) : refuse(parsed.error());
}

ApiResult<GenerationRequest> parse_chat(const Context& context, const Json& body) {
  GenerationRequest request = defaults(context, Api::chat);
  if (auto applied = apply_fields(body, kChat, context, request); !applied) {
    return refuse(applied.error());
  }
  if (request.n_probs > 0 && !request.logprobs) {
    return refuse(bad_field("top_logprobs", "needs logprobs: true"));
  }
  if (request.stop.empty()) {
    request.stop = context.options().defaults.stop;
  }
  auto parsed = conversation(context, body);
  if (!parsed) {
    return refuse(parsed.error());
  }
  const auto segments = render(context, *parsed);
  if (!segments) {
    return refuse(segments.error());
  }
  const bool choice_none = body.contains("tool_choice") && body.at("tool_choice") == "none";
  if (parsed->tools != nullptr && !choice_none && !context.options().defaults.skip_chat_parsing) {
    request.chat.tools = parsed->tools;
  }
  request.chat.continued = parsed->how != Continue::no;
  request.chat.prefix = chat::generation_prefix(*segments);
  if (parsed->how == Continue::reasoning) {
    request.chat.prefix = "<think>\n" + parsed->messages.back().value("reasoning_content", std::string());
  } else if (parsed->how == Continue::content) {
    request.chat.prefix = context.has_thinking() ? "<think>\n\n</think>\n\n" : "";
  }
  request.prompts.push_back(chat::encode(context.tokenizer(), *segments));
  const auto n_prompt = static_cast<int64_t>(request.prompts.front().size());
  if (n_prompt >= context.n_ctx()) {
    return refuse(too_long(static_cast<int32_t>(n_prompt), context.n_ctx()));
  }
  return request;
}

}  // namespace fl::server
