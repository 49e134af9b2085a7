// Splits a byte stream into server-sent events (WHATWG HTML, section 9.2), in pieces of any size.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace fl::client {

class SseSplitter {
 public:
  /// An event whose data is longer is an error: the peer is broken or hostile.
  static constexpr size_t kMaxEventBytes = size_t{8} << 20;

  /// Calls `on_data` with the joined data lines of each event that `bytes` completes. False when an event is
  /// too long; later calls then do nothing.
  bool feed(std::string_view bytes, const std::function<void(std::string_view)>& on_data);

 private:
  void end_line(const std::function<void(std::string_view)>& on_data);

  std::string line_;
  std::string data_;
  bool has_data_ = false;
  bool after_cr_ = false;
  bool failed_ = false;
};

}  // namespace fl::client
