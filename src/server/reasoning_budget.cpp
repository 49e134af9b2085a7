#include "server/reasoning_budget.h"

#include <algorithm>
#include <array>

#include "chat/chat.h"
#include "tokenizer/tokenizer.h"

namespace fl::server {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::array<std::string_view, 2> kClose{"</think>", "<tool_call>"};
constexpr size_t kTailBytes = 16;  ///< at least the longest tag

// Bytes of a UTF-8 character that are still to come after this byte.
int missing_after(unsigned char byte, int missing) {
  if (byte < 0x80 || byte >= 0xF8) {
    return 0;
  }
  if (byte < 0xC0) {
    return std::max(0, missing - 1);
  }
  return byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
}

}  // namespace

ReasoningBudget::ReasoningBudget(const tokenizer::Tokenizer& tokenizer, int32_t budget,
                                 std::string_view message, std::string_view prefix)
    : tokenizer_(tokenizer), budget_(budget) {
  // The message is the operator's or the client's text: no control token in it. The tag is ours.
  closing_ = chat::encode(tokenizer, {{std::string(message), false}, {"\n</think>", true}});
  if (chat::ends_in_reasoning(prefix)) {
    thinking_ = true;
    const std::string_view written = prefix.substr(prefix.rfind(kOpen) + kOpen.size());
    n_thought_ = static_cast<int32_t>(tokenizer.encode(written, tokenizer::Special::plain).size());
  }
}

std::optional<int32_t> ReasoningBudget::forced() {
  if (!forcing_ && thinking_ && n_thought_ >= budget_ && partial_ == 0) {
    forcing_ = true;
    next_forced_ = 0;
  }
  if (!forcing_ || next_forced_ >= closing_.size()) {
    return std::nullopt;
  }
  return closing_[next_forced_];
}

void ReasoningBudget::see(std::string_view text) {
  for (const char c : text) {
    partial_ = missing_after(static_cast<unsigned char>(c), partial_);
    if (tail_.size() == kTailBytes) {
      tail_.erase(0, 1);
    }
    tail_ += c;
    if (!thinking_ && tail_.ends_with(kOpen)) {
      thinking_ = true;  // a new thought has the whole budget again
      n_thought_ = 0;
    } else if (thinking_ && std::ranges::any_of(kClose, [&](auto tag) { return tail_.ends_with(tag); })) {
      thinking_ = false;
    }
  }
}

void ReasoningBudget::accept(int32_t token) {
  const bool was_thinking = thinking_;
  see(tokenizer_.piece(token));
  if (forcing_) {
    if (next_forced_ < closing_.size() && token == closing_[next_forced_]) {
      ++next_forced_;
    }
    if (next_forced_ == closing_.size()) {
      forcing_ = false;
      thinking_ = false;
    }
  } else if (was_thinking && thinking_) {
    ++n_thought_;
  }
}

}  // namespace fl::server
