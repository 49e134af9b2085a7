// The engine without HTTP, through the server's own reading of requests and assembly of answers: `run` and
// `chat` say what the server would say.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "apps/flags/options.h"
#include "base/result.h"
#include "model/runner.h"

namespace fl::apps {

struct SpokenAnswer {
  std::string content;
  std::string reasoning;
  std::string finish;  ///< "stop", "length"
  bool interrupted = false;
  int32_t prompt_n = 0;     ///< tokens computed
  int32_t cached_n = 0;     ///< tokens taken from the cache
  int32_t predicted_n = 0;  ///< tokens of the answer
  double prompt_per_second = 0;
  double predicted_per_second = 0;
};

class Session {
 public:
  /// Loads the model of the options with one slot. `command` is for messages.
  static Result<std::unique_ptr<Session>> open(Options options, std::string_view command, bool quiet);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// A piece of the answer, whole characters; `thinking` tells the thought from the answer.
  using OnText = std::function<void(std::string_view text, bool thinking)>;

  /// Continues a text as it is.
  Result<SpokenAnswer> complete(const std::string& prompt, const OnText& on_text);
  /// Answers OpenAI messages through the chat template.
  Result<SpokenAnswer> chat(const nlohmann::ordered_json& messages, const OnText& on_text);

  const std::string& model_id() const;
  const std::string& device() const;
  int32_t n_ctx() const;
  /// Set by a signal handler: the running answer ends within a step. Cleared when an answer begins.
  static std::atomic<bool> interrupted;

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl::apps
