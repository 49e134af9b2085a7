#include "server/errors.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

namespace fl::server {

tl::unexpected<ApiError> refuse(ApiError error) {
  return tl::unexpected<ApiError>(std::move(error));
}

ApiError bad_field(const std::string& field, const std::string& message) {
  ApiError error = bad_request(fmt::format("field '{}': {}", field, message));
  error.param = field;
  return error;
}

ApiError bad_request(std::string message) {
  return {.status = 400, .type = "invalid_request_error", .message = std::move(message)};
}

ApiError too_long(int32_t n_prompt_tokens, int32_t n_ctx) {
  return {.status = 400,
          .type = "exceed_context_size_error",
          .message = fmt::format(
              "the prompt has {} tokens and the context holds {} tokens; it is never cut silently",
              n_prompt_tokens, n_ctx),
          .param = {},
          .n_prompt_tokens = n_prompt_tokens,
          .n_ctx = n_ctx};
}

ApiError not_supported(std::string message) {
  return {.status = 501, .type = "not_supported_error", .message = std::move(message)};
}

ApiError unavailable(std::string message, int retry_after_s) {
  ApiError error{.status = 503, .type = "unavailable_error", .message = std::move(message)};
  error.retry_after_s = retry_after_s;
  return error;
}

ApiError not_found(std::string message) {
  return {.status = 404, .type = "not_found_error", .message = std::move(message)};
}

ApiError from(const Error& error) {
  constexpr int kBusyRetrySeconds = 1;
  switch (error.code) {
    case ErrorCode::invalid_argument:
      return bad_request(error.message);
    case ErrorCode::unsupported:
      return not_supported(error.message);
    case ErrorCode::unavailable:
    case ErrorCode::does_not_fit:
      return unavailable(error.message, kBusyRetrySeconds);
    case ErrorCode::not_found:
      return not_found(error.message);
    default:
      // The text may name files and memory of this machine: it goes to the log, not to the client.
      spdlog::error("request failed: {}", error.message);
      return {.status = 500, .type = "server_error", .message = "the server failed; its log says how"};
  }
}

Json to_json(const ApiError& error) {
  Json inner = {{"code", error.status}, {"message", error.message}, {"type", error.type}};
  if (!error.param.empty()) {
    inner["param"] = error.param;
  }
  if (error.n_ctx > 0) {
    inner["n_prompt_tokens"] = error.n_prompt_tokens;
    inner["n_ctx"] = error.n_ctx;
    inner["reason"] = "context_length_exceeded";
  }
  return {{"error", std::move(inner)}};
}

std::string body(const ApiError& error) {
  return dump(to_json(error));
}

}  // namespace fl::server
