// A generation request from submission to its last byte. It knows no socket: the connection polls it for
// bytes when it is woken, and destroys it when the client leaves.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/answer.h"
#include "server/events.h"
#include "server/request.h"
#include "server/responses.h"

namespace fl::server {

class Job {
 public:
  /// Submits every sequence. `wake` is called from the engine thread when poll() has something to do.
  static ApiResult<std::unique_ptr<Job>> start(std::shared_ptr<const Context> context,
                                               GenerationRequest request, uint64_t cache_salt,
                                               std::function<void()> wake);
  ~Job();  ///< cancels what still runs
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  bool stream() const { return request_.stream; }
  int32_t ping_seconds() const { return request_.sse_ping_seconds; }

  /// Takes what has come from the engine; appends to `out` the events of a stream, or the whole reply at the
  /// end.
  void poll(std::string& out);
  bool started() const { return started_; }  ///< a slot works on it: a stream's headers may go out
  bool ended() const { return n_ended_ == answers_.size(); }
  /// It failed before anything was sent: a plain error. Later failures are events of the stream.
  const std::optional<ApiError>& failed() const { return failed_; }

 private:
  Job(std::shared_ptr<const Context> context, GenerationRequest request, std::function<void()> wake);
  ApiResult<void> submit(uint64_t cache_salt);
  void on(const Event& event, const PromptEvent& prompt, std::string& out);
  void on(const Event& event, const engine::TokenEvent& token, std::string& out);
  void on(const Event& event, const engine::DoneEvent& done, std::string& out);
  void fail(const engine::DoneEvent& done, std::string& out);
  void log(const Answer& answer) const;

  struct Sequence {
    engine::RequestId id = 0;
    bool submitted = false;
    bool done = false;
    bool cancelled = false;  ///< by us, because its answer is complete
  };

  std::shared_ptr<const Context> context_;
  GenerationRequest request_;
  std::shared_ptr<EventQueue> queue_;
  std::vector<std::unique_ptr<Answer>> answers_;
  std::vector<Sequence> sequences_;
  std::unique_ptr<Shape> shape_;
  std::vector<Event> events_;
  std::vector<double> last_ms_;  ///< predicted_ms of the token before, by sequence
  std::chrono::steady_clock::time_point begin_;
  size_t n_ended_ = 0;
  bool started_ = false;
  bool sent_ = false;
  std::optional<ApiError> failed_;
};

}  // namespace fl::server
