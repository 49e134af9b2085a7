#include "apps/progress.h"

#include <unistd.h>

#include <cstdio>

#include <fmt/format.h>

namespace fl::apps {

Progress::Progress(std::string what, uint64_t total, bool quiet)
    : what_(std::move(what)),
      total_(total),
      enabled_(!quiet && ::isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (shown_) {
    fmt::print(stderr, "\r\033[K");
  }
}

void Progress::set(uint64_t done) {
  done_ = done;
  const auto now = std::chrono::steady_clock::now();
  if (!enabled_ || total_ == 0 || now - last_ < std::chrono::milliseconds(100)) {
    return;
  }
  last_ = now;
  shown_ = true;
  const double share = static_cast<double>(done_) / static_cast<double>(total_);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double left = share > 0 ? seconds / share - seconds : 0;
  fmt::print(stderr, "\r\033[K{}: {:.0f} %, {:.0f} s left", what_, 100 * share, left);
  std::fflush(stderr);
}

}  // namespace fl::apps
