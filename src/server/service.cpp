#include "server/service.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/context.h"
#include "server/fields.h"

namespace fl::server {
namespace {

struct RouteRow {
  std::string_view method;
  std::string_view path;
  Route route;
  const char* not_built = nullptr;
};

constexpr std::array kRoutes{
    RouteRow{"GET", "/health", Route::health},
    RouteRow{"GET", "/v1/health", Route::health},
    RouteRow{"GET", "/models", Route::models},
    RouteRow{"GET", "/v1/models", Route::models},
    RouteRow{"GET", "/props", Route::props},
    RouteRow{"POST", "/props", Route::set_props},
    RouteRow{"GET", "/slots", Route::slots},
    RouteRow{"GET", "/metrics", Route::metrics},
    RouteRow{"POST", "/tokenize", Route::tokenize},
    RouteRow{"POST", "/detokenize", Route::detokenize},
    RouteRow{"POST", "/apply-template", Route::apply_template},
    RouteRow{"POST", "/completion", Route::completion},
    RouteRow{"POST", "/completions", Route::completion},
    RouteRow{"POST", "/v1/completions", Route::oai_completion},
    RouteRow{"POST", "/chat/completions", Route::chat},
    RouteRow{"POST", "/v1/chat/completions", Route::chat},
    RouteRow{"POST", "/chat/completions/input_tokens", Route::count_tokens},
    RouteRow{"POST", "/v1/chat/completions/input_tokens", Route::count_tokens},
    RouteRow{"GET", "/lora-adapters", Route::lora},
    RouteRow{"GET", "/", Route::page},
    RouteRow{"POST", "/lora-adapters", Route::not_built, "adapters"},
    RouteRow{"POST", "/infill", Route::not_built, "fill-in-the-middle"},
    RouteRow{"POST", "/responses", Route::not_built, "the Responses API"},
    RouteRow{"POST", "/v1/responses", Route::not_built, "the Responses API"},
    RouteRow{"POST", "/v1/messages", Route::not_built, "the Messages API"},
    RouteRow{"POST", "/v1/messages/count_tokens", Route::not_built, "the Messages API"},
    RouteRow{"POST", "/v1/chat/completions/control", Route::not_built, "control of a running thought"},
    RouteRow{"POST", "/embedding", Route::not_built, "embeddings"},
    RouteRow{"POST", "/embeddings", Route::not_built, "embeddings"},
    RouteRow{"POST", "/v1/embeddings", Route::not_built, "embeddings"},
    RouteRow{"POST", "/rerank", Route::not_built, "reranking"},
    RouteRow{"POST", "/reranking", Route::not_built, "reranking"},
    RouteRow{"POST", "/v1/rerank", Route::not_built, "reranking"},
    RouteRow{"POST", "/v1/reranking", Route::not_built, "reranking"},
    RouteRow{"POST", "/v1/audio/transcriptions", Route::not_built, "audio"},
};

constexpr std::string_view kSlotPrefix = "/slots/";
constexpr std::string_view kModelPrefix = "/v1/models/";

int hex(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0) {
      out += static_cast<char>(hex(text[i + 1]) * 16 + hex(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool is_local(std::string_view origin) {
  const size_t scheme = origin.find("://");
  std::string_view host = scheme == std::string_view::npos ? origin : origin.substr(scheme + 3);
  if (host.starts_with("[")) {
    return host.starts_with("[::1]");
  }
  host = host.substr(0, host.find(':'));
  return host == "localhost" || host == "127.0.0.1";
}

}  // namespace

Reply reply(const ApiError& error) {
  Reply out;
  out.status = error.status;
  out.body = body(error);
  if (error.retry_after_s > 0) {
    out.headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  }
  return out;
}

Reply reply(const Json& value) {
  Reply out;
  out.body = dump(value);
  return out;
}

Service::Service(ServerOptions options) : options_(std::move(options)), keys_(options_.api_keys) {}

void Service::set_context(std::shared_ptr<const Context> context) {
  const std::scoped_lock lock(mutex_);
  context_ = std::move(context);
}

std::shared_ptr<const Context> Service::context() const {
  const std::scoped_lock lock(mutex_);
  return context_;
}

bool Service::parse_target(std::string_view target, RequestHead& head) const {
  if (const size_t scheme = target.find("://");
      !target.starts_with('/') && scheme != std::string_view::npos) {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  if (target != "*" && !target.starts_with('/')) {
    return false;
  }
  const size_t question = target.find('?');
  head.path = percent_decoded(target.substr(0, question));
  head.query = question == std::string_view::npos ? "" : target.substr(question + 1);
  if (!options_.api_prefix.empty() && head.path.starts_with(options_.api_prefix)) {
    head.path.erase(0, options_.api_prefix.size());
    head.path = head.path.empty() ? "/" : head.path;
  } else if (!options_.api_prefix.empty()) {
    head.path = "/outside-of-the-prefix";
  }
  if (head.path.size() > 1 && head.path.ends_with('/')) {
    head.path.pop_back();
  }
  return true;
}

std::vector<std::pair<std::string, std::string>> Service::cors_headers(const RequestHead& head,
                                                                       bool preflight) const {
  const Cors& cors = options_.cors;
  std::vector<std::pair<std::string, std::string>> out;
  if (cors.origins == "*" && cors.credentials) {
    out.emplace_back("Access-Control-Allow-Origin", head.origin.value_or(""));
    out.emplace_back("Vary", "Origin");
  } else if (cors.origins == "localhost") {
    if (head.origin && is_local(*head.origin)) {
      out.emplace_back("Access-Control-Allow-Origin", *head.origin);
      out.emplace_back("Vary", "Origin");
    }
  } else {
    out.emplace_back("Access-Control-Allow-Origin", cors.origins);
  }
  if (preflight) {
    out.emplace_back("Access-Control-Allow-Credentials", cors.credentials ? "true" : "false");
    out.emplace_back("Access-Control-Allow-Methods", cors.methods);
    out.emplace_back("Access-Control-Allow-Headers", cors.headers);
  }
  return out;
}

std::variant<Reply, Admitted> Service::admit(const RequestHead& head) const {
  constexpr int kLoadingRetrySeconds = 2;
  if (head.method == "OPTIONS") {
    Reply out;  // without a body, which must not be said to be JSON; llama-server says this
    out.content_type = "text/html; charset=utf-8";
    out.headers = cors_headers(head, true);
    return out;
  }
  if (stopping()) {
    return reply(unavailable("the server is shutting down", kLoadingRetrySeconds));
  }
  if (context() == nullptr) {
    return reply(unavailable("Loading model", kLoadingRetrySeconds));
  }
  const std::string_view method = head.method == "HEAD" ? "GET" : std::string_view(head.method);
  const RouteRow* found = nullptr;
  std::string allowed;
  for (const RouteRow& row : kRoutes) {
    if (row.path == head.path) {
      found = row.method == method ? &row : found;
      allowed += std::string(allowed.empty() ? "" : ", ") + std::string(row.method);
    }
  }
  Admitted admitted;
  if (found != nullptr) {
    admitted.route = found->route;
    admitted.not_built = found->not_built;
  }
  const bool open = found != nullptr && (found->route == Route::health || found->route == Route::page);
  if (!open) {
    const auto salt = keys_.admit(head.authorization, head.x_api_key);
    if (!salt) {
      Reply out =
          reply(ApiError{.status = 401, .type = "authentication_error", .message = "Invalid API Key"});
      out.headers.emplace_back("WWW-Authenticate", "Bearer");
      return out;
    }
    admitted.cache_salt = *salt;
  }
  if (found != nullptr && (found->route != Route::page || options_.ui)) {
    return admitted;
  }
  const auto with_argument = [&](std::string_view prefix, std::string_view wanted, Route route) {
    if (!head.path.starts_with(prefix) || head.path.size() == prefix.size()) {
      return false;
    }
    allowed = wanted;
    admitted.route = route;
    admitted.argument = head.path.substr(prefix.size());
    return method == wanted;
  };
  if (with_argument(kSlotPrefix, "POST", Route::slot_action) ||
      with_argument(kModelPrefix, "GET", Route::model)) {
    return admitted;
  }
  if (!allowed.empty() && head.path != "/") {
    Reply out = reply(ApiError{.status = 405,
                               .type = "invalid_request_error",
                               .message = fmt::format("expected {} for {}, found {}", allowed,
                                                      head.path.substr(0, 100), head.method.substr(0, 20))});
    out.headers.emplace_back("Allow", allowed);
    return out;
  }
  return reply(not_found("File Not Found"));
}

std::variant<Reply, GenerationRequest> Service::handle(const RequestHead& head, const Admitted& admitted,
                                                       const std::string& text) {
  const std::shared_ptr<const Context> held = context();
  if (held == nullptr) {
    return reply(unavailable("the server is shutting down", 1));
  }
  const Context& context = *held;
  Json body = Json::object();
  const bool takes_body = admitted.route == Route::tokenize || admitted.route == Route::detokenize ||
                          admitted.route == Route::apply_template || admitted.route == Route::count_tokens ||
                          admitted.route == Route::completion || admitted.route == Route::oai_completion ||
                          admitted.route == Route::chat;
  if (takes_body) {
    if (auto parsed = parse_json(text, body); !parsed) {
      return reply(bad_request(parsed.error().message));
    }
    if (!body.is_object()) {
      return reply(bad_request("expected a JSON object as the body, found " + excerpt(body)));
    }
  }
  const auto generation = [](ApiResult<GenerationRequest> parsed) -> std::variant<Reply, GenerationRequest> {
    if (!parsed) {
      return reply(parsed.error());
    }
    return std::move(*parsed);
  };
  switch (admitted.route) {
    case Route::health:
      return health(context);
    case Route::models:
    case Route::model:
      return models(context, admitted);
    case Route::props:
      return props(context);
    case Route::set_props:
      return options_.props ? reply(Json{{"success", true}})
                            : reply(not_supported("POST /props needs the server's flag --props"));
    case Route::slots:
      return slots(context, head);
    case Route::slot_action:
      return slot_action(context, head, admitted);
    case Route::metrics: {
      if (!options_.metrics) {
        return reply(not_supported("GET /metrics needs the server's flag --metrics"));
      }
      Reply out;
      out.content_type = "text/plain; version=0.0.4";
      out.body = metrics_.render(context.engine().stats());
      return out;
    }
    case Route::tokenize:
      return tokenize(context, body);
    case Route::detokenize:
      return detokenize(context, body);
    case Route::apply_template: {
      const auto segments = render_chat(context, body);
      return segments ? reply(Json{{"prompt", chat::join(*segments)}}) : reply(segments.error());
    }
    case Route::count_tokens: {
      const auto segments = render_chat(context, body);
      return segments ? reply(Json{{"input_tokens", chat::encode(context.tokenizer(), *segments).size()},
                                   {"object", "response.input_tokens"}})
                      : reply(segments.error());
    }
    case Route::completion:
      return generation(parse_completion(context, body, Api::completion));
    case Route::oai_completion:
      return generation(parse_completion(context, body, Api::oai_completion));
    case Route::chat:
      return generation(parse_chat(context, body));
    case Route::lora:
      return reply(Json::array());
    case Route::page: {
      Reply out;
      out.content_type = "text/html; charset=utf-8";
      out.body = page(context);
      out.headers.emplace_back("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'");
      return out;
    }
    case Route::not_built:
      return reply(not_supported(
          fmt::format("{} is known and not built into this server: {}", head.path, admitted.not_built)));
  }
  return reply(not_found("File Not Found"));
}

}  // namespace fl::server
