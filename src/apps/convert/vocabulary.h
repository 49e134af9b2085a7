// The tokenizer and template of a checkpoint as GGUF metadata.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/result.h"
#include "gguf/gguf.h"

namespace fl::apps::convert {

/// Reads tokenizer.json (byte-level BPE), tokenizer_config.json, generation_config.json and
/// chat_template.jinja; unused ids up to n_vocab become "[PAD<id>]".
Status set_vocabulary(const std::filesystem::path& dir, int64_t n_vocab, gguf::Writer& writer);

}  // namespace fl::apps::convert
