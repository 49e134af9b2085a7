#include "client/sse.h"

namespace fl::client {

bool SseSplitter::feed(std::string_view bytes, const std::function<void(std::string_view)>& on_data) {
  for (char c : bytes) {
    if (failed_) {
      return false;
    }
    // A line ends with CR, LF or CR LF; the LF of a CR LF may come in the next piece.
    if (c == '\n' && after_cr_) {
      after_cr_ = false;
      continue;
    }
    after_cr_ = c == '\r';
    if (c == '\n' || c == '\r') {
      end_line(on_data);
      continue;
    }
    line_ += c;
    failed_ = line_.size() + data_.size() > kMaxEventBytes;
  }
  return !failed_;
}

void SseSplitter::end_line(const std::function<void(std::string_view)>& on_data) {
  if (line_.empty()) {
    if (has_data_) {
      on_data(data_);
    }
    data_.clear();
    has_data_ = false;
    return;
  }
  std::string_view line = line_;
  const size_t colon = line.find(':');
  const std::string_view field = line.substr(0, colon);
  if (field == "data") {
    std::string_view value = colon == std::string_view::npos ? std::string_view{} : line.substr(colon + 1);
    if (value.starts_with(' ')) {
      value.remove_prefix(1);
    }
    if (has_data_) {
      data_ += '\n';
    }
    data_ += value;
    has_data_ = true;
  }
  line_.clear();
}

}  // namespace fl::client
