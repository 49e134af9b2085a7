// Ends a thought after a number of tokens: forces a message and "\n</think>", then lets the model go on.
// Rules: ggml-org/llama.cpp, common/reasoning-budget.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"

namespace fl::tokenizer {
class Tokenizer;
}

namespace fl::server {

class ReasoningBudget final : public engine::TokenHook {
 public:
  /// `prefix`: what the prompt already wrote of the answer; its tokens after "<think>" count. The tokenizer
  /// must outlive the hook.
  ReasoningBudget(const tokenizer::Tokenizer& tokenizer, int32_t budget, std::string_view message,
                  std::string_view prefix);

  std::optional<int32_t> forced() override;
  void mask(std::span<float> /*logits*/) override {}
  bool masks() const override { return false; }
  void accept(int32_t token) override;

 private:
  void see(std::string_view text);

  const tokenizer::Tokenizer& tokenizer_;
  const int32_t budget_;
  std::vector<int32_t> closing_;  ///< tokens to force
  bool thinking_ = false;
  int32_t n_thought_ = 0;
  size_t next_forced_ = 0;  ///< in closing_; 0: not forcing
  bool forcing_ = false;
  std::string tail_;  ///< the last bytes, for tags that span tokens
  int partial_ = 0;   ///< bytes still missing of a UTF-8 character
};

}  // namespace fl::server
