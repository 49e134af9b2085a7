// /completion and /v1/completions: prompts in all their forms.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/fields.h"
#include "server/request.h"

namespace fl::server {
namespace {

constexpr size_t kMaxPrompts = 64;  ///< of one request
constexpr int kMaxSequences = 128;  ///< prompts times answers

// One token id; integral floats are ids to clients with one type of number.
ApiResult<int32_t> token_id(const Context& context, const Json& item, const std::string& field) {
  const int32_t n_vocab = context.engine().runner().config().n_vocab;
  const bool is_integer = item.is_number_integer() ||
                          (item.is_number_float() && std::trunc(item.get<double>()) == item.get<double>());
  if (!is_integer || item.get<double>() < 0 || item.get<double>() >= n_vocab) {
    return refuse(bad_field(
        field, fmt::format("expected a token id from 0 to {}, found {}", n_vocab - 1, excerpt(item))));
  }
  return item.get<int32_t>();
}

bool is_one_prompt(const Json& prompt) {
  if (!prompt.is_array()) {
    return true;
  }
  const bool flat =
      std::ranges::all_of(prompt, [](const Json& item) { return item.is_number() || item.is_string(); });
  const bool any_id = std::ranges::any_of(prompt, [](const Json& item) { return item.is_number(); });
  return flat && any_id;  // only strings: several prompts
}

ApiResult<std::vector<int32_t>> one_prompt(const Context& context, const Json& prompt,
                                           const std::string& field) {
  if (prompt.is_object()) {
    const auto text = prompt.find("prompt_string");
    const auto media = prompt.find("multimodal_data");
    if (media != prompt.end() && !media->empty()) {
      return refuse(bad_field(field + ".multimodal_data", "images are not built into this server yet"));
    }
    if (text == prompt.end() || !text->is_string()) {
      return refuse(bad_field(field + ".prompt_string", "expected a string"));
    }
    return prompt_ids(context, *text, field, true);
  }
  return prompt_ids(context, prompt, field, true);
}

}  // namespace

ApiResult<std::vector<int32_t>> prompt_ids(const Context& context, const Json& prompt,
                                           const std::string& field, bool parse_special) {
  const auto special = parse_special ? tokenizer::Special::parse : tokenizer::Special::plain;
  std::vector<int32_t> ids;
  if (prompt.is_string()) {
    context.tokenizer().encode_append(prompt.get_ref<const std::string&>(), special, ids);
    return ids;
  }
  if (!prompt.is_array()) {
    return refuse(
        bad_field(field, "expected a string or an array of token ids and strings, found " + excerpt(prompt)));
  }
  for (const Json& item : prompt) {
    if (item.is_string()) {
      context.tokenizer().encode_append(item.get_ref<const std::string&>(), special, ids);
      continue;
    }
    const auto id = token_id(context, item, field);
    if (!id) {
      return refuse(id.error());
    }
    ids.push_back(*id);
  }
  return ids;
}

ApiResult<GenerationRequest> parse_completion(const Context& context, const Json& body, Api api) {
  GenerationRequest request = defaults(context, api);
  const uint8_t route = api == Api::completion ? kCompletion : kOaiCompletion;
  if (auto applied = apply_fields(body, route, context, request); !applied) {
    return refuse(applied.error());
  }
  if (request.stop.empty()) {
    request.stop = context.options().defaults.stop;
  }
  const auto prompt = body.find("prompt");
  if (prompt == body.end() || prompt->is_null()) {
    return refuse(bad_field("prompt", "expected a string, token ids, or an array of prompts; found none"));
  }
  if (is_one_prompt(*prompt)) {
    auto ids = one_prompt(context, *prompt, "prompt");
    if (!ids) {
      return refuse(ids.error());
    }
    request.prompts.push_back(std::move(*ids));
  } else {
    if (prompt->empty() || prompt->size() > kMaxPrompts) {
      return refuse(bad_field(
          "prompt", fmt::format("expected 1 to {} prompts, found {}", kMaxPrompts, prompt->size())));
    }
    for (size_t i = 0; i < prompt->size(); ++i) {
      auto ids = one_prompt(context, (*prompt)[i], fmt::format("prompt[{}]", i));
      if (!ids) {
        return refuse(ids.error());
      }
      request.prompts.push_back(std::move(*ids));
    }
  }
  if (static_cast<int>(request.prompts.size()) * request.n_choices > kMaxSequences) {
    return refuse(
        bad_field("n", fmt::format("expected at most {} answers in all, found {} prompts with {} each",
                                   kMaxSequences, request.prompts.size(), request.n_choices)));
  }
  const tokenizer::Tokenizer& tokenizer = context.tokenizer();
  for (std::vector<int32_t>& ids : request.prompts) {
    if (tokenizer.add_bos() && tokenizer.bos() >= 0 && (ids.empty() || ids.front() != tokenizer.bos())) {
      ids.insert(ids.begin(), tokenizer.bos());
    }
    if (ids.empty()) {
      return refuse(bad_field("prompt", "expected at least one token, found none"));
    }
    if (static_cast<int64_t>(ids.size()) >= context.n_ctx()) {
      return refuse(too_long(static_cast<int32_t>(ids.size()), context.n_ctx()));
    }
  }
  return request;
}

}  // namespace fl::server
