// A generation request after validation, whichever route it came by.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "chat/chat.h"
#include "engine/sampling_params.h"
#include "server/errors.h"
#include "server/json.h"

namespace fl::server {

class Context;

enum class Api : uint8_t { completion, oai_completion, chat };

struct ChatRequest {
  std::shared_ptr<const Json> tools;  ///< null: none, or tool_choice "none": calls stay text
  bool parallel_tool_calls = true;
  chat::ReasoningFormat format = chat::ReasoningFormat::deepseek;
  std::string prefix;      ///< what the prompt already wrote of the answer
  bool continued = false;  ///< the prompt ends inside an assistant message: its prefix is not repeated
};

struct GenerationRequest {
  Api api = Api::completion;
  std::vector<std::vector<int32_t>> prompts;  ///< ids; several only on the raw routes
  engine::SamplingParams sampling;
  std::vector<std::string> dry_breakers;
  ChatRequest chat;

  // Set from the table of fields
  bool stream = false;
  bool include_usage = false;
  bool cache_prompt = true;
  bool ignore_eos = false;
  bool return_tokens = false;
  bool return_progress = false;
  bool timings_per_token = false;
  bool post_sampling_probs = false;
  bool logprobs = false;  ///< OpenAI's `logprobs` of the chat route
  int32_t n_predict = -1;
  int32_t n_choices = 1;
  int32_t n_probs = 0;
  int32_t id_slot = -1;
  int32_t n_keep = 0;
  int32_t n_discard = 0;
  int32_t sse_ping_seconds = 30;
  int32_t t_max_predict_ms = -1;
  int32_t reasoning_budget = -1;
  std::string reasoning_budget_message;
  std::vector<std::string> stop;
  std::vector<std::string> response_fields;
  bool special = false;  ///< print control tokens

  bool wants_probs() const { return n_probs > 0 || logprobs; }
};

/// The server's defaults.
GenerationRequest defaults(const Context& context, Api api);

/// /completion and /v1/completions. Tokenizes; checks the prompt against the context.
ApiResult<GenerationRequest> parse_completion(const Context& context, const Json& body, Api api);

/// /v1/chat/completions. Renders and tokenizes.
ApiResult<GenerationRequest> parse_chat(const Context& context, const Json& body);

/// The rendered prompt of a chat request, for /apply-template.
ApiResult<std::vector<chat::Segment>> render_chat(const Context& context, const Json& body);

/// Ids of a prompt in any of its forms: a string, ids, or both mixed.
ApiResult<std::vector<int32_t>> prompt_ids(const Context& context, const Json& prompt,
                                           const std::string& field, bool parse_special);

/// `generation_settings` of replies and `params` of /props and /slots (`reduced`).
Json generation_settings(const Context& context, const GenerationRequest& request, bool reduced);

}  // namespace fl::server
