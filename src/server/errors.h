// Errors as clients see them: {"error": {"code", "message", "type"}}, llama-server's shape, with OpenAI's
// `param` where a field is at fault.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <tl/expected.hpp>

#include "base/result.h"
#include "server/json.h"

namespace fl::server {

struct ApiError {
  int status = 500;
  std::string type = "server_error";
  std::string message;
  std::string param;            ///< the field at fault, or empty
  int32_t n_prompt_tokens = 0;  ///< with n_ctx: the prompt was too long
  int32_t n_ctx = 0;
  int retry_after_s = 0;  ///< > 0: header Retry-After
};

template <typename T>
using ApiResult = tl::expected<T, ApiError>;

tl::unexpected<ApiError> refuse(ApiError error);

ApiError bad_field(const std::string& field, const std::string& message);  ///< 400, names the field
ApiError bad_request(std::string message);                                 ///< 400
ApiError too_long(int32_t n_prompt_tokens, int32_t n_ctx);                 ///< 400 exceed_context_size_error
ApiError not_supported(std::string message);                               ///< 501
ApiError unavailable(std::string message, int retry_after_s);              ///< 503
ApiError not_found(std::string message);                                   ///< 404
/// By the kind of failure; internal ones keep their text for the log and show a fixed sentence.
ApiError from(const Error& error);

/// The whole body.
std::string body(const ApiError& error);
Json to_json(const ApiError& error);

}  // namespace fl::server
