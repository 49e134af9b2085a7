// One completion of an OpenAI-compatible server as its user sees it: text, times of every chunk, token counts
// as the server states them, and how it ended.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "client/http.h"

namespace fl::client {

/// Status is data: a truncated answer is not a wrong one, a broken stream is not a short one.
enum class Outcome {
  ok,         ///< finish_reason "stop" or "tool_calls", and "length" when the caller asked for exactly that
  truncated,  ///< finish_reason "length", or the stream ended without one
  error,      ///< an HTTP status, an error event, a broken connection
  timeout,
  cancelled,
};
std::string_view outcome_name(Outcome outcome);

/// Counts as the server states them; -1: it does not.
struct Usage {
  int64_t prompt_tokens = -1;
  int64_t completion_tokens = -1;
  int64_t cached_tokens = -1;  ///< usage.prompt_tokens_details.cached_tokens, or timings.cache_n
};

/// llama-server's `timings`, when sent: the server's own clock.
struct ServerTimings {
  double prompt_ms = 0;
  double predicted_ms = 0;
  int64_t prompt_n = 0;
  int64_t predicted_n = 0;
};

/// Seconds are from the moment before the request was sent, on the steady clock.
struct Completion {
  Outcome outcome = Outcome::error;
  std::string error;
  long http_status = 0;
  std::string content;
  std::string reasoning;
  std::string finish_reason;
  std::vector<double> chunk_seconds;  ///< of each chunk with text, reasoning included
  double first_token = -1;            ///< TTFT: first non-empty chunk, reasoning included; -1: none
  double first_answer = -1;           ///< first chunk of content
  double total = 0;
  Usage usage;
  std::optional<ServerTimings> timings;
  int64_t n_tool_calls = 0;
};

struct CompletionOptions {
  Limits limits;
  bool length_is_ok = false;  ///< the caller asked for a fixed number of tokens
  std::function<void(std::string_view text, bool is_reasoning)> on_text;
};

/// POSTs `body` to `path` ("/v1/chat/completions" or "/v1/completions") and reads the answer, an event stream
/// when the body says `"stream": true`. Never throws for what the server does.
Completion complete(const Endpoint& endpoint, std::string_view path, const nlohmann::json& body,
                    const CompletionOptions& options);

}  // namespace fl::client
