// The HTTP server: llama-server's routes and shapes, and the OpenAI API. It joins `chat` and `engine`.
//
// Two phases, so that a port in use is said before a model is loaded and a proxy can ask /health from the
// first moment:
//
//     FL_ASSIGN(auto server, Server::listen(options));   // bound; every route answers 503 "Loading model"
//     ... load the model on this thread ...
//     FL_TRY(server->set_model(std::move(loaded)));      // from here on requests are served
//     const int signal = server->wait();                 // until request_stop() or a signal; drains
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "chat/chat.h"
#include "engine/engine.h"
#include "tokenizer/tokenizer.h"

namespace fl::server {

/// --reasoning: whether the template renders a thought. `automatic` is the template's own default, which is
/// on.
enum class Reasoning : uint8_t { automatic, on, off };

struct Cors {
  std::string origins =
      "*";  ///< "*" echoes the request's origin; "localhost" only those of this machine; else verbatim
  std::string methods = "GET, POST, DELETE, OPTIONS";
  std::string headers = "*";
  bool credentials = true;
};

/// What a request does not say. Names of flags in brackets.
struct RequestDefaults {
  engine::SamplingParams sampling;  ///< [--temp, --top-k, ... --seed]; dry_breakers stays empty, see below
  std::vector<std::string> dry_breakers{"\n", ":", "\"", "*"};  ///< [--dry-sequence-breaker]
  std::vector<std::string> logit_bias;                          ///< [--logit-bias] "15043+1" or "15043-inf"
  int32_t n_predict = -1;         ///< [--n-predict] -1: until the context is full
  std::vector<std::string> stop;  ///< [--reverse-prompt] used when a request names none
  bool ignore_eos = false;        ///< [--ignore-eos]
  bool cache_prompt = true;       ///< [--cache-prompt]
  bool special = false;           ///< [--special] print control tokens
  // Chat
  bool jinja = true;               ///< [--jinja] off: the built-in ChatML frame, no tools
  bool prefill_assistant = true;   ///< [--prefill-assistant] a last assistant message is continued
  bool skip_chat_parsing = false;  ///< [--skip-chat-parsing] everything is content
  Reasoning reasoning = Reasoning::automatic;                                ///< [--reasoning]
  chat::ReasoningFormat reasoning_format = chat::ReasoningFormat::deepseek;  ///< [--reasoning-format]
  int32_t reasoning_budget = -1;  ///< [--reasoning-budget] tokens of thought; -1: no limit
  std::string
      reasoning_budget_message;      ///< [--reasoning-budget-message] written before the thought is closed
  bool reasoning_preserve = true;    ///< [--reasoning-preserve] template variable preserve_thinking
  std::string reasoning_effort;      ///< [--reasoning-effort] template variable; empty: not set
  std::string chat_template_kwargs;  ///< [--chat-template-kwargs] text of a JSON object; empty: none
};

/// Limits against clients that are slow, greedy or hostile. All are bounds, none is needed for speed.
struct Limits {
  int32_t max_connections = 1024;  ///< further ones are answered 503 and closed
  uint64_t max_header_bytes = 64 * 1024;
  uint64_t max_body_bytes = 64ULL << 20;     ///< of one request: 413
  uint64_t max_bodies_bytes = 256ULL << 20;  ///< of all requests that are being read or answered: 503
  double header_seconds = 10;                ///< from the first byte of a request to the end of its header
  double body_seconds = 30;                  ///< plus the time that its bytes take at min_body_rate
  double min_body_rate = 16 * 1024;          ///< bytes/s
  double idle_seconds = 60;                  ///< between requests of a connection
  double write_seconds = 30;                 ///< without progress of a reader; [--timeout] when that is less
  double drain_seconds = 3;                  ///< for running requests after the first signal
};

struct ServerOptions {
  // Listening
  std::vector<std::string> hosts{
      "127.0.0.1"};             ///< [--host] addresses or names, or one path ending in ".sock"
  uint16_t port = 8080;         ///< [--port] 0: a free one, see Server::port()
  bool reuse_port = false;      ///< [--reuse-port]
  int32_t n_threads = 0;        ///< [--threads-http] 0: chosen
  bool handle_signals = false;  ///< SIGINT and SIGTERM: the first drains, the second ends the process at once
  std::string api_prefix;       ///< [--api-prefix] "/v" in front of all routes
  Cors cors;                    ///< [--cors-*]
  std::vector<std::string> api_keys;  ///< [--api-key, --api-key-file]; empty: no key is asked for
  Limits limits;
  double timeout_seconds = 3600;  ///< [--timeout] upper bound of the seconds of `limits`
  int32_t sse_ping_seconds = 30;  ///< [--sse-ping-interval] comment on a silent stream; -1: never
  // Routes
  bool metrics = false;     ///< [--metrics]
  bool slots = true;        ///< [--slots]
  bool props = false;       ///< [--props] POST /props
  bool ui = true;           ///< [--ui] the page at "/"
  bool slot_erase = false;  ///< [--slot-save-path was given] POST /slots/{id}?action=erase
  // The model's names
  std::vector<std::string> aliases;  ///< [--alias] the first in the alphabet is the model's id
  std::vector<std::string> tags;     ///< [--tags]
  std::string model_path;            ///< shown by /props; its file name is the id when there is no alias
  std::string build_info = "b1-freelunch";  ///< system_fingerprint; clients want it to begin with "b"
  RequestDefaults defaults;
};

/// Reads keys from a file: one a line, '#' begins a comment line. [--api-key-file]
Result<std::vector<std::string>> read_api_keys(const std::string& path);

/// Range checks of the defaults by the table that checks requests, so that `--top-p 7` is refused before a
/// model loads. invalid_argument names the field, the expected and the found value.
Status check(const RequestDefaults& defaults);

struct LoadedModel {
  std::unique_ptr<engine::Engine> engine;
  tokenizer::Tokenizer tokenizer;
  std::optional<chat::Template> chat_template;  ///< none: the built-in ChatML frame
  uint64_t n_params = 0;
  uint64_t n_bytes = 0;        ///< of the file
  std::string ftype;           ///< "Q4_K - Medium"
  model::DeviceLimits limits;  ///< zeros: not measured
  bool has_projector = false;  ///< --mmproj was given and is valid; images are refused until vision is built
};

class Server {
 public:
  /// Binds and begins to answer. ErrorCode::address names host and port; invalid_argument names the option.
  static Result<std::unique_ptr<Server>> listen(ServerOptions options);
  ~Server();  ///< stops without draining if wait() did not
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;                       ///< the port in use; 0 on a Unix socket
  std::vector<std::string> addresses() const;  ///< "http://127.0.0.1:8080", "unix:/run/x.sock"

  /// Once. Renders a one-message chat first: a template that cannot is invalid_argument here, not at a
  /// request.
  Status set_model(LoadedModel model);

  /// Blocks until request_stop(), a signal or the loss of the device, then drains: no new requests, running
  /// ones get `drain_seconds`, then a final error event. Returns the signal, 0 without one. The engine is
  /// gone when it returns.
  int wait();
  /// Why wait() returned by itself: the engine's device is lost. The requests it held have had their 500,
  /// /health has said it since, and nothing but another process can help.
  bool device_lost() const noexcept;
  /// From any thread and from a signal handler.
  void request_stop() noexcept;
  bool stopping() const noexcept;

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// docs/api.md, made from the table of fields.
std::string api_docs();

}  // namespace fl::server
