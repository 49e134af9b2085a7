// One blocking HTTP request, bounded in time and bytes, that another thread can stop.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fl::client {

struct Endpoint {
  std::string url = "http://127.0.0.1:8080";  ///< scheme, host and port; a path in front of the routes is
                                              ///< kept ("…/v1" is cut)
  std::string api_key;                        ///< sent as "Authorization: Bearer"; empty: none
};

/// Checks the scheme, cuts a trailing "/" and "/v1". Errors: invalid_argument.
Result<Endpoint> parse_endpoint(std::string_view url, std::string api_key);

struct Limits {
  double connect_seconds = 10;
  double total_seconds = 600;
  double silence_seconds = 120;  ///< without any byte
  size_t max_bytes = size_t{64} << 20;
  const std::atomic<bool>* cancel = nullptr;  ///< becomes true: the request ends soon after
};

struct HttpResponse {
  long status = 0;  ///< 0: no answer
  std::string content_type;
  std::string body;  ///< what `on_bytes` did not take
};

enum class TransportFault { none, refused, timeout, cancelled, broken, too_long };

struct HttpResult {
  HttpResponse response;
  TransportFault fault = TransportFault::none;
  std::string error;  ///< one sentence with the address, when fault != none
};

/// `on_bytes` gets the body of a 200 as it arrives; false ends the transfer. Thread-safe.
HttpResult http_get(const Endpoint& endpoint, std::string_view path, const Limits& limits);
HttpResult http_post(const Endpoint& endpoint, std::string_view path, std::string_view json,
                     const Limits& limits, const std::function<bool(std::string_view)>& on_bytes = {});

}  // namespace fl::client
