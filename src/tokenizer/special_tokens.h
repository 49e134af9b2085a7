// The special tokens of a vocabulary and their places in a trusted text.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fl::tokenizer {

class SpecialTokens {
 public:
  /// A longer text is no special token of any published file; the bound keeps find() linear.
  static constexpr size_t kMaxBytes = 256;

  struct Token {
    std::string text;
    int32_t id = 0;
  };
  struct Match {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = 0;
  };

  SpecialTokens() = default;
  /// Texts are of 1 to kMaxBytes bytes; of a repeated text the first counts.
  explicit SpecialTokens(std::vector<Token> tokens);

  /// The leftmost special token at or after `pos`, the longest of those that begin there.
  std::optional<Match> find(std::string_view text, size_t pos) const;
  std::optional<int32_t> id(std::string_view text) const;

 private:
  std::vector<Token> tokens_;  // by text
  std::array<bool, 256> starts_{};
};

}  // namespace fl::tokenizer
