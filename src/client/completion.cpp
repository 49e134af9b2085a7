#include "client/completion.h"

#include <chrono>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "client/sse.h"

namespace fl::client {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxErrorText = 500;

const Json* member(const Json& object, const char* name) {
  if (!object.is_object()) {
    return nullptr;
  }
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string text_of(const Json& object, const char* name) {
  const Json* value = member(object, name);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

void read_count(const Json& object, const char* name, int64_t& out) {
  if (const Json* value = member(object, name); value != nullptr && value->is_number_integer()) {
    out = value->get<int64_t>();
  }
}

void read_ms(const Json& object, const char* name, double& out) {
  if (const Json* value = member(object, name); value != nullptr && value->is_number()) {
    out = value->get<double>();
  }
}

std::string error_text(const Json& error) {
  const std::string message = text_of(error, "message");
  const std::string text = !message.empty()    ? message
                           : error.is_string() ? error.get<std::string>()
                                               : error.dump();
  return text.substr(0, kMaxErrorText);
}

// Collects the pieces of one completion.
class Reader {
 public:
  Reader(Completion& out, const CompletionOptions& options)
      : out_(out), options_(options), start_(Clock::now()) {}

  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  // An event of the stream, or the whole body.
  void read(std::string_view text) {
    if (text == "[DONE]") {
      return;
    }
    const Json event = Json::parse(text, nullptr, false);
    if (event.is_discarded() || !event.is_object()) {
      error_ = fmt::format("the server sent something that is not a JSON object: {}", text.substr(0, 80));
      return;
    }
    if (const Json* error = member(event, "error")) {
      error_ = error_text(*error);
      return;
    }
    read_usage(event);
    if (const Json* choices = member(event, "choices");
        choices != nullptr && choices->is_array() && !choices->empty()) {
      read_choice(choices->front());
    }
  }

  void finish(const HttpResult& http) {
    out_.total = elapsed();
    out_.http_status = http.response.status;
    if (http.fault == TransportFault::timeout) {
      return end(Outcome::timeout, http.error);
    }
    if (http.fault == TransportFault::cancelled) {
      return end(Outcome::cancelled, http.error);
    }
    if (!error_.empty()) {
      return end(Outcome::error, error_);
    }
    if (http.fault != TransportFault::none) {
      return end(Outcome::error, http.error);
    }
    if (http.response.status != 200) {
      const Json body = Json::parse(http.response.body, nullptr, false);
      const Json* error = body.is_discarded() ? nullptr : member(body, "error");
      return end(Outcome::error, fmt::format("HTTP {}: {}", http.response.status,
                                             error != nullptr ? error_text(*error)
                                                              : http.response.body.substr(0, kMaxErrorText)));
    }
    if (out_.finish_reason.empty()) {
      return end(Outcome::truncated, "the answer ended without a finish_reason");
    }
    if (out_.finish_reason == "length" && !options_.length_is_ok) {
      return end(Outcome::truncated, "the answer reached the token limit");
    }
    end(Outcome::ok, "");
  }

 private:
  void end(Outcome outcome, std::string error) {
    out_.outcome = outcome;
    out_.error = std::move(error);
  }

  void read_usage(const Json& event) {
    if (const Json* usage = member(event, "usage")) {
      read_count(*usage, "prompt_tokens", out_.usage.prompt_tokens);
      read_count(*usage, "completion_tokens", out_.usage.completion_tokens);
      if (const Json* details = member(*usage, "prompt_tokens_details")) {
        read_count(*details, "cached_tokens", out_.usage.cached_tokens);
      }
    }
    if (const Json* timings = member(event, "timings")) {
      ServerTimings read;
      read_ms(*timings, "prompt_ms", read.prompt_ms);
      read_ms(*timings, "predicted_ms", read.predicted_ms);
      read_count(*timings, "prompt_n", read.prompt_n);
      read_count(*timings, "predicted_n", read.predicted_n);
      if (out_.usage.cached_tokens < 0) {
        read_count(*timings, "cache_n", out_.usage.cached_tokens);
      }
      out_.timings = read;
    }
  }

  void read_choice(const Json& choice) {
    const Json* part = member(choice, "delta");
    if (part == nullptr) {
      part = member(choice, "message");
    }
    const Json& source = part != nullptr ? *part : choice;
    // "reasoning" is vLLM's newer name of the field.
    std::string reasoning = text_of(source, "reasoning_content");
    if (reasoning.empty()) {
      reasoning = text_of(source, "reasoning");
    }
    const std::string content = part != nullptr ? text_of(source, "content") : text_of(choice, "text");
    const Json* calls = member(source, "tool_calls");
    if (calls != nullptr && calls->is_array()) {
      for (const Json& call : *calls) {
        out_.n_tool_calls += member(call, "id") != nullptr ? 1 : 0;
      }
    }
    if (!reasoning.empty() || !content.empty() || calls != nullptr) {
      const double now = elapsed();
      out_.chunk_seconds.push_back(now);
      if (out_.first_token < 0) {
        out_.first_token = now;
      }
      if (!content.empty() && out_.first_answer < 0) {
        out_.first_answer = now;
      }
      out_.reasoning += reasoning;
      out_.content += content;
      if (options_.on_text) {
        if (!reasoning.empty()) {
          options_.on_text(reasoning, true);
        }
        if (!content.empty()) {
          options_.on_text(content, false);
        }
      }
    }
    if (const std::string reason = text_of(choice, "finish_reason"); !reason.empty()) {
      out_.finish_reason = reason;
    }
  }

  Completion& out_;
  const CompletionOptions& options_;
  Clock::time_point start_;

  std::string error_;
};

}  // namespace

std::string_view outcome_name(Outcome outcome) {
  switch (outcome) {
    case Outcome::ok:
      return "ok";
    case Outcome::truncated:
      return "truncated";
    case Outcome::error:
      return "error";
    case Outcome::timeout:
      return "timeout";
    case Outcome::cancelled:
      return "cancelled";
  }
  return "error";
}

Completion complete(const Endpoint& endpoint, std::string_view path, const nlohmann::json& body,
                    const CompletionOptions& options) {
  Completion out;
  const bool stream = body.is_object() && body.value("stream", false);
  const std::string text = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  SseSplitter splitter;
  Reader reader(out, options);
  std::string whole;
  const auto on_bytes = [&](std::string_view bytes) {
    if (!stream) {
      whole += bytes;
      return true;
    }
    return splitter.feed(bytes, [&](std::string_view data) { reader.read(data); });
  };
  const HttpResult http = http_post(endpoint, path, text, options.limits, on_bytes);
  if (!stream && !whole.empty()) {
    reader.read(whole);
  }
  reader.finish(http);
  return out;
}

}  // namespace fl::client
