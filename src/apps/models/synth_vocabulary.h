// Vocabularies of synthetic models.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "gguf/gguf.h"

namespace fl::apps {

/// A vocabulary that any text can be written in: all bytes, all pairs of small letters, the family's special
/// tokens at the end; unused ids between fill it up to n_vocab.
void set_own_vocabulary(int64_t n_vocab, gguf::Writer& writer);

/// Copies the tokenizer's keys of a file; unused ids fill it up to n_vocab. Errors: the file's tokenizer is
/// not one of the family, or has more than n_vocab tokens.
Status copy_vocabulary(const gguf::File& file, int64_t n_vocab, gguf::Writer& writer);

}  // namespace fl::apps
