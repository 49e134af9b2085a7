#include "apps/talk/session.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include <nlohmann/json.hpp>

#include "apps/load/load.h"
#include "server/context.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/request.h"

namespace fl::apps {
namespace {

using nlohmann::ordered_json;

/// How often an interrupt is looked for while the engine works; a signal handler cannot wake a condition.
constexpr std::chrono::milliseconds kPoll{50};
constexpr std::string_view kData = "data: ";

// The engine's word that something came.
class Bell {
 public:
  void ring() {
    {
      const std::scoped_lock lock(mutex_);
      rung_ = true;
    }
    changed_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPoll, [&] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

Error to_error(const server::ApiError& error) {
  const ErrorCode code = error.status < 500    ? ErrorCode::invalid_argument
                         : error.status == 503 ? ErrorCode::unavailable
                                               : ErrorCode::internal;
  return {code, error.message};
}

void take_timings(const ordered_json& event, SpokenAnswer& answer) {
  const auto found = event.find("timings");
  if (found == event.end() || !found->is_object()) {
    return;
  }
  answer.prompt_n = found->value("prompt_n", answer.prompt_n);
  answer.cached_n = found->value("cache_n", answer.cached_n);
  answer.predicted_n = found->value("predicted_n", answer.predicted_n);
  answer.prompt_per_second = found->value("prompt_per_second", answer.prompt_per_second);
  answer.predicted_per_second = found->value("predicted_per_second", answer.predicted_per_second);
}

std::string text_of(const ordered_json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// One event of either stream: chunks of a chat, or pieces of a completion.
Status take_event(const ordered_json& event, const Session::OnText& on_text, SpokenAnswer& answer) {
  if (const auto error = event.find("error"); error != event.end()) {
    return fail(ErrorCode::internal, text_of(*error, "message"));
  }
  take_timings(event, answer);
  const auto show = [&](const std::string& text, bool thinking) {
    if (!text.empty()) {
      (thinking ? answer.reasoning : answer.content) += text;
      on_text(text, thinking);
    }
  };
  if (event.contains("choices")) {
    for (const ordered_json& choice : event["choices"]) {
      if (const auto delta = choice.find("delta"); delta != choice.end()) {
        show(text_of(*delta, "reasoning_content"), true);
        show(text_of(*delta, "content"), false);
      }
      if (const std::string finish = text_of(choice, "finish_reason"); !finish.empty()) {
        answer.finish = finish;
      }
    }
    return {};
  }
  show(text_of(event, "content"), false);
  if (const std::string stop = text_of(event, "stop_type"); !stop.empty() && stop != "none") {
    answer.finish = stop == "limit" ? "length" : "stop";
  }
  return {};
}

}  // namespace

std::atomic<bool> Session::interrupted{false};

struct Session::Impl {
  server::ServerOptions options;
  server::Metrics metrics;
  std::shared_ptr<const server::Context> context;
  std::string device;

  Result<SpokenAnswer> answer(server::GenerationRequest request, const OnText& on_text) {
    interrupted = false;
    request.stream = true;
    const auto bell = std::make_shared<Bell>();
    auto started = server::Job::start(context, std::move(request), 0, [bell] { bell->ring(); });
    if (!started) {
      return tl::unexpected<Error>(to_error(started.error()));
    }
    server::Job& job = **started;
    SpokenAnswer out;
    std::string bytes;
    while (true) {
      const bool ended = job.ended();
      bytes.clear();
      job.poll(bytes);
      FL_TRY(take_bytes(bytes, on_text, out));
      if (job.failed()) {
        return tl::unexpected<Error>(to_error(*job.failed()));
      }
      if (ended) {
        return out;
      }
      if (interrupted) {
        out.interrupted = true;
        out.finish = "interrupted";
        return out;  // the job's end cancels it
      }
      if (!job.ended()) {
        bell->wait();
      }
    }
  }

  static Status take_bytes(std::string_view bytes, const OnText& on_text, SpokenAnswer& out) {
    while (!bytes.empty()) {
      const size_t end = bytes.find("\n\n");
      std::string_view event = bytes.substr(0, end);
      bytes = end == std::string_view::npos ? std::string_view() : bytes.substr(end + 2);
      if (!event.starts_with(kData)) {
        continue;
      }
      event.remove_prefix(kData.size());
      if (event == "[DONE]") {
        continue;
      }
      FL_TRY(take_event(ordered_json::parse(event), on_text, out));
    }
    return {};
  }
};

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::open(Options options, std::string_view command, bool quiet) {
  FL_ASSIGN(const std::string path, resolve_model(options));
  FL_TRY(take_file_sampling(path, options));
  FL_TRY(server::check(options.server.defaults));
  options.parallel = 1;
  auto impl = std::make_unique<Impl>();
  impl->options = options.server;
  impl->options.model_path = path;
  FL_ASSIGN(Loaded loaded, load_model(options, path, command, quiet));
  impl->device = loaded.device;
  FL_ASSIGN(impl->context, server::Context::make(impl->options, impl->metrics, std::move(loaded.model)));
  return std::unique_ptr<Session>(new Session(std::move(impl)));
}

Result<SpokenAnswer> Session::complete(const std::string& prompt, const OnText& on_text) {
  const ordered_json body{{"prompt", prompt}, {"stream", true}};
  auto request = server::parse_completion(*impl_->context, body, server::Api::completion);
  if (!request) {
    return tl::unexpected<Error>(to_error(request.error()));
  }
  return impl_->answer(std::move(*request), on_text);
}

Result<SpokenAnswer> Session::chat(const ordered_json& messages, const OnText& on_text) {
  const ordered_json body{{"messages", messages}, {"stream", true}};
  auto request = server::parse_chat(*impl_->context, body);
  if (!request) {
    return tl::unexpected<Error>(to_error(request.error()));
  }
  return impl_->answer(std::move(*request), on_text);
}

const std::string& Session::model_id() const {
  return impl_->context->model_id();
}

const std::string& Session::device() const {
  return impl_->device;
}

int32_t Session::n_ctx() const {
  return impl_->context->n_ctx();
}

}  // namespace fl::apps
