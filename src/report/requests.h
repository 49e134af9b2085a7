// The bodies of the requests that are sent, shared by calibration and measurement.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace fl::report {

/// A streamed chat with a fixed number of answer tokens. `filled` (may be empty) is a first turn of the user,
/// so that `prompt` is a later turn: the way a long conversation grows.
inline nlohmann::json chat_body(std::string_view model, std::string_view filled, std::string_view prompt,
                                int64_t max_tokens, bool extensions) {
  nlohmann::json messages = nlohmann::json::array();
  if (!filled.empty()) {
    messages.push_back({{"role", "user"}, {"content", filled}});
    if (!prompt.empty()) {
      messages.push_back({{"role", "assistant"}, {"content", "I have read it."}});
    }
  }
  if (!prompt.empty()) {
    messages.push_back({{"role", "user"}, {"content", prompt}});
  }
  nlohmann::json body = {{"model", model},
                         {"messages", std::move(messages)},
                         {"stream", true},
                         {"stream_options", {{"include_usage", true}}},
                         {"max_tokens", max_tokens}};
  if (extensions) {
    body["ignore_eos"] = true;    // llama-server, vLLM
    body["cache_prompt"] = true;  // llama-server
  }
  return body;
}

}  // namespace fl::report
