// The recursion counter of the evaluator.
#pragma once

#include <fmt/format.h>

#include "chat/jinja/interpreter.h"

namespace fl::chat::jinja {

/// Counts the evaluator's recursion for as long as it lives.
class Interpreter::Depth {
 public:
  explicit Depth(Interpreter& interpreter) : interpreter_(interpreter) {
    if (interpreter_.depth_ >= kMaxEvaluationDepth) {
      throw TemplateError(fmt::format("the template recurses deeper than {}", kMaxEvaluationDepth));
    }
    ++interpreter_.depth_;
  }
  ~Depth() { --interpreter_.depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  Interpreter& interpreter_;
};

}  // namespace fl::chat::jinja
