// Byte-level BPE with the qwen35 splitter: bytes to ids and back. Thread-safe after construction.
// Algorithm: openai/gpt-2 encoder.py (byte map, merges); splitter: ggml-org/llama.cpp, src/unicode.cpp
// (qwen35).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fl::gguf {
class File;
}

namespace fl::tokenizer {

enum class TokenType : uint8_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

/// Whether special tokens (control and user-defined) written in the text become their ids. Text from a user
/// is `plain`: "<|im_end|>" in it is eight ordinary tokens or so, never the control token.
enum class Special : uint8_t { plain, parse };

class Tokenizer {
 public:
  /// Reads tokenizer.ggml.*; a vocabulary-only file will do. Errors: no or foreign tokenizer, no merges, a
  /// merge of unknown tokens, token_type of another length.
  static Result<Tokenizer> from_gguf(const gguf::File& file);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  int32_t n_vocab() const;
  /// O(n log n) in the length of the text. Each byte that is no part of a valid UTF-8 character counts as
  /// U+FFFD. No BOS, no EOS are added.
  std::vector<int32_t> encode(std::string_view text, Special special) const;
  void encode_append(std::string_view text, Special special, std::vector<int32_t>& ids) const;

  /// As `parse`, but a special token counts only where it lies wholly inside one of the `trusted` ranges
  /// (ascending, disjoint). Everything else merges across their borders: the ids are those of the whole text.
  struct ByteRange {
    size_t begin = 0;
    size_t end = 0;
  };
  std::vector<int32_t> encode(std::string_view text, std::span<const ByteRange> trusted) const;

  /// The raw bytes of a token (may be part of a character). Unknown ids give "".
  std::string_view piece(int32_t id) const;
  TokenType type(int32_t id) const;
  /// Bytes of all tokens; control tokens are left out unless `with_control`.
  std::string decode(std::span<const int32_t> ids, bool with_control) const;
  /// The id of a special token by its text ("<|im_end|>").
  std::optional<int32_t> special_id(std::string_view text) const;

  int32_t eos() const;  ///< -1 if the file names none
  int32_t bos() const;  ///< -1 if none; never added by encode
  bool add_bos() const;
  const std::vector<int32_t>& end_of_generation() const;  ///< eos and the family's <|im_end|>, <|endoftext|>
  std::optional<std::string_view> chat_template() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Turns a stream of token bytes into valid UTF-8: holds back an incomplete character until the rest arrives;
/// bytes that can never become a character come out as U+FFFD, one for each longest start of a character.
class Utf8Stream {
 public:
  /// The text that is complete after these bytes.
  std::string push(std::string_view bytes);
  /// The end: what was held back, as U+FFFD.
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace fl::tokenizer
