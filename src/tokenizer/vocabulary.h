// The tokenizer part of a GGUF file, read and checked.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tokenizer/bpe.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/tokenizer.h"

namespace fl::tokenizer {

struct Vocabulary {
  std::string bytes;              ///< of all tokens, one after the other
  std::vector<uint64_t> offsets;  ///< n_vocab + 1, into `bytes`
  std::vector<TokenType> types;
  std::array<int32_t, 256> byte_tokens{};
  std::vector<Merge> merges;
  std::vector<SpecialTokens::Token> special;  ///< control and user-defined

  int32_t size() const { return static_cast<int32_t>(types.size()); }
};

/// Reads tokenizer.ggml.{model,pre,tokens,token_type,merges}. A merge may only make a normal token, so that
/// no spelling of plain text can become a control token.
Result<Vocabulary> read_vocabulary(const gguf::File& file);

}  // namespace fl::tokenizer
