// What requests share once the model is loaded: the engine, the tokenizer, the template, and what follows
// from them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/json.h"
#include "server/server.h"

namespace fl::server {

class Metrics;

class Context {
 public:
  /// Checks the defaults and the template. `options` and `metrics` must outlive the context.
  static Result<std::shared_ptr<const Context>> make(const ServerOptions& options, Metrics& metrics,
                                                     LoadedModel model);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const ServerOptions& options() const { return options_; }
  const LoadedModel& model() const { return model_; }
  engine::Engine& engine() const { return *model_.engine; }
  const tokenizer::Tokenizer& tokenizer() const { return model_.tokenizer; }
  /// The model's template, or the ChatML frame with --no-jinja and for files without one.
  const chat::Template& chat_template() const;
  bool has_thinking() const { return has_thinking_; }  ///< the template has a mode for it
  Metrics& metrics() const { return metrics_; }

  const std::string& model_id() const { return aliases_.front(); }
  const std::vector<std::string>& aliases() const { return aliases_; }  ///< sorted
  int32_t n_ctx() const { return model_.engine->options().n_ctx_slot; }
  int32_t n_slots() const { return model_.engine->options().n_slots; }
  /// --chat-template-kwargs and what the reasoning flags add to it.
  const Json& template_kwargs() const;
  const std::vector<std::pair<int32_t, float>>& logit_bias() const { return logit_bias_; }
  /// The bytes that a token adds to an answer: control tokens add none, but for those that the chat parser
  /// reads.
  std::string_view piece(int32_t token, bool chat, bool special) const;
  /// Which of the template's abilities a rendering shows (`chat_template_caps` of /props).
  const Json& template_caps() const;

 private:
  Context(const ServerOptions& options, Metrics& metrics, LoadedModel model);
  Status prepare();
  Status probe_template();

  const ServerOptions& options_;
  Metrics& metrics_;
  LoadedModel model_;
  std::vector<std::string> aliases_;
  std::vector<std::pair<int32_t, float>> logit_bias_;
  std::vector<int32_t> chat_markers_;  ///< control tokens that the chat parser reads
  bool has_thinking_ = false;
  struct Rendered;
  std::unique_ptr<Rendered> rendered_;
};

/// "15043+1", "15043-0.5", "15043-inf": llama-server's --logit-bias.
Result<std::pair<int32_t, float>> parse_logit_bias(const std::string& text);

/// Token sequences at which a repetition ends.
std::vector<std::vector<int32_t>> breaker_ids(const tokenizer::Tokenizer& tokenizer,
                                              const std::vector<std::string>& breakers);

}  // namespace fl::server
