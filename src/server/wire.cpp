#include "server/wire.h"

#include <iterator>

#include <fmt/format.h>
#include <boost/beast/http/status.hpp>

namespace fl::server {

std::string status_line(int status) {
  namespace http = boost::beast::http;
  const auto reason = http::obsolete_reason(static_cast<http::status>(status));
  return fmt::format("HTTP/1.1 {} {}\r\nServer: freelunch\r\n", status,
                     std::string_view(reason.data(), reason.size()));
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
  out += name;
  out += ": ";
  for (const char c : value) {
    out += c == '\r' || c == '\n' ? ' ' : c;
  }
  out += "\r\n";
}

void append_chunk(std::string& out, std::string_view data, bool last, bool http11) {
  if (!http11) {
    out += data;
    return;
  }
  if (!data.empty()) {
    fmt::format_to(std::back_inserter(out), "{:x}\r\n", data.size());
    out += data;
    out += "\r\n";
  }
  if (last) {
    out += "0\r\n\r\n";
  }
}

}  // namespace fl::server
