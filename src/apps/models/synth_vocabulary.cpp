#include "apps/models/synth_vocabulary.h"

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tokenizer/byte_map.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace fl::apps {
namespace {

using tokenizer::TokenType;

std::string unused(size_t id) {
  return fmt::format("[PAD{}]", id);
}

}  // namespace

void set_own_vocabulary(int64_t n_vocab, gguf::Writer& writer) {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<std::string> merges;
  const auto add = [&](std::string text, int32_t type) {
    tokens.push_back(std::move(text));
    types.push_back(type);
  };
  for (uint32_t byte = 0; byte < 256; ++byte) {
    std::string text;
    tokenizer::append_utf8(text, tokenizer::code_point_of_byte(static_cast<uint8_t>(byte)));
    add(std::move(text), 1);
  }
  for (char a = 'a'; a <= 'z'; ++a) {
    for (char b = 'a'; b <= 'z'; ++b) {
      add({a, b}, 1);
      merges.push_back({a, ' ', b});
    }
  }
  const std::vector<std::pair<std::string, int32_t>> special{
      {"<|endoftext|>", 3},  {"<|im_start|>", 3},    {"<|im_end|>", 3},       {"<|vision_start|>", 3},
      {"<|vision_end|>", 3}, {"<|image_pad|>", 3},   {"<|video_pad|>", 3},    {"<tool_call>", 4},
      {"</tool_call>", 4},   {"<tool_response>", 4}, {"</tool_response>", 4}, {"<think>", 4},
      {"</think>", 4}};
  while (static_cast<int64_t>(tokens.size() + special.size()) < n_vocab) {
    add(unused(tokens.size()), 5);
  }
  const auto eos = static_cast<uint32_t>(tokens.size() + 2);
  for (const auto& [text, type] : special) {
    add(text, type);
  }
  writer.set("tokenizer.ggml.model", std::string("gpt2"));
  writer.set("tokenizer.ggml.pre", std::string("qwen35"));
  writer.set("tokenizer.ggml.tokens", std::move(tokens));
  writer.set("tokenizer.ggml.token_type", std::move(types));
  writer.set("tokenizer.ggml.merges", std::move(merges));
  writer.set("tokenizer.ggml.eos_token_id", eos);
  writer.set("tokenizer.ggml.add_bos_token", false);
}

Status copy_vocabulary(const gguf::File& file, int64_t n_vocab, gguf::Writer& writer) {
  if (const auto checked = tokenizer::Tokenizer::from_gguf(file); !checked) {
    return fail(checked.error(), fmt::format("'{}'", file.path().string()));
  }
  for (const gguf::File::Entry& entry : file.entries()) {
    if (entry.key.starts_with("tokenizer.")) {
      FL_ASSIGN(gguf::Value value, file.value(entry.key));
      writer.set(std::string(entry.key), std::move(value));
    }
  }
  FL_ASSIGN(const std::vector<std::string_view> texts, file.get_strings("tokenizer.ggml.tokens"));
  FL_ASSIGN(const std::vector<int64_t> kinds, file.get_ints("tokenizer.ggml.token_type"));
  if (static_cast<int64_t>(texts.size()) > n_vocab) {
    return fail(ErrorCode::invalid_argument, fmt::format("'{}': expected at most {} tokens, found {}",
                                                         file.path().string(), n_vocab, texts.size()));
  }
  std::vector<std::string> tokens(texts.begin(), texts.end());
  std::vector<int32_t> types(kinds.begin(), kinds.end());
  while (static_cast<int64_t>(tokens.size()) < n_vocab) {
    tokens.push_back(unused(tokens.size()));
    types.push_back(static_cast<int32_t>(TokenType::unused));
  }
  writer.set("tokenizer.ggml.tokens", std::move(tokens));
  writer.set("tokenizer.ggml.token_type", std::move(types));
  return {};
}

}  // namespace fl::apps
