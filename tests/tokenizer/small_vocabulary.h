// A vocabulary small enough to reason about: the 256 bytes, some merges, some special tokens; written as
// GGUF.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/gguf.h"
#include "tokenizer/byte_map.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace fl::tokenizer::test {

struct SmallVocabulary {
  std::string model = "gpt2";
  std::string splitter = "qwen35";
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<std::string> merges;

  SmallVocabulary() {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      std::string text;
      append_utf8(text, code_point_of_byte(static_cast<uint8_t>(byte)));
      add(text, TokenType::normal);
    }
  }

  int32_t add(std::string text, TokenType type) {
    tokens.push_back(std::move(text));
    types.push_back(static_cast<int32_t>(type));
    return static_cast<int32_t>(tokens.size()) - 1;
  }

  /// Adds the merge and the token that it makes.
  int32_t merge(const std::string& left, const std::string& right) {
    merges.push_back(left + " " + right);
    return add(left + right, TokenType::normal);
  }

  Result<Tokenizer> build(void (*edit)(gguf::Writer&) = nullptr) const {
    const auto path = std::filesystem::temp_directory_path() /
                      ("freelunch_vocabulary_" + std::to_string(::getpid()) + ".gguf");
    {
      auto writer = gguf::Writer::create(path).value();
      writer.set("general.architecture", std::string("qwen35"));
      writer.set("tokenizer.ggml.model", model);
      writer.set("tokenizer.ggml.pre", splitter);
      if (!tokens.empty()) {
        writer.set("tokenizer.ggml.tokens", tokens);
        writer.set("tokenizer.ggml.token_type", types);
      }
      if (!merges.empty()) {
        writer.set("tokenizer.ggml.merges", merges);
      }
      if (edit != nullptr) {
        edit(writer);
      }
      EXPECT_TRUE(writer.begin_data());
      EXPECT_TRUE(writer.finish());
    }
    const auto file = gguf::File::open(path);
    std::filesystem::remove(path);
    if (!file) {
      return tl::unexpected(file.error());
    }
    return Tokenizer::from_gguf(*file);
  }
};

}  // namespace fl::tokenizer::test
