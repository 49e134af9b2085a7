#include "server/responses.h"

#include <cmath>
#include <ctime>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/context.h"

namespace fl::server {
namespace {

using Answers = std::vector<std::unique_ptr<Answer>>;

double or_zero(double value) {
  return std::isfinite(value) ? value : 0;
}

Json bytes_json(std::string_view bytes) {
  Json out = Json::array();
  for (const char c : bytes) {
    out.push_back(static_cast<unsigned char>(c));
  }
  return out;
}

// One token's probabilities; JSON has no infinity, so the lowest float stands for log 0.
Json prob_json(const Context& context, const engine::TokenEvent& event, bool post_sampling) {
  const auto one = [&](const engine::TokenProb& prob) {
    const std::string_view piece = context.tokenizer().piece(prob.token);
    Json out = {{"id", prob.token}, {"token", piece}, {"bytes", bytes_json(piece)}};
    if (post_sampling) {
      out["prob"] = std::exp(prob.logprob);
    } else {
      out["logprob"] = std::isfinite(prob.logprob) ? prob.logprob : std::numeric_limits<float>::lowest();
    }
    return out;
  };
  Json out = one(event.chosen.value_or(engine::TokenProb{event.token, 0}));
  Json top = Json::array();
  for (const engine::TokenProb& prob : event.top) {
    if (!post_sampling || std::isfinite(prob.logprob)) {
      top.push_back(one(prob));
    }
  }
  out[post_sampling ? "top_probs" : "top_logprobs"] = std::move(top);
  return out;
}

Json probs_json(const Context& context, const std::vector<engine::TokenEvent>& events, bool post_sampling) {
  Json out = Json::array();
  for (const engine::TokenEvent& event : events) {
    out.push_back(prob_json(context, event, post_sampling));
  }
  return out;
}

Json progress_json(const PromptEvent& event, double ms) {
  return {{"total", event.total},
          {"cache", event.cached},
          {"processed", event.done},
          {"time_ms", std::llround(ms)}};
}

// Prompts are counted once, however many answers they have.
Json usage_json(const GenerationRequest& request, const Answers& answers) {
  int64_t prompt = 0;
  int64_t cached = 0;
  int64_t completion = 0;
  int64_t reasoning = 0;
  for (const auto& answer : answers) {
    completion += answer->timings().predicted_n;
    reasoning += answer->n_reasoning();
    if (answer->index() % request.n_choices == 0) {
      cached += answer->timings().cached_n;
    }
  }
  for (const auto& ids : request.prompts) {
    prompt += static_cast<int64_t>(ids.size());
  }
  Json usage = {{"completion_tokens", completion},
                {"prompt_tokens", prompt},
                {"total_tokens", prompt + completion},
                {"prompt_tokens_details", {{"cached_tokens", cached}}}};
  if (request.api == Api::chat) {
    usage["completion_tokens_details"] = {{"reasoning_tokens", reasoning}};
  }
  return usage;
}

class NativeShape final : public Shape {
 public:
  NativeShape(const Context& context, const GenerationRequest& request)
      : context_(context), request_(request) {}

  void prompt(const Answer& answer, const PromptEvent& event, double ms, std::string& out) override {
    Json chunk = partial(answer, "", Json::array());
    chunk["prompt_progress"] = progress_json(event, ms);
    append_event(out, chunk);
  }

  void piece(const Answer& answer, Piece piece, std::string& out) override {
    if (piece.text.empty() && piece.probs.empty() && !request_.return_tokens) {
      return;
    }
    Json chunk = partial(answer, std::move(piece.text), piece.tokens);
    add_extras(answer, piece, chunk);
    append_event(out, chunk);
  }

  void last(const Answer& answer, Piece piece, std::string& out) override {
    if (!piece.text.empty()) {
      append_event(out, partial(answer, std::move(piece.text), Json::array()));
    }
    append_event(out, final_json(answer, false));
  }

  void end(const Answers& /*answers*/, std::string& /*out*/) override {}

  Json whole(const Answers& answers) override {
    if (answers.size() == 1) {
      return selected(final_json(*answers.front(), true));
    }
    Json out = Json::array();
    for (const auto& answer : answers) {
      out.push_back(selected(final_json(*answer, true)));
    }
    return out;
  }

 private:
  const std::vector<int32_t>& ids(const Answer& answer) const {
    return request_.prompts[static_cast<size_t>(answer.index() / request_.n_choices)];
  }

  Json partial(const Answer& answer, std::string text, Json tokens) const {
    return {{"index", answer.index()},
            {"content", std::move(text)},
            {"tokens", std::move(tokens)},
            {"stop", false},
            {"id_slot", answer.slot()},
            {"tokens_predicted", answer.timings().predicted_n},
            {"tokens_evaluated", ids(answer).size()}};
  }

  void add_extras(const Answer& answer, const Piece& piece, Json& chunk) const {
    if (request_.timings_per_token) {
      chunk["timings"] = timings_json(answer.timings());
    }
    if (!piece.probs.empty()) {
      chunk["completion_probabilities"] = probs_json(context_, piece.probs, request_.post_sampling_probs);
    }
  }

  Json final_json(const Answer& answer, bool with_text) const {
    constexpr const char* kStopTypes[] = {"none", "eos", "word", "limit"};
    const std::vector<int32_t>& prompt = ids(answer);
    GenerationRequest effective = request_;
    effective.sampling.seed = answer.seed();
    Json out = {{"index", answer.index()},
                {"content", with_text ? answer.text() : ""},
                {"tokens", with_text && request_.return_tokens ? Json(answer.tokens()) : Json::array()},
                {"id_slot", answer.slot()},
                {"stop", true},
                {"model", context_.model_id()},
                {"tokens_predicted", answer.timings().predicted_n},
                {"tokens_evaluated", prompt.size()},
                {"generation_settings", generation_settings(context_, effective, false)},
                {"prompt", context_.tokenizer().decode(prompt, true)},
                {"has_new_line", answer.has_new_line()},
                {"truncated", answer.truncated()},
                {"stop_type", kStopTypes[static_cast<size_t>(answer.stop_type())]},
                {"stopping_word", answer.stopping_word()},
                {"tokens_cached", prompt.size() + answer.tokens().size()},
                {"timings", timings_json(answer.timings())}};
    if (with_text && request_.n_probs > 0) {
      out["completion_probabilities"] = probs_json(context_, answer.probs(), request_.post_sampling_probs);
    }
    return out;
  }

  // `response_fields`: paths with '/'; each value under its path as the key.
  Json selected(Json reply) const {
    if (request_.response_fields.empty()) {
      return reply;
    }
    Json out = Json::object();
    for (const std::string& path : request_.response_fields) {
      const Json* at = &reply;
      size_t begin = 0;
      while (at != nullptr && begin <= path.size()) {
        const size_t end = std::min(path.find('/', begin), path.size());
        const auto found = at->is_object() ? at->find(path.substr(begin, end - begin)) : at->end();
        at = at->is_object() && found != at->end() ? &*found : nullptr;
        begin = end + 1;
      }
      if (at != nullptr) {
        out[path] = *at;
      }
    }
    return out;
  }

  const Context& context_;
  const GenerationRequest& request_;
};

/// What OpenAI's two shapes share.
class OpenAiShape : public Shape {
 public:
  OpenAiShape(const Context& context, const GenerationRequest& request, const char* object)
      : context_(context),
        request_(request),
        object_(object),
        id_("chatcmpl-" + random_id()),
        created_(std::time(nullptr)) {}

  void prompt(const Answer& answer, const PromptEvent& event, double ms, std::string& out) override {
    Json chunk = frame(progress_choices(answer));
    chunk["prompt_progress"] = progress_json(event, ms);
    append_event(out, chunk);
  }

 protected:
  virtual Json progress_choices(const Answer& answer) = 0;

  Json frame(Json choices) const {
    return {{"choices", std::move(choices)},
            {"created", created_},
            {"id", id_},
            {"model", context_.model_id()},
            {"system_fingerprint", context_.options().build_info},
            {"object", object_}};
  }

  void send(const Answer& answer, Json choice, std::string& out) const {
    Json chunk = frame(Json::array({std::move(choice)}));
    if (request_.timings_per_token) {
      chunk["timings"] = timings_json(answer.timings());
    }
    append_event(out, chunk);
  }

  Json logprobs(const std::vector<engine::TokenEvent>& events) const {
    return {{"content", probs_json(context_, events, request_.post_sampling_probs)}};
  }

  Json reply(Json choices, const Answers& answers, std::string_view object) const {
    return {{"choices", std::move(choices)},
            {"created", created_},
            {"model", context_.model_id()},
            {"system_fingerprint", context_.options().build_info},
            {"object", object},
            {"usage", usage_json(request_, answers)},
            {"id", id_},
            {"timings", timings_json(answers.back()->timings())}};
  }

  const Context& context_;
  const GenerationRequest& request_;

 private:
  std::string object_;
  std::string id_;
  std::time_t created_;
};

class TextShape final : public OpenAiShape {
 public:
  TextShape(const Context& context, const GenerationRequest& request)
      : OpenAiShape(context, request, "text_completion") {}

  void piece(const Answer& answer, Piece piece, std::string& out) override {
    if (piece.text.empty() && piece.probs.empty()) {
      return;
    }
    Json choice = {{"text", std::move(piece.text)},
                   {"index", answer.index()},
                   {"logprobs", piece.probs.empty() ? Json(nullptr) : logprobs(piece.probs)},
                   {"finish_reason", nullptr}};
    send(answer, std::move(choice), out);
  }

  void last(const Answer& answer, Piece rest, std::string& out) override {
    if (!rest.text.empty()) {
      piece(answer, std::move(rest), out);
    }
    held_ = frame(Json::array({{{"text", ""},
                                {"index", answer.index()},
                                {"logprobs", nullptr},
                                {"finish_reason", answer.finish_reason()}}}));
    if (++n_last_ < static_cast<int32_t>(request_.prompts.size()) * request_.n_choices) {
      append_event(out, held_);
    }
  }

  void end(const Answers& answers, std::string& out) override {
    held_["usage"] = usage_json(request_, answers);
    held_["timings"] = timings_json(answers.back()->timings());
    append_event(out, held_);
    out += "data: [DONE]\n\n";
  }

  Json whole(const Answers& answers) override {
    Json choices = Json::array();
    for (const auto& answer : answers) {
      choices.push_back({{"text", answer->text()},
                         {"index", answer->index()},
                         {"logprobs", request_.n_probs > 0 ? logprobs(answer->probs()) : Json(nullptr)},
                         {"finish_reason", answer->finish_reason()}});
    }
    return reply(std::move(choices), answers, "text_completion");
  }

 private:
  Json progress_choices(const Answer& answer) override {
    return Json::array(
        {{{"text", ""}, {"index", answer.index()}, {"logprobs", nullptr}, {"finish_reason", nullptr}}});
  }

  Json held_;
  int32_t n_last_ = 0;
};

class ChatShape final : public OpenAiShape {
 public:
  ChatShape(const Context& context, const GenerationRequest& request)
      : OpenAiShape(context, request, "chat.completion.chunk"),
        begun_(static_cast<size_t>(request.n_choices)),
        waiting_(static_cast<size_t>(request.n_choices)) {}

  void piece(const Answer& answer, Piece piece, std::string& out) override {
    begin(answer, out);
    auto& waiting = waiting_[static_cast<size_t>(answer.index())];
    waiting.insert(waiting.end(), piece.probs.begin(), piece.probs.end());
    deltas(answer, piece.delta, out);
  }

  void last(const Answer& answer, Piece piece, std::string& out) override {
    begin(answer, out);
    deltas(answer, piece.delta, out);
    Json choice = {
        {"finish_reason", answer.finish_reason()}, {"index", answer.index()}, {"delta", Json::object()}};
    attach_probs(answer, choice);
    Json chunk = frame(Json::array({std::move(choice)}));
    if (++n_last_ == request_.n_choices && !request_.include_usage) {
      held_ = std::move(chunk);  // the stream's last chunk carries the timings
    } else {
      append_event(out, chunk);
    }
  }

  void end(const Answers& answers, std::string& out) override {
    if (request_.include_usage) {
      held_ = frame(Json::array());
      held_["usage"] = usage_json(request_, answers);
    }
    held_["timings"] = timings_json(answers.back()->timings());
    append_event(out, held_);
    out += "data: [DONE]\n\n";
  }

  Json whole(const Answers& answers) override {
    Json choices = Json::array();
    for (const auto& answer : answers) {
      Json message = {{"role", "assistant"}, {"content", answer->content()}};
      if (!answer->reasoning().empty()) {
        message["reasoning_content"] = answer->reasoning();
      }
      if (!answer->calls().empty()) {
        Json calls = Json::array();
        for (const chat::ToolCall& call : answer->calls()) {
          calls.push_back({{"type", "function"},
                           {"function", {{"name", call.name}, {"arguments", call.arguments}}},
                           {"id", call.id}});
        }
        message["tool_calls"] = std::move(calls);
      }
      Json choice = {{"finish_reason", answer->finish_reason()},
                     {"index", answer->index()},
                     {"message", std::move(message)}};
      if (request_.logprobs) {
        choice["logprobs"] = logprobs(answer->probs());
      }
      choices.push_back(std::move(choice));
    }
    return reply(std::move(choices), answers, "chat.completion");
  }

 private:
  Json progress_choices(const Answer& answer) override {
    return Json::array({{{"finish_reason", nullptr},
                         {"index", answer.index()},
                         {"delta", {{"role", "assistant"}, {"content", nullptr}}}}});
  }

  void begin(const Answer& answer, std::string& out) {
    const auto index = static_cast<size_t>(answer.index());
    if (!begun_[index]) {
      begun_[index] = true;
      send(answer, progress_choices(answer)[0], out);
    }
  }

  void attach_probs(const Answer& answer, Json& choice) {
    auto& waiting = waiting_[static_cast<size_t>(answer.index())];
    if (!waiting.empty()) {
      choice["logprobs"] = logprobs(waiting);
      waiting.clear();
    }
  }

  void delta(const Answer& answer, Json value, std::string& out) {
    Json choice = {{"finish_reason", nullptr}, {"index", answer.index()}, {"delta", std::move(value)}};
    attach_probs(answer, choice);
    send(answer, std::move(choice), out);
  }

  // Each chunk has one kind of key, never an empty text.
  void deltas(const Answer& answer, const chat::Delta& d, std::string& out) {
    if (!d.reasoning.empty()) {
      delta(answer, {{"reasoning_content", d.reasoning}}, out);
    }
    if (!d.content.empty()) {
      delta(answer, {{"content", d.content}}, out);
    }
    for (const chat::Delta::Call& call : d.calls) {
      Json value = {{"index", call.index}};
      Json function = Json::object();
      if (!call.id.empty()) {
        value["id"] = call.id;
        value["type"] = "function";
      }
      if (!call.name.empty()) {
        function["name"] = call.name;
      }
      function["arguments"] = call.arguments;
      value["function"] = std::move(function);
      delta(answer, {{"tool_calls", Json::array({std::move(value)})}}, out);
    }
  }

  std::vector<bool> begun_;
  std::vector<std::vector<engine::TokenEvent>> waiting_;  ///< probabilities of tokens whose text is held back
  Json held_;
  int32_t n_last_ = 0;
};

}  // namespace

Json timings_json(const engine::Timings& t) {
  const double steps = std::max(0, t.predicted_n - 1);  // the first token costs no decode step
  return {{"cache_n", t.cached_n},
          {"prompt_n", t.prompt_n},
          {"prompt_ms", t.prompt_ms},
          {"prompt_per_token_ms", or_zero(t.prompt_ms / t.prompt_n)},
          {"prompt_per_second", or_zero(1000.0 * t.prompt_n / t.prompt_ms)},
          {"predicted_n", t.predicted_n},
          {"predicted_ms", t.predicted_ms},
          {"predicted_per_token_ms", or_zero(t.predicted_ms / steps)},
          {"predicted_per_second", or_zero(1000.0 * steps / t.predicted_ms)}};
}

void append_event(std::string& out, const Json& value) {
  out += "data: ";
  out += dump(value);
  out += "\n\n";
}

std::unique_ptr<Shape> Shape::make(const Context& context, const GenerationRequest& request) {
  switch (request.api) {
    case Api::completion:
      return std::make_unique<NativeShape>(context, request);
    case Api::oai_completion:
      return std::make_unique<TextShape>(context, request);
    case Api::chat:
      break;
  }
  return std::make_unique<ChatShape>(context, request);
}

}  // namespace fl::server
