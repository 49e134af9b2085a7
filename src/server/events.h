// From the engine thread to a connection: a bounded queue of events, one for all sequences of a request.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <variant>
#include <vector>

#include "engine/engine.h"

namespace fl::server {

struct PromptEvent {
  int32_t done = 0, total = 0, cached = 0;
};

struct Event {
  int32_t sequence = 0;
  std::chrono::steady_clock::time_point at;
  std::variant<PromptEvent, engine::TokenEvent, engine::DoneEvent> what;
};

class EventQueue {
 public:
  /// `wake` is called on the engine thread when the queue stops being empty; it must not block.
  EventQueue(int32_t n_sequences, std::function<void()> wake);

  // The engine's side
  bool ready(int32_t sequence);
  void push(Event event);

  // The connection's side
  /// Moves all events to `out`, which is cleared first. True: a sequence was told to pause, the engine wants
  /// a wake().
  bool take(std::vector<Event>& out);
  /// No more wake() after this.
  void close();

 private:
  std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<Event> events_;
  std::vector<int32_t> n_tokens_;  ///< queued, by sequence
  bool paused_ = false;
};

/// The engine's face of one sequence's place in the queue.
std::shared_ptr<engine::Sink> make_sink(std::shared_ptr<EventQueue> queue, int32_t sequence);

}  // namespace fl::server
