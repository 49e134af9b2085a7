#include "client/http.h"

#include <array>
#include <memory>
#include <mutex>

#include <curl/curl.h>
#include <fmt/format.h>

namespace fl::client {
namespace {

struct Transfer {
  CURL* curl = nullptr;
  const Limits* limits = nullptr;
  const std::function<bool(std::string_view)>* on_bytes = nullptr;
  HttpResponse* response = nullptr;
  size_t n_bytes = 0;
  bool too_long = false;
  bool stopped = false;
};

size_t write_body(char* data, size_t size, size_t count, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  const size_t n = size * count;
  transfer.n_bytes += n;
  if (transfer.n_bytes > transfer.limits->max_bytes) {
    transfer.too_long = true;
    return 0;
  }
  long status = 0;
  curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status == 200 && *transfer.on_bytes) {
    if (!(*transfer.on_bytes)({data, n})) {
      transfer.stopped = true;
      return 0;
    }
  } else {
    transfer.response->body.append(data, n);
  }
  return n;
}

int check_cancel(void* context, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto& transfer = *static_cast<const Transfer*>(context);
  return transfer.limits->cancel != nullptr && transfer.limits->cancel->load() ? 1 : 0;
}

TransportFault fault_of(CURLcode code, const Transfer& transfer) {
  if (transfer.too_long) {
    return TransportFault::too_long;
  }
  switch (code) {
    case CURLE_OK:
      return TransportFault::none;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
      return TransportFault::refused;
    case CURLE_OPERATION_TIMEDOUT:
      return TransportFault::timeout;
    case CURLE_ABORTED_BY_CALLBACK:
      return TransportFault::cancelled;
    default:
      return transfer.stopped ? TransportFault::none : TransportFault::broken;
  }
}

HttpResult perform(const Endpoint& endpoint, std::string_view path, const std::string_view* json,
                   const Limits& limits, const std::function<bool(std::string_view)>& on_bytes) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  HttpResult result;
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
  if (!curl) {
    result.fault = TransportFault::broken;
    result.error = "no memory for a request";
    return result;
  }
  Transfer transfer{curl.get(), &limits, &on_bytes, &result.response};
  const std::string url = endpoint.url + std::string(path);
  std::array<char, CURL_ERROR_SIZE> why{};
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(nullptr, curl_slist_free_all);
  const auto add_header = [&](const std::string& text) {
    headers.reset(curl_slist_append(headers.release(), text.c_str()));
  };
  if (!endpoint.api_key.empty()) {
    add_header("Authorization: Bearer " + endpoint.api_key);
  }
  CURL* handle = curl.get();
  curl_easy_setopt(handle, CURLOPT_URL, url.c_str());
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_PROXY, "");
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(limits.connect_seconds * 1000));
  curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, static_cast<long>(limits.total_seconds * 1000));
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, static_cast<long>(limits.silence_seconds));
  curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, why.data());
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, write_body);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, check_cancel);
  curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(handle, CURLOPT_TCP_NODELAY, 1L);
  if (json != nullptr) {
    add_header("Content-Type: application/json");
    add_header("Expect:");  // no round trip before a long prompt
    curl_easy_setopt(handle, CURLOPT_POST, 1L);
    curl_easy_setopt(handle, CURLOPT_POSTFIELDS, json->data());
    curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(json->size()));
  }
  curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers.get());
  const CURLcode code = curl_easy_perform(handle);
  curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &result.response.status);
  const char* type = nullptr;
  if (curl_easy_getinfo(handle, CURLINFO_CONTENT_TYPE, &type) == CURLE_OK && type != nullptr) {
    result.response.content_type = type;
  }
  result.fault = fault_of(code, transfer);
  if (result.fault == TransportFault::too_long) {
    result.error = fmt::format("{}: the answer is longer than {} bytes", url, limits.max_bytes);
  } else if (result.fault != TransportFault::none) {
    result.error = fmt::format("{}: {}", url, why[0] != '\0' ? why.data() : curl_easy_strerror(code));
  }
  return result;
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view url, std::string api_key) {
  if (!url.starts_with("http://") && !url.starts_with("https://")) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("expected a URL such as http://127.0.0.1:8080, found '{}'", url));
  }
  while (url.ends_with('/')) {
    url.remove_suffix(1);
  }
  if (url.ends_with(':')) {
    return fail(ErrorCode::invalid_argument, fmt::format("the URL '{}//' has no host", url));
  }
  if (url.ends_with("/v1")) {
    url.remove_suffix(3);
  }
  return Endpoint{std::string(url), std::move(api_key)};
}

HttpResult http_get(const Endpoint& endpoint, std::string_view path, const Limits& limits) {
  return perform(endpoint, path, nullptr, limits, {});
}

HttpResult http_post(const Endpoint& endpoint, std::string_view path, std::string_view json,
                     const Limits& limits, const std::function<bool(std::string_view)>& on_bytes) {
  return perform(endpoint, path, &json, limits, on_bytes);
}

}  // namespace fl::client
