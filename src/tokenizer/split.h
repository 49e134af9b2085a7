// The qwen35 pre-tokenizer: cuts text into the pieces inside which BPE may merge. Equivalent to the pattern
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|
//   ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// written by hand: linear in the text, no recursion. A byte that is not UTF-8 counts as a symbol of its own.
#pragma once

#include <string_view>
#include <vector>

namespace fl::tokenizer {

/// Appends views into `text` that, in order, make up all of it.
void split_qwen35(std::string_view text, std::vector<std::string_view>& pieces);

}  // namespace fl::tokenizer
