// A loopback server that says exactly what a test tells it to: one answer per connection, in pieces, with
// pauses, then closes.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace fl::test {

class ScriptedServer {
 public:
  struct Piece {
    std::string bytes;
    std::chrono::milliseconds pause{0};  ///< before it is sent
  };
  /// The pieces to send for a request (head and body as received).
  using Script = std::function<std::vector<Piece>(const std::string& request)>;

  explicit ScriptedServer(Script script)
      : script_(std::move(script)), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_, 64), 0);
    socklen_t size = sizeof address;
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { accept_all(); });
  }

  ~ScriptedServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    for (std::thread& worker : workers_) {
      worker.join();
    }
    ::close(listener_);
  }

  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

 private:
  void accept_all() {
    for (int connection = ::accept(listener_, nullptr, nullptr); connection >= 0;
         connection = ::accept(listener_, nullptr, nullptr)) {
      workers_.emplace_back([this, connection] { answer(connection); });
    }
  }

  void answer(int connection) {
    for (const Piece& piece : script_(read_request(connection))) {
      std::this_thread::sleep_for(piece.pause);
      if (::send(connection, piece.bytes.data(), piece.bytes.size(), MSG_NOSIGNAL) < 0) {
        break;
      }
    }
    ::shutdown(connection, SHUT_WR);
    char rest[256];
    while (::recv(connection, rest, sizeof rest, 0) > 0) {
    }
    ::close(connection);
  }

  static std::string read_request(int connection) {
    std::string request;
    size_t wanted = std::string::npos;
    char buffer[4096];
    while (request.size() < wanted) {
      const ssize_t n = ::recv(connection, buffer, sizeof buffer, 0);
      if (n <= 0) {
        break;
      }
      request.append(buffer, static_cast<size_t>(n));
      const size_t head = request.find("\r\n\r\n");
      if (head != std::string::npos && wanted == std::string::npos) {
        const size_t length = request.find("Content-Length: ");
        wanted = head + 4 + (length < head ? std::stoul(request.substr(length + 16)) : 0);
      }
    }
    return request;
  }

  Script script_;
  int listener_;
  int port_ = 0;
  std::thread thread_;
  std::vector<std::thread> workers_;
};

/// "HTTP/1.1 200 OK" with a body that ends when the connection closes.
inline std::string ok_head(const std::string& type) {
  return "HTTP/1.1 200 OK\r\nContent-Type: " + type + "\r\nConnection: close\r\n\r\n";
}

}  // namespace fl::test
