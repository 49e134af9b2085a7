// Ctrl-C and SIGTERM as a flag that long work looks at; a second one ends the program at once.
#pragma once

#include <atomic>

namespace fl::apps {

/// While it lives, SIGINT and SIGTERM set `flag()`. One at a time in the program.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  static const std::atomic<bool>* flag();
  /// kInterrupted or kTerminated after a signal, else kOk.
  static int exit_code();
};

}  // namespace fl::apps
