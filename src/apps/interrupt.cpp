#include "apps/interrupt.h"

#include <csignal>

#include "apps/command.h"

namespace fl::apps {
namespace {

std::atomic<bool> stop_flag = false;
volatile std::sig_atomic_t signal_number = 0;

void on_signal(int number) {
  signal_number = number;
  stop_flag = true;
}

void install(void (*handler)(int), int flags) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

Interrupt::Interrupt() {
  stop_flag = false;
  signal_number = 0;
  install(on_signal, static_cast<int>(SA_RESETHAND));
}

Interrupt::~Interrupt() {
  install(SIG_DFL, 0);
}

const std::atomic<bool>* Interrupt::flag() {
  return &stop_flag;
}

int Interrupt::exit_code() {
  switch (signal_number) {
    case SIGINT:
      return kInterrupted;
    case SIGTERM:
      return kTerminated;
    default:
      return kOk;
  }
}

}  // namespace fl::apps
