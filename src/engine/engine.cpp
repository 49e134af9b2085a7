#include "engine/engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "engine/loop.h"

namespace fl::engine {

namespace {

constexpr auto kPausePoll =
    std::chrono::milliseconds(2);  ///< how often sinks that were not ready are asked again
constexpr uint32_t kRandomSeed = 0xFFFFFFFF;

int64_t blocks_for(int64_t n_tokens) {
  return (n_tokens + model::kBlockTokens - 1) / model::kBlockTokens;
}

}  // namespace

model::RunnerOptions runner_options(const EngineOptions& options, model::RunnerOptions base) {
  base.n_blocks = static_cast<int32_t>(options.n_slots * blocks_for(options.n_ctx_slot));
  base.n_state_rows = options.n_slots;
  base.n_spare_rows = options.n_checkpoints;
  base.max_tokens = std::max(options.max_step_tokens, options.n_slots + model::kBlockTokens);
  base.max_slices = options.n_slots;
  base.max_rows = options.n_slots;
  return base;
}

class Engine::Impl {
 public:
  Impl(std::unique_ptr<model::Runner> runner, EngineOptions options)
      : options_(options), loop_(std::move(runner), options), n_ctx_(loop_.n_ctx()) {
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::scoped_lock lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  Result<RequestId> submit(Request request) {
    FL_TRY(validate(request));
    auto sampling = std::make_shared<SamplingParams>(request.sampling);
    if (sampling->seed == kRandomSeed) {
      sampling->seed = std::random_device{}();
    }
    auto kept = std::make_shared<const Request>(std::move(request));
    RequestId id = 0;
    {
      const std::scoped_lock lock(mutex_);
      if (lost_) {
        return fail(ErrorCode::unavailable, "the device is lost; restart the server");
      }
      if (stop_ || draining_) {
        return fail(ErrorCode::unavailable, "shutting down");
      }
      if (n_held_ >= options_.max_queue + options_.n_slots) {
        return fail(ErrorCode::unavailable,
                    fmt::format("busy: {} requests are running or queued, at most {} are held", n_held_,
                                options_.max_queue + options_.n_slots));
      }
      id = ++last_id_;
      ++n_held_;
      inbox_.push_back({id, std::move(kept), std::move(sampling)});
      woken_ = true;
    }
    wake_.notify_all();
    return id;
  }

  void cancel(RequestId id) {
    {
      const std::scoped_lock lock(mutex_);
      cancels_.push_back(id);
      woken_ = true;
    }
    wake_.notify_all();
  }

  void wake() {
    {
      const std::scoped_lock lock(mutex_);
      woken_ = true;
    }
    wake_.notify_all();
  }

  Result<int32_t> erase_slot(int32_t slot) {
    Erase erase{slot, {}, false};
    std::unique_lock lock(mutex_);
    if (stop_ || exited_) {
      return fail(ErrorCode::unavailable, "shutting down");
    }
    erases_.push_back(&erase);
    woken_ = true;
    wake_.notify_all();
    changed_.wait(lock, [&] { return erase.done; });
    return erase.result;
  }

  void drain(double seconds) {
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                             std::chrono::duration<double>(std::clamp(seconds, 0.0, 1e6)));
    std::unique_lock lock(mutex_);
    draining_ = true;
    const auto empty = [&] { return n_held_ == 0; };
    if (changed_.wait_until(lock, deadline, empty)) {
      return;
    }
    cancel_all_ = true;
    woken_ = true;
    wake_.notify_all();
    changed_.wait(lock, empty);
  }

  void on_device_lost(std::function<void()> call) {
    const std::scoped_lock lock(lost_mutex_);
    on_lost_ = std::move(call);
    if (told_lost_ && on_lost_) {
      on_lost_();
    }
  }

  std::vector<SlotInfo> slots() const {
    const Board& board = loop_.board();
    const std::scoped_lock lock(board.mutex);
    std::vector<SlotInfo> infos;
    for (const Board::Slot& slot : board.slots) {
      infos.push_back(slot.info);
      if (slot.sampling != nullptr) {
        infos.back().sampling = *slot.sampling;
      }
    }
    return infos;
  }

  EngineStats stats() const {
    const Board& board = loop_.board();
    const std::scoped_lock lock(board.mutex);
    EngineStats stats = board.stats;
    stats.last_step_age_s = std::chrono::duration<double>(Clock::now() - board.last_step).count();
    return stats;
  }

  const model::Runner& runner() const { return loop_.runner(); }
  const EngineOptions& options() const { return options_; }

 private:
  struct Erase {
    int32_t slot = 0;
    Result<int32_t> result;
    bool done = false;
  };

  Status validate(const Request& request) const {
    const int32_t n_vocab = loop_.runner().capacity().n_vocab;
    if (request.sink == nullptr) {
      return fail(ErrorCode::invalid_argument, "a request needs a sink");
    }
    if (request.prompt.empty()) {
      return fail(ErrorCode::invalid_argument, "prompt: expected at least one token, found none");
    }
    if (request.prompt.size() > static_cast<size_t>(n_ctx_)) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("prompt: expected at most {} tokens (the context of a slot), found {}", n_ctx_,
                              request.prompt.size()));
    }
    for (const int32_t token : request.prompt) {
      if (token < 0 || token >= n_vocab) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("prompt: expected tokens from 0 to {}, found {}", n_vocab - 1, token));
      }
    }
    if (request.slot >= options_.n_slots) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("slot: expected -1 to {}, found {}", options_.n_slots - 1, request.slot));
    }
    return check(request.sampling, n_vocab);
  }

  void run() {
    bool progress = true;
    std::vector<RequestId> cancels;
    std::vector<Erase*> erases;
    while (true) {
      bool all = false;
      bool stop = false;
      {
        std::unique_lock lock(mutex_);
        const auto woken = [&] { return woken_ || stop_; };
        if (loop_.idle() && waiting_.empty()) {
          wake_.wait(lock, woken);
        } else if (!progress) {
          wake_.wait_for(lock, kPausePoll, woken);
        }
        woken_ = false;
        stop = stop_;
        all = cancel_all_ || stop;
        cancels.swap(cancels_);
        erases.swap(erases_);
        while (!inbox_.empty()) {
          waiting_.push_back(std::move(inbox_.front()));
          inbox_.pop_front();
        }
      }
      for (const RequestId id : cancels) {
        cancel_one(id);
      }
      cancels.clear();
      if (all || loop_.lost()) {
        end_all();
      }
      start_waiting();
      answer(erases);
      progress = loop_.round();
      settle();
      if (stop && loop_.idle()) {
        break;
      }
    }
    const std::scoped_lock lock(mutex_);
    exited_ = true;
    for (Erase* erase : erases_) {
      erase->result = fail(ErrorCode::unavailable, "shutting down");
      erase->done = true;
    }
    changed_.notify_all();
  }

  /// Tells the end of a request that never had a slot.
  static void refuse(const Ticket& ticket, Finish how, const std::string& error) {
    DoneEvent done;
    done.finish = how;
    done.seed = ticket.sampling->seed;
    done.error = error;
    try {
      ticket.request->sink->on_done(done);
    } catch (const std::exception& e) {
      spdlog::warn("engine: request {}: its sink threw at its end: {}", ticket.id, e.what());
    } catch (...) {
      spdlog::warn("engine: request {}: its sink threw at its end", ticket.id);
    }
  }

  void cancel_one(RequestId id) {
    const auto queued = std::ranges::find(waiting_, id, &Ticket::id);
    if (queued != waiting_.end()) {
      const Ticket ticket = std::move(*queued);
      waiting_.erase(queued);
      refuse(ticket, Finish::cancelled, {});
    } else {
      loop_.cancel(id);
    }
  }

  void end_all() {
    const bool lost = loop_.lost();
    while (!waiting_.empty()) {
      const Ticket ticket = std::move(waiting_.front());
      waiting_.pop_front();
      refuse(ticket, lost ? Finish::error : Finish::cancelled, lost ? "the device is lost" : "");
    }
    loop_.cancel_all();
  }

  /// First come, first served; a request that waits for its own slot lets others pass, one that waits for
  /// memory or for any slot does not.
  void start_waiting() {
    bool started = false;
    for (auto at = waiting_.begin(); at != waiting_.end();) {
      if (loop_.start(*at)) {
        started = true;
        at = waiting_.erase(at);
      } else if (at->request->slot >= 0 && loop_.busy(at->request->slot)) {
        ++at;
      } else {
        break;
      }
    }
    if (started) {
      loop_.publish(static_cast<int32_t>(waiting_.size()));  // the first step may take long
    }
  }

  void answer(std::vector<Erase*>& erases) {
    if (erases.empty()) {
      return;
    }
    const std::scoped_lock lock(mutex_);
    for (Erase* erase : erases) {
      erase->result = loop_.erase_slot(erase->slot);
      erase->done = true;
    }
    erases.clear();
    loop_.publish(static_cast<int32_t>(waiting_.size()));
    changed_.notify_all();
  }

  void settle() {
    loop_.publish(static_cast<int32_t>(waiting_.size()));
    bool gone = false;
    {
      const std::scoped_lock lock(mutex_);
      n_held_ = static_cast<int32_t>(waiting_.size() + inbox_.size()) + loop_.n_busy();
      lost_ = loop_.lost();
      gone = lost_ && n_held_ == 0;
      if (n_held_ == 0) {
        changed_.notify_all();
      }
    }
    if (gone) {
      tell_lost();
    }
  }

  void tell_lost() {
    const std::scoped_lock lock(lost_mutex_);
    if (!std::exchange(told_lost_, true) && on_lost_) {
      on_lost_();
    }
  }

  const EngineOptions options_;
  Loop loop_;                   ///< of the engine thread, but for its board
  std::deque<Ticket> waiting_;  ///< of the engine thread
  const int32_t n_ctx_;

  std::mutex mutex_;  ///< never held while a sink is called
  std::condition_variable wake_;
  std::condition_variable changed_;
  std::deque<Ticket> inbox_;
  std::vector<RequestId> cancels_;
  std::vector<Erase*> erases_;
  RequestId last_id_ = 0;
  int32_t n_held_ = 0;  ///< in the inbox, waiting or running
  bool woken_ = false;
  bool stop_ = false;
  bool draining_ = false;
  bool cancel_all_ = false;
  bool lost_ = false;
  bool exited_ = false;

  std::mutex lost_mutex_;  ///< held while on_lost_ runs
  std::function<void()> on_lost_;
  bool told_lost_ = false;

  std::thread thread_;
};

Engine::Engine(std::unique_ptr<model::Runner> runner, EngineOptions options)
    : impl_(std::make_unique<Impl>(std::move(runner), options)) {}
Engine::~Engine() = default;

Result<RequestId> Engine::submit(Request request) {
  return impl_->submit(std::move(request));
}
void Engine::cancel(RequestId id) {
  impl_->cancel(id);
}
Result<int32_t> Engine::erase_slot(int32_t slot) {
  return impl_->erase_slot(slot);
}
void Engine::wake() {
  impl_->wake();
}
void Engine::on_device_lost(std::function<void()> call) {
  impl_->on_device_lost(std::move(call));
}
std::vector<SlotInfo> Engine::slots() const {
  return impl_->slots();
}
EngineStats Engine::stats() const {
  return impl_->stats();
}
const model::Runner& Engine::runner() const {
  return impl_->runner();
}
const EngineOptions& Engine::options() const {
  return impl_->options();
}
void Engine::drain(double seconds) {
  impl_->drain(seconds);
}

}  // namespace fl::engine
