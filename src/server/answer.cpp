#include "server/answer.h"

#include <array>
#include <random>

#include <nlohmann/json.hpp>

#include "server/context.h"

namespace fl::server {

std::string random_id() {
  constexpr std::string_view kLetters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  constexpr int kLength = 32;
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device(), device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  std::uniform_int_distribution<size_t> any(0, kLetters.size() - 1);
  std::string id;
  for (int i = 0; i < kLength; ++i) {
    id += kLetters[any(random)];
  }
  return id;
}

Answer::Answer(const Context& context, const GenerationRequest& request, int32_t index)
    : context_(context), request_(request), index_(index), stops_(request.stop) {
  if (request.api == Api::chat && !context.options().defaults.skip_chat_parsing) {
    chat::ParseOptions options;
    options.reasoning = request.chat.format;
    options.prefilled = request.chat.prefix;
    if (request.chat.continued && request.chat.format == chat::ReasoningFormat::none) {
      options.prefilled.clear();  // the client has it already
    }
    options.tools = request.chat.tools != nullptr;
    options.tool_schemas = request.chat.tools.get();
    parser_.emplace(options);
  }
}

const char* Answer::finish_reason() const {
  if (stop_type_ == StopType::limit) {
    return "length";
  }
  return calls_.empty() ? "stop" : "tool_calls";
}

void Answer::take(chat::Delta delta, Piece& piece) {
  for (chat::Delta::Call& call : delta.calls) {
    if (call.index > 0 && !request_.chat.parallel_tool_calls) {
      stop_type_ = StopType::eos;  // one call was asked for, and it is complete
      continue;
    }
    const auto index = static_cast<size_t>(call.index);
    if (index >= calls_.size()) {
      calls_.resize(index + 1);
      calls_[index].id = call.id.empty() ? random_id() : call.id;
      call.id = calls_[index].id;
    }
    calls_[index].name += call.name;
    calls_[index].arguments += call.arguments;
    piece.delta.calls.push_back(std::move(call));
  }
  content_ += delta.content;
  reasoning_ += delta.reasoning;
  piece.delta.content += delta.content;
  piece.delta.reasoning += delta.reasoning;
}

void Answer::add(const std::string& text, Piece& piece) {
  if (text.empty()) {
    return;
  }
  has_new_line_ = has_new_line_ || text.find('\n') != std::string::npos;
  if (parser_) {
    take(parser_->push(text), piece);
  } else if (request_.api == Api::chat) {
    content_ += text;
    piece.delta.content += text;
  }
  text_ += text;
  piece.text += text;
}

void Answer::drop_probs_of_stop() {
  while (!probs_.empty() && prob_begins_.back() >= text_.size()) {
    probs_.pop_back();
    prob_begins_.pop_back();
  }
}

Piece Answer::push(const engine::TokenEvent& event) {
  Piece piece;
  if (stopped()) {
    return piece;  // the engine was faster than its cancellation
  }
  timings_ = event.timings;
  tokens_.push_back(event.token);
  piece.tokens.push_back(event.token);
  n_reasoning_ += parser_ && parser_->in_reasoning() ? 1 : 0;
  const bool wants_probs = request_.wants_probs();
  if (wants_probs) {
    probs_.push_back(event);
    prob_begins_.push_back(n_raw_);
  }
  const std::string text =
      utf8_.push(context_.piece(event.token, request_.api == Api::chat, request_.special));
  n_raw_ += text.size();
  add(stops_.push(text), piece);
  if (stops_.found()) {
    stop_type_ = StopType::word;
    drop_probs_of_stop();
    if (parser_) {
      take(parser_->finish(), piece);
    }
  } else if (request_.t_max_predict_ms >= 0 && has_new_line_ &&
             timings_.predicted_ms > request_.t_max_predict_ms) {
    stop_type_ = StopType::limit;
  }
  if (wants_probs && !(stops_.found() && probs_.size() < tokens_.size())) {
    piece.probs.push_back(event);
  }
  return piece;
}

Piece Answer::finish(const engine::DoneEvent& event) {
  Piece piece;
  slot_ = event.slot;
  seed_ = event.seed;
  const bool by_word = stop_type_ == StopType::word;
  if (!stopped()) {
    timings_ = event.timings;  // counts the stop token too
    stop_type_ = event.finish == engine::Finish::length ? StopType::limit : StopType::eos;
    truncated_ = event.finish == engine::Finish::length &&
                 (request_.n_predict < 0 || timings_.predicted_n < request_.n_predict);
  }
  if (!by_word) {
    const StopType before = stop_type_;
    add(stops_.push(utf8_.finish()), piece);
    add(stops_.finish(), piece);
    if (parser_) {
      take(parser_->finish(), piece);
    }
    stop_type_ = before;
  }
  return piece;
}

}  // namespace fl::server
