// The bytes of HTTP replies, and the count of the bytes of bodies.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace fl::server {

/// "HTTP/1.1 200 OK" and the header that every reply has.
std::string status_line(int status);
/// Line breaks in a value become blanks: it can never begin a header of its own.
void append_header(std::string& out, std::string_view name, std::string_view value);
/// A piece of a stream's body; the last one ends it. Clients of HTTP/1.0 get it plain: they read until the
/// end.
void append_chunk(std::string& out, std::string_view data, bool last, bool http11);

/// Bytes of a body in memory, counted for all connections together.
class BodyBudget {
 public:
  BodyBudget(std::atomic<uint64_t>& total, uint64_t most) : total_(total), most_(most) {}
  ~BodyBudget() { total_ -= held_; }
  BodyBudget(const BodyBudget&) = delete;
  BodyBudget& operator=(const BodyBudget&) = delete;

  bool grow_to(uint64_t bytes) {
    if (bytes <= held_) {
      return true;
    }
    const uint64_t more = bytes - held_;
    if (total_.fetch_add(more) + more > most_) {
      total_ -= more;
      return false;
    }
    held_ = bytes;
    return true;
  }

 private:
  std::atomic<uint64_t>& total_;
  const uint64_t most_;
  uint64_t held_ = 0;
};

}  // namespace fl::server
