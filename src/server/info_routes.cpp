// Routes that tell about the server and its model, and text to ids and back.
#include <algorithm>
#include <charconv>
#include <ctime>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/fields.h"
#include "server/service.h"
#include "tokenizer/tokenizer.h"

namespace fl::server {
namespace {

/// A step of the largest model on a slow machine takes far less.
constexpr double kStuckSeconds = 600;

// The value of a parameter of the query, or nothing.
std::optional<std::string> parameter(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    if (pair.starts_with(name) && pair.size() > name.size() && pair[name.size()] == '=') {
      return std::string(pair.substr(name.size() + 1));
    }
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return std::nullopt;
}

Json model_entry(const Context& context) {
  const ServerOptions& options = context.options();
  const auto& config = context.engine().runner().config();
  return {{"id", context.model_id()},
          {"aliases", context.aliases()},
          {"tags", options.tags},
          {"object", "model"},
          {"created", std::time(nullptr)},
          {"owned_by", "freelunch"},
          {"max_model_len", context.n_ctx()},
          {"meta",
           {{"vocab_type", 2},
            {"n_vocab", config.n_vocab},
            {"n_ctx", context.n_ctx()},
            {"n_ctx_train", config.n_ctx_train},
            {"n_embd", config.n_embd},
            {"n_params", context.model().n_params},
            {"size", context.model().n_bytes},
            {"ftype", context.model().ftype}}}};
}

bool is_utf8(std::string_view bytes) {
  tokenizer::Utf8Stream stream;
  return stream.push(bytes) == bytes;
}

std::string token_text(const Context& context, int32_t id) {
  return id >= 0 ? std::string(context.tokenizer().piece(id)) : std::string();
}

}  // namespace

Reply Service::health(const Context& context) const {
  const engine::EngineStats stats = context.engine().stats();
  if (stats.device_lost) {
    return reply(unavailable("the device is lost; the server ends", 1));
  }
  if (stats.busy_slots > 0 && stats.last_step_age_s > kStuckSeconds) {
    return reply(unavailable(fmt::format("no step has ended for {:.0f} seconds", stats.last_step_age_s), 1));
  }
  return reply(Json{{"status", "ok"}});
}

Reply Service::models(const Context& context, const Admitted& admitted) const {
  if (admitted.route == Route::model) {
    const bool known = std::ranges::find(context.aliases(), admitted.argument) != context.aliases().end();
    return known ? reply(model_entry(context)) : reply(not_found("this server has no model of that name"));
  }
  const Json entry = {{"name", context.model_id()},
                      {"model", context.model_id()},
                      {"modified_at", ""},
                      {"size", ""},
                      {"digest", ""},
                      {"type", "model"},
                      {"description", ""},
                      {"tags", Json::array({""})},
                      {"capabilities", Json::array({"completion"})},
                      {"parameters", ""},
                      {"details",
                       {{"parent_model", ""},
                        {"format", "gguf"},
                        {"family", ""},
                        {"families", Json::array({""})},
                        {"parameter_size", ""},
                        {"quantization_level", ""}}}};
  return reply(Json{
      {"models", Json::array({entry})}, {"object", "list"}, {"data", Json::array({model_entry(context)})}});
}

Reply Service::props(const Context& context) const {
  Json memory = Json::object();  // ours: what the runner reserved, in bytes, and where it lies
  uint64_t on_device = 0;
  uint64_t on_host = 0;
  for (const model::MemoryItem& item : context.engine().runner().memory()) {
    memory[item.name] = memory.value(item.name, uint64_t{0}) + item.bytes;
    (item.on_device ? on_device : on_host) += item.bytes;
  }
  const tokenizer::Tokenizer& tokenizer = context.tokenizer();
  const GenerationRequest request = defaults(context, Api::completion);
  Json limits = Json::object();  // ours: of the device, when --measure-limits asked for them
  if (const model::DeviceLimits& measured = context.model().limits; measured.read_bandwidth > 0) {
    limits = {{"read_bytes_per_second", measured.read_bandwidth},
              {"operations_per_second", measured.int8_ops},
              {"device", context.engine().runner().describe()}};
  }
  return reply(Json{
      {"default_generation_settings",
       {{"params", generation_settings(context, request, true)}, {"n_ctx", context.n_ctx()}}},
      {"total_slots", context.n_slots()},
      {"model_alias", context.model_id()},
      {"model_ftype", context.model().ftype},
      {"model_path", options_.model_path},
      {"modalities", {{"vision", false}, {"video", false}, {"audio", false}}},
      {"endpoint_slots", options_.slots},
      {"endpoint_props", options_.props},
      {"endpoint_metrics", options_.metrics},
      {"ui", options_.ui},
      {"ui_settings", Json::object()},
      {"chat_template", context.chat_template().source()},
      {"chat_template_caps", context.template_caps()},
      {"bos_token", token_text(context, tokenizer.bos())},
      {"eos_token", token_text(context, tokenizer.eos())},
      {"build_info", options_.build_info},
      {"memory", std::move(memory)},
      {"limits", std::move(limits)},
      {"memory_total", {{"device", on_device}, {"host", on_host}}},
      {"is_sleeping", false},
      {"cors_proxy_enabled", false},
  });
}

Reply Service::slots(const Context& context, const RequestHead& head) const {
  if (!options_.slots) {
    return reply(not_supported("GET /slots was turned off by the server's flag --no-slots"));
  }
  Json out = Json::array();
  bool any_free = false;
  for (const engine::SlotInfo& slot : context.engine().slots()) {
    any_free = any_free || !slot.busy;
    Json entry = {
        {"id", slot.id}, {"n_ctx", slot.n_ctx}, {"speculative", false}, {"is_processing", slot.busy}};
    if (slot.request != 0) {
      GenerationRequest request = defaults(context, Api::completion);
      request.sampling = slot.sampling;
      entry["id_task"] = slot.request;
      entry["n_prompt_tokens"] = slot.n_prompt + slot.n_decoded;
      entry["n_prompt_tokens_processed"] = std::max(0, slot.n_prompt_done - slot.n_cached);
      entry["n_prompt_tokens_cache"] = slot.n_cached;
      entry["params"] = generation_settings(context, request, true);
      entry["next_token"] = Json::array({{{"has_next_token", slot.busy},
                                          {"has_new_line", false},
                                          {"n_remain", slot.busy ? slot.n_remaining : -1},
                                          {"n_decoded", slot.busy ? slot.n_decoded : 0}}});
    }
    out.push_back(std::move(entry));
  }
  if (parameter(head.query, "fail_on_no_slot") == "1" && !any_free) {
    return reply(unavailable("no slot available", 1));
  }
  return reply(out);
}

Reply Service::slot_action(const Context& context, const RequestHead& head, const Admitted& admitted) const {
  if (!options_.slot_erase) {
    return reply(not_supported("actions on slots need the server's flag --slot-save-path"));
  }
  int32_t id = 0;
  const std::string& text = admitted.argument;
  const auto number = std::from_chars(text.data(), text.data() + text.size(), id);
  if (number.ec != std::errc() || number.ptr != text.data() + text.size() || id < 0 ||
      id >= context.n_slots()) {
    return reply(bad_request(fmt::format("expected a slot from 0 to {} in the path", context.n_slots() - 1)));
  }
  const std::string action = parameter(head.query, "action").value_or("");
  if (action == "save" || action == "restore") {
    return reply(not_supported("action=" + action + " is known and not built; action=erase is"));
  }
  if (action != "erase") {
    return reply(bad_request("expected action=erase in the query"));
  }
  const auto erased = context.engine().erase_slot(id);
  return erased ? reply(Json{{"id_slot", id}, {"n_erased", *erased}}) : reply(from(erased.error()));
}

Reply Service::tokenize(const Context& context, const Json& body) const {
  GenerationRequest unused;
  if (auto checked = apply_fields(body, kTokenize, context, unused); !checked) {
    return reply(checked.error());
  }
  const auto flag = [&](const char* name, bool fallback) {
    const auto at = body.find(name);
    return at != body.end() && at->is_boolean() ? at->get<bool>() : fallback;
  };
  std::vector<int32_t> ids;
  if (const auto content = body.find("content"); content != body.end() && !content->is_null()) {
    auto found = prompt_ids(context, *content, "content", flag("parse_special", true));
    if (!found) {
      return reply(found.error());
    }
    ids = std::move(*found);
  }
  const tokenizer::Tokenizer& tokenizer = context.tokenizer();
  if (flag("add_special", false) && tokenizer.add_bos() && tokenizer.bos() >= 0) {
    ids.insert(ids.begin(), tokenizer.bos());
  }
  Json tokens = Json::array();
  for (const int32_t id : ids) {
    if (!flag("with_pieces", false)) {
      tokens.push_back(id);
      continue;
    }
    const std::string_view piece = tokenizer.piece(id);
    Json bytes = Json::array();
    for (const char c : piece) {
      bytes.push_back(static_cast<unsigned char>(c));
    }
    tokens.push_back({{"id", id}, {"piece", is_utf8(piece) ? Json(piece) : bytes}});
  }
  return reply(Json{{"tokens", std::move(tokens)}});
}

Reply Service::detokenize(const Context& context, const Json& body) const {
  GenerationRequest unused;
  if (auto checked = apply_fields(body, kDetokenize, context, unused); !checked) {
    return reply(checked.error());
  }
  std::vector<int32_t> ids;
  if (const auto tokens = body.find("tokens"); tokens != body.end() && !tokens->is_null()) {
    for (const Json& item : *tokens) {
      if (item.is_string()) {
        return reply(bad_field("tokens", "expected token ids, found " + excerpt(item)));
      }
    }
    auto found = prompt_ids(context, *tokens, "tokens", false);
    if (!found) {
      return reply(found.error());
    }
    ids = std::move(*found);
  }
  tokenizer::Utf8Stream utf8;
  std::string text = utf8.push(context.tokenizer().decode(ids, true));
  text += utf8.finish();
  return reply(Json{{"content", text}});
}

std::string page(const Context& context) {
  // Names come from the command line; they are shown as text.
  std::string name;
  for (const char c : context.model_id()) {
    name += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  }
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>freelunch</title>"
      "<style>body{{font:16px/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}}</style>"
      "<h1>freelunch</h1><p>This server answers for the model <b>{}</b>.</p>"
      "<p>OpenAI clients: base URL <code>/v1</code> of this address. Native: <code>POST /completion</code>. "
      "State: "
      "<code>/health</code>, <code>/slots</code>, <code>/props</code>, <code>/metrics</code>.</p></html>\n",
      name);
}

}  // namespace fl::server
