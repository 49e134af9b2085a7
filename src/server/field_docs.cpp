// docs/api.md from the table of fields, and the command line's defaults held against it.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/fields.h"
#include "server/server.h"

namespace fl::server {
namespace {

std::string range_text(const Field& field) {
  const auto bound = [](double x) {
    constexpr double kHuge = 1e15;
    return std::abs(x) > kHuge ? fmt::format("{:.3g}", x) : fmt::format("{}", x);
  };
  switch (field.type) {
    case FieldType::boolean:
      return "boolean";
    case FieldType::integer:
      return fmt::format("integer, {} to {}", bound(field.min), bound(field.max));
    case FieldType::number:
      return fmt::format("number, {} to {}", bound(field.min), bound(field.max));
    case FieldType::string:
      return "string";
    case FieldType::array:
      return "array";
    case FieldType::object:
      return "object";
    case FieldType::any:
      return std::string(field.expected);
  }
  return "";
}

std::string route_text(uint8_t routes) {
  if (routes == kGenerate) {
    return "all";
  }
  std::string out;
  const auto add = [&](uint8_t route, const char* name) {
    if ((routes & route) != 0) {
      out += (out.empty() ? "" : ", ") + std::string(name);
    }
  };
  add(kCompletion, "native");
  add(kOaiCompletion, "text");
  add(kChat, "chat");
  return out;
}

void append_rows(std::string& out, uint8_t routes, FieldState state, bool with_routes) {
  for (const Field& field : fields()) {
    if ((field.routes & routes) == 0 || field.state != state) {
      continue;
    }
    std::string names = fmt::format("`{}`", field.name);
    for (const std::string_view alias : field.aliases) {
      names += alias.empty() ? "" : fmt::format(", `{}`", alias);
    }
    out += fmt::format("| {} |", names);
    if (with_routes) {
      out += fmt::format(" {} |", route_text(field.routes));
    }
    out += fmt::format(" {} | {} | {} |\n", range_text(field), field.default_text, field.doc);
  }
}

}  // namespace

std::string api_docs() {
  std::string out =
      "# HTTP API\n\n"
      "<!-- Made from the table in src/server/fields.cpp; test_server compares them. -->\n\n"
      "Routes have llama-server's shapes; the OpenAI ones answer with and without `/v1`. Errors are\n"
      "`{\"error\": {\"code\", \"message\", \"type\"}}` with `param` where a field is at fault. A value of a "
      "wrong type or\n"
      "outside its range is a 400 that names the field, what was expected and what was found. `null` means "
      "the default.\n"
      "Unknown fields are ignored; fields that are known and not built are refused by name.\n\n"
      "| route | what it does |\n|---|---|\n"
      "| `GET /health`, `/v1/health` | `{\"status\": \"ok\"}`; 503 while the model loads, when no step ends "
      "and "
      "when the device is lost. Needs no key |\n"
      "| `GET /v1/models`, `/models`, `/v1/models/{id}` | the model under its names |\n"
      "| `GET /props` | defaults of requests, slots, chat template and its abilities, memory in bytes by "
      "item |\n"
      "| `POST /props` | with `--props`; changes nothing |\n"
      "| `GET /slots` | what each slot does; `?fail_on_no_slot=1` is 503 when none is free |\n"
      "| `POST /slots/{id}?action=erase` | with `--slot-save-path`: forgets what the slot left in the cache "
      "|\n"
      "| `GET /metrics` | with `--metrics`: Prometheus text |\n"
      "| `POST /tokenize`, `/detokenize` | text to ids and back |\n"
      "| `POST /apply-template` | a chat request to its prompt |\n"
      "| `POST /v1/chat/completions/input_tokens` | the number of tokens of a chat request |\n"
      "| `POST /completion`, `/completions` | native completion |\n"
      "| `POST /v1/completions` | OpenAI's text completion |\n"
      "| `POST /v1/chat/completions`, `/chat/completions` | OpenAI's chat |\n\n"
      "Known and answered 501: `/infill`, `/v1/responses`, `/v1/messages`, embeddings, reranking, audio, "
      "adapters, and\n"
      "`action=save` and `restore` of slots.\n\n"
      "## Fields of the completion routes\n\n"
      "Routes: *native* is `/completion`, *text* is `/v1/completions`, *chat* is `/v1/chat/completions`. "
      "Default *flag*: what\n"
      "the server was started with.\n\n"
      "| field | routes | type and range | default | meaning |\n|---|---|---|---|---|\n";
  append_rows(out, kGenerate, FieldState::built, true);
  out +=
      "\nAccepted without an effect:\n\n| field | routes | type and range | default | why "
      "|\n|---|---|---|---|---|\n";
  append_rows(out, kGenerate, FieldState::ignored, true);
  out +=
      "\nKnown and not built; a value that asks for it is a 400:\n\n| field | routes | type and range | "
      "default | what |\n"
      "|---|---|---|---|---|\n";
  append_rows(out, kGenerate, FieldState::refused, true);
  out += "\n## `/tokenize`\n\n| field | type and range | default | meaning |\n|---|---|---|---|\n";
  append_rows(out, kTokenize, FieldState::built, false);
  out += "\n## `/detokenize`\n\n| field | type and range | default | meaning |\n|---|---|---|---|\n";
  append_rows(out, kDetokenize, FieldState::built, false);
  return out;
}

Status check(const RequestDefaults& defaults) {
  for (const Field& field : fields()) {
    double value = 0;
    if (const auto* real = std::get_if<float engine::SamplingParams::*>(&field.set)) {
      value = defaults.sampling.**real;
    } else if (const auto* whole = std::get_if<int32_t engine::SamplingParams::*>(&field.set)) {
      value = defaults.sampling.**whole;
    } else if (field.name == "n_predict") {
      value = defaults.n_predict;
    } else if (field.name == "reasoning_budget_tokens") {
      value = defaults.reasoning_budget;
    } else {
      continue;
    }
    if (!(value >= field.min && value <= field.max)) {
      return fail(ErrorCode::invalid_argument, fmt::format("{}: expected a number from {} to {}, found {}",
                                                           field.name, field.min, field.max, value));
    }
  }
  for (const std::string& text : defaults.logit_bias) {
    FL_TRY(parse_logit_bias(text));
  }
  if (!defaults.chat_template_kwargs.empty()) {
    Json given;
    if (auto parsed = parse_json(defaults.chat_template_kwargs, given); !parsed) {
      return fail(parsed.error(), "--chat-template-kwargs");
    }
    if (!given.is_object()) {
      return fail(ErrorCode::invalid_argument,
                  "--chat-template-kwargs: expected a JSON object, found " + excerpt(given));
    }
  }
  return {};
}

}  // namespace fl::server
