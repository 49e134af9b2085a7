// One sequence's answer as it grows: token ids to UTF-8 text, stop strings, and for chats content, reasoning
// and calls.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "chat/chat.h"
#include "engine/engine.h"
#include "server/request.h"
#include "server/stop_strings.h"
#include "tokenizer/tokenizer.h"

namespace fl::server {

class Context;

enum class StopType : uint8_t { none, eos, word, limit };

/// What is new for the client.
struct Piece {
  std::string text;                       ///< raw routes
  chat::Delta delta;                      ///< chat
  std::vector<engine::TokenEvent> probs;  ///< of the tokens since the last piece, when asked for
  std::vector<int32_t> tokens;

  bool has_delta() const {
    return !delta.content.empty() || !delta.reasoning.empty() || !delta.calls.empty();
  }
};

class Answer {
 public:
  /// `request` must outlive the answer.
  Answer(const Context& context, const GenerationRequest& request, int32_t index);

  Piece push(const engine::TokenEvent& event);
  Piece finish(const engine::DoneEvent& event);
  /// A stop string, a time limit or a finished call ended it: the engine need not go on.
  bool stopped() const { return stop_type_ != StopType::none; }

  // The whole so far
  const std::string& text() const { return text_; }
  const std::string& content() const { return content_; }
  const std::string& reasoning() const { return reasoning_; }
  const std::vector<chat::ToolCall>& calls() const { return calls_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::vector<engine::TokenEvent>& probs() const { return probs_; }
  const engine::Timings& timings() const { return timings_; }
  StopType stop_type() const { return stop_type_; }
  const std::string& stopping_word() const { return stops_.word(); }
  bool has_new_line() const { return has_new_line_; }
  bool truncated() const { return truncated_; }
  int32_t n_reasoning() const { return n_reasoning_; }  ///< tokens
  int32_t index() const { return index_; }
  int32_t slot() const { return slot_; }
  uint32_t seed() const { return seed_; }
  const char* finish_reason() const;

 private:
  void add(const std::string& text, Piece& piece);
  void take(chat::Delta delta, Piece& piece);
  void drop_probs_of_stop();

  const Context& context_;
  const GenerationRequest& request_;
  int32_t index_;
  tokenizer::Utf8Stream utf8_;
  StopStrings stops_;
  std::optional<chat::OutputParser> parser_;
  std::string text_, content_, reasoning_;
  std::vector<chat::ToolCall> calls_;
  std::vector<int32_t> tokens_;
  std::vector<engine::TokenEvent> probs_;
  std::vector<size_t> prob_begins_;  ///< byte of the raw text at which each of probs_ begins
  size_t n_raw_ = 0;                 ///< bytes of raw text so far
  engine::Timings timings_;
  StopType stop_type_ = StopType::none;
  bool has_new_line_ = false;
  bool truncated_ = false;
  int32_t n_reasoning_ = 0;
  int32_t slot_ = -1;
  uint32_t seed_ = 0;
};

/// 32 random letters and digits.
std::string random_id();

}  // namespace fl::server
