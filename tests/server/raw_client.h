// A client that sends exactly the bytes that a test gives it.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fl::test {

using Json = nlohmann::ordered_json;

struct Response {
  int status = 0;                              ///< 0: the connection ended before a whole reply
  std::map<std::string, std::string> headers;  ///< names in lower case
  std::string body;
  Json json() const { return Json::parse(body, nullptr, false); }
  std::string header(const std::string& name) const {
    const auto at = headers.find(name);
    return at == headers.end() ? "" : at->second;
  }
};

class RawClient {
 public:
  explicit RawClient(uint16_t port, int receive_buffer = 0) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) {
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    const int one = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  }
  ~RawClient() { close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }
  void close() {
    if (fd_ >= 0) {
      ::close(fd_);
      fd_ = -1;
    }
  }
  /// Closes so that the peer sees a reset.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
  }
  void half_close() { ::shutdown(fd_, SHUT_WR); }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) {
        return false;
      }
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  /// Some bytes; false at the end of the connection or after the time.
  bool receive(int ms = 20000) {
    pollfd p{fd_, POLLIN, 0};
    if (::poll(&p, 1, ms) <= 0) {
      return false;
    }
    char bytes[65536];
    const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
    if (n <= 0) {
      return false;
    }
    buffer_.append(bytes, static_cast<size_t>(n));
    return true;
  }
  const std::string& buffer() const { return buffer_; }
  /// Whether the peer closes within the time.
  bool closed_within(int ms) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (std::chrono::steady_clock::now() < deadline) {
      pollfd p{fd_, POLLIN, 0};
      if (::poll(&p, 1, 20) > 0) {
        char bytes[65536];
        const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
        if (n <= 0) {
          return true;
        }
        buffer_.append(bytes, static_cast<size_t>(n));
      }
    }
    return false;
  }
  bool receive_until(const std::string& text, int ms = 20000) {
    while (buffer_.find(text) == std::string::npos) {
      if (!receive(ms)) {
        return false;
      }
    }
    return true;
  }

  /// One whole reply; what follows it stays in the buffer.
  Response response(bool head_only = false) {
    Response out;
    if (!receive_until("\r\n\r\n")) {
      return out;
    }
    const size_t end = buffer_.find("\r\n\r\n");
    const std::string head = buffer_.substr(0, end);
    buffer_.erase(0, end + 4);
    const int status = std::stoi(head.substr(9, 3));
    size_t at = head.find("\r\n");
    while (at != std::string::npos) {
      const size_t next = head.find("\r\n", at + 2);
      const std::string line = head.substr(at + 2, next == std::string::npos ? next : next - at - 2);
      const size_t colon = line.find(": ");
      std::string name = line.substr(0, colon);
      for (char& c : name) {
        c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      }
      out.headers[name] = colon == std::string::npos ? "" : line.substr(colon + 2);
      at = next;
    }
    if (status == 100) {
      return response(head_only);
    }
    if (head_only) {
      out.status = status;
      return out;
    }
    if (out.header("transfer-encoding") == "chunked") {
      while (true) {
        if (!receive_until("\r\n")) {
          return out;
        }
        const size_t line = buffer_.find("\r\n");
        const size_t n = std::stoul(buffer_.substr(0, line), nullptr, 16);
        while (buffer_.size() < line + 2 + n + 2) {
          if (!receive()) {
            return out;
          }
        }
        out.body += buffer_.substr(line + 2, n);
        buffer_.erase(0, line + 2 + n + 2);
        if (n == 0) {
          break;
        }
      }
    } else if (out.headers.contains("content-length")) {
      const size_t n = std::stoul(out.header("content-length"));
      while (buffer_.size() < n) {
        if (!receive()) {
          return out;
        }
      }
      out.body = buffer_.substr(0, n);
      buffer_.erase(0, n);
    } else {
      while (receive()) {
      }
      out.body = std::exchange(buffer_, {});
    }
    out.status = status;
    return out;
  }

  static std::string bytes(const std::string& method, const std::string& target, const std::string& body = "",
                           const std::string& headers = "") {
    std::string out = method + " " + target + " HTTP/1.1\r\nHost: test\r\n" + headers;
    if (!body.empty() || method == "POST") {
      out += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    }
    return out + "\r\n" + body;
  }
  Response ask(const std::string& method, const std::string& target, const std::string& body = "",
               const std::string& headers = "") {
    send(bytes(method, target, body, headers));
    return response(method == "HEAD");
  }

 private:
  int fd_;
  bool connected_ = false;
  std::string buffer_;
};

/// The JSON of a stream's events; `[DONE]` is the string "[DONE]".
inline std::vector<Json> events(const std::string& body) {
  std::vector<Json> out;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    if (end == std::string::npos) {
      ADD_FAILURE() << "an event without an end: " << body.substr(at);
      return out;
    }
    const std::string event = body.substr(at, end - at);
    at = end + 2;
    if (event == ":") {
      continue;
    }
    EXPECT_EQ(event.rfind("data: ", 0), 0U) << event;
    const std::string data = event.substr(std::min<size_t>(6, event.size()));
    if (data == "[DONE]") {
      out.emplace_back(data);
      continue;
    }
    out.push_back(Json::parse(data, nullptr, false));
    EXPECT_FALSE(out.back().is_discarded()) << data;
  }
  return out;
}

}  // namespace fl::test
