// The JSON of replies and of stream chunks: llama-server's native shape and OpenAI's two.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/answer.h"
#include "server/events.h"
#include "server/json.h"

namespace fl::server {

class Context;

Json timings_json(const engine::Timings& timings);

/// One shape: how pieces of a stream and whole replies look. `out` grows by complete SSE events.
class Shape {
 public:
  static std::unique_ptr<Shape> make(const Context& context, const GenerationRequest& request);
  virtual ~Shape() = default;

  virtual void prompt(const Answer& answer, const PromptEvent& event, double ms, std::string& out) = 0;
  virtual void piece(const Answer& answer, Piece piece, std::string& out) = 0;
  /// The last chunk of one answer.
  virtual void last(const Answer& answer, Piece piece, std::string& out) = 0;
  /// After the last of all answers.
  virtual void end(const std::vector<std::unique_ptr<Answer>>& answers, std::string& out) = 0;
  /// The reply that is not streamed.
  virtual Json whole(const std::vector<std::unique_ptr<Answer>>& answers) = 0;
};

/// `data: {...}\n\n`.
void append_event(std::string& out, const Json& value);

}  // namespace fl::server
