#include "tokenizer/special_tokens.h"

#include <algorithm>

#include "base/result.h"

namespace fl::tokenizer {

SpecialTokens::SpecialTokens(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  const auto by_text = [](const Token& a, const Token& b) { return a.text < b.text; };
  const auto same_text = [](const Token& a, const Token& b) { return a.text == b.text; };
  std::stable_sort(tokens_.begin(), tokens_.end(), by_text);
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same_text), tokens_.end());
  for (const Token& token : tokens_) {
    FL_CHECK(!token.text.empty() && token.text.size() <= kMaxBytes,
             "special token length checked by the reader");
    starts_[static_cast<uint8_t>(token.text[0])] = true;
  }
}

std::optional<SpecialTokens::Match> SpecialTokens::find(std::string_view text, size_t pos) const {
  for (; pos < text.size(); ++pos) {
    if (!starts_[static_cast<uint8_t>(text[pos])]) {
      continue;
    }
    // Narrow the sorted list to the tokens that agree with the text so far, one byte at a time.
    auto begin = tokens_.begin();
    auto end = tokens_.end();
    std::optional<Match> longest;
    for (size_t length = 0; begin != end && pos + length < text.size();) {
      const auto wanted = static_cast<uint8_t>(text[pos + length]);
      const auto byte_at = [length](const Token& token) -> int {
        return length < token.text.size() ? static_cast<uint8_t>(token.text[length]) : -1;
      };
      begin = std::partition_point(begin, end, [&](const Token& token) { return byte_at(token) < wanted; });
      end = std::partition_point(begin, end, [&](const Token& token) { return byte_at(token) <= wanted; });
      ++length;
      // The shortest of the agreeing tokens comes first.
      if (begin != end && begin->text.size() == length) {
        longest = Match{pos, pos + length, begin->id};
      }
    }
    if (longest) {
      return longest;
    }
  }
  return std::nullopt;
}

std::optional<int32_t> SpecialTokens::id(std::string_view text) const {
  const auto it = std::lower_bound(tokens_.begin(), tokens_.end(), text,
                                   [](const Token& token, std::string_view t) { return token.text < t; });
  return it != tokens_.end() && it->text == text ? std::optional(it->id) : std::nullopt;
}

}  // namespace fl::tokenizer
