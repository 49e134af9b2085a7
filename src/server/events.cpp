#include "server/events.h"

#include <algorithm>
#include <utility>

namespace fl::server {
namespace {

/// Tokens of a sequence that may wait for their reader; a sequence with more is paused.
constexpr int32_t kMaxQueuedTokens = 64;

class QueueSink final : public engine::Sink {
 public:
  QueueSink(std::shared_ptr<EventQueue> queue, int32_t sequence)
      : queue_(std::move(queue)), sequence_(sequence) {}

  bool ready() override { return queue_->ready(sequence_); }
  void on_prompt(int32_t done, int32_t total, int32_t cached) override {
    push(PromptEvent{done, total, cached});
  }
  void on_token(const engine::TokenEvent& event) override { push(event); }
  void on_done(const engine::DoneEvent& event) override { push(event); }

 private:
  template <typename T>
  void push(T&& what) {
    queue_->push({sequence_, std::chrono::steady_clock::now(), std::forward<T>(what)});
  }

  std::shared_ptr<EventQueue> queue_;
  int32_t sequence_;
};

}  // namespace

EventQueue::EventQueue(int32_t n_sequences, std::function<void()> wake)
    : wake_(std::move(wake)), n_tokens_(static_cast<size_t>(n_sequences)) {}

bool EventQueue::ready(int32_t sequence) {
  const std::scoped_lock lock(mutex_);
  const bool room = n_tokens_[static_cast<size_t>(sequence)] < kMaxQueuedTokens;
  paused_ = paused_ || !room;
  return room;
}

void EventQueue::push(Event event) {
  const std::scoped_lock lock(mutex_);
  const bool was_empty = events_.empty();
  if (std::holds_alternative<PromptEvent>(event.what) && !was_empty &&
      std::holds_alternative<PromptEvent>(events_.back().what) && events_.back().sequence == event.sequence) {
    events_.back() = std::move(event);  // the latest is enough, and so they cannot pile up
    return;
  }
  if (std::holds_alternative<engine::TokenEvent>(event.what)) {
    ++n_tokens_[static_cast<size_t>(event.sequence)];
  }
  events_.push_back(std::move(event));
  if (was_empty && wake_) {
    wake_();
  }
}

bool EventQueue::take(std::vector<Event>& out) {
  out.clear();
  const std::scoped_lock lock(mutex_);
  out.swap(events_);
  std::ranges::fill(n_tokens_, 0);
  return std::exchange(paused_, false);
}

void EventQueue::close() {
  const std::scoped_lock lock(mutex_);
  wake_ = nullptr;
}

std::shared_ptr<engine::Sink> make_sink(std::shared_ptr<EventQueue> queue, int32_t sequence) {
  return std::make_shared<QueueSink>(std::move(queue), sequence);
}

}  // namespace fl::server
