// What the server does with a request, apart from moving its bytes: checks, routes, answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "server/auth.h"
#include "server/errors.h"
#include "server/metrics.h"
#include "server/request.h"
#include "server/server.h"

namespace fl::server {

class Context;

/// The head of a request. Header values that are absent are nullopt.
struct RequestHead {
  std::string method;
  std::string path;  ///< decoded, without the API prefix
  std::string query;
  std::optional<std::string> origin, authorization, x_api_key;
};

struct Reply {
  int status = 200;
  std::string content_type = "application/json; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

enum class Route : uint8_t {
  health,
  models,
  model,
  props,
  set_props,
  slots,
  slot_action,
  metrics,
  tokenize,
  detokenize,
  apply_template,
  count_tokens,
  completion,
  oai_completion,
  chat,
  lora,
  page,
  not_built
};

/// A request that may be answered: who asks and for what.
struct Admitted {
  Route route = Route::health;
  uint64_t cache_salt = 0;
  std::string argument;             ///< the id in /slots/{id} and /models/{id}
  const char* not_built = nullptr;  ///< what Route::not_built is
};

class Service {
 public:
  explicit Service(ServerOptions options);

  const ServerOptions& options() const { return options_; }
  Metrics& metrics() { return metrics_; }
  void set_context(std::shared_ptr<const Context> context);
  std::shared_ptr<const Context> context() const;  ///< null while loading
  void stop() { stopping_ = true; }
  bool stopping() const { return stopping_; }

  /// Splits the target; false when it is not a path.
  bool parse_target(std::string_view target, RequestHead& head) const;

  /// All that can be said before the body is read, in llama-server's order: OPTIONS, loading, key, route,
  /// method.
  std::variant<Reply, Admitted> admit(const RequestHead& head) const;

  /// The answer, or a generation to run. May take as long as its body is large.
  std::variant<Reply, GenerationRequest> handle(const RequestHead& head, const Admitted& admitted,
                                                const std::string& body);

  std::vector<std::pair<std::string, std::string>> cors_headers(const RequestHead& head,
                                                                bool preflight) const;

 private:
  Reply health(const Context& context) const;
  Reply models(const Context& context, const Admitted& admitted) const;
  Reply props(const Context& context) const;
  Reply slots(const Context& context, const RequestHead& head) const;
  Reply slot_action(const Context& context, const RequestHead& head, const Admitted& admitted) const;
  Reply tokenize(const Context& context, const Json& body) const;
  Reply detokenize(const Context& context, const Json& body) const;

  ServerOptions options_;
  ApiKeys keys_;
  Metrics metrics_;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::shared_ptr<const Context> context_;
};

/// The page at "/".
std::string page(const Context& context);

Reply reply(const ApiError& error);
Reply reply(const Json& value);

}  // namespace fl::server
