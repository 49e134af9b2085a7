#include "apps/progress.h"

#include <unistd.h>

#include <cstdio>

#include <fmt/format.h>

namespace fl::apps {
namespace {

constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::chrono::milliseconds kPlainLine{30000};

}  // namespace

Progress::Progress(std::string what, uint64_t total, bool quiet)
    : what_(std::move(what)),
      total_(total),
      enabled_(!quiet),
      terminal_(::isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (shown_) {
    fmt::print(stderr, "\r\033[K");
  }
}

void Progress::set(uint64_t done, std::string_view note) {
  done_ = done;
  const auto now = std::chrono::steady_clock::now();
  const auto pause = terminal_ ? kRedraw : kPlainLine;
  if (!enabled_ || total_ == 0 || now - last_ < pause) {
    return;
  }
  last_ = now;
  shown_ = terminal_;
  const double share = static_cast<double>(done_) / static_cast<double>(total_);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double left = share > 0 ? seconds / share - seconds : 0;
  fmt::print(stderr, "{}{}: {:.0f} %{}{}, {:.0f} s left{}", terminal_ ? "\r\033[K" : "", what_, 100 * share,
             note.empty() ? "" : ", ", note, left, terminal_ ? "" : "\n");
  std::fflush(stderr);
}

}  // namespace fl::apps
