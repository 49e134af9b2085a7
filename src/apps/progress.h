// A progress line on stderr: share and time left. On a terminal it is redrawn at most ten times a second,
// elsewhere a plain line is written every half minute.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace fl::apps {

class Progress {
 public:
  /// `what` names the work, `total` is in any unit.
  Progress(std::string what, uint64_t total, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void add(uint64_t n) { set(done_ + n); }
  void set(uint64_t done) { set(done, {}); }
  /// `note` is shown behind the share.
  void set(uint64_t done, std::string_view note);

 private:
  std::string what_;
  uint64_t total_;
  uint64_t done_ = 0;
  bool shown_ = false;
  bool enabled_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace fl::apps
