// The qwen35 pre-tokenizer: cuts a text into the pieces inside which BPE merges. The published pattern, first
// alternative that matches at each position:
//
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)
//   [^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+
//   \p{N}
//    ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*
//   \s*[\r\n]+
//   \s+(?!\S)
//   \s+
//
// Written as a loop, because a backtracking engine recurses once per character. Source of the pattern: the
// family's tokenizer.json and ggml-org/llama.cpp, src/llama-vocab.cpp (LLAMA_VOCAB_PRE_TYPE_QWEN35).
#pragma once

#include <cstddef>
#include <string_view>

namespace fl::tokenizer {

/// End (in bytes) of the piece that starts at `pos` < text.size(). `text` is valid UTF-8. Visits each
/// character of the piece at most three times and looks at most one run of white space beyond it.
size_t next_piece(std::string_view text, size_t pos);

}  // namespace fl::tokenizer
