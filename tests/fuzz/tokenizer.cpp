// Any bytes as a text (the ids decode to it again) and as a vocabulary's merges (an error or a tokenizer).
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "tokenizer/byte_map.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace {

using fl::tokenizer::Tokenizer;

std::optional<Tokenizer> load(std::vector<std::string> tokens, std::vector<int32_t> types,
                              const std::vector<std::string>& merges) {
  const auto path =
      std::filesystem::temp_directory_path() / ("fuzz_tokenizer_" + std::to_string(::getpid()) + ".gguf");
  auto writer = fl::gguf::Writer::create(path);
  if (!writer) {
    std::abort();
  }
  writer->set("tokenizer.ggml.model", std::string("gpt2"));
  writer->set("tokenizer.ggml.pre", std::string("qwen35"));
  writer->set("tokenizer.ggml.tokens", std::move(tokens));
  writer->set("tokenizer.ggml.token_type", std::move(types));
  writer->set("tokenizer.ggml.merges", merges);
  if (!writer->begin_data() || !writer->finish()) {
    std::abort();
  }
  auto file = fl::gguf::File::open(path);
  std::filesystem::remove(path);
  if (!file) {
    return std::nullopt;
  }
  auto tokenizer = Tokenizer::from_gguf(*file);
  return tokenizer ? std::optional(std::move(*tokenizer)) : std::nullopt;
}

std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    fl::tokenizer::append_utf8(tokens.emplace_back(),
                               fl::tokenizer::code_point_of_byte(static_cast<uint8_t>(byte)));
  }
  return tokens;
}

Tokenizer plain_tokenizer() {
  auto tokens = byte_tokens();
  tokens.insert(tokens.end(), {"ab", "aba", "aa", "<|im_end|>", "<think>"});
  std::vector<int32_t> types(tokens.size(), 1);
  types[types.size() - 2] = 3;
  types[types.size() - 1] = 4;
  return *load(tokens, types, {"a b", "ab a", "a a"});
}

// The lines of the input are tokens and merges by turns.
void try_vocabulary(std::string_view text) {
  auto tokens = byte_tokens();
  std::vector<int32_t> types(tokens.size(), 1);
  std::vector<std::string> merges;
  for (bool merge = false; !text.empty(); merge = !merge) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (merge) {
      merges.emplace_back(text.substr(0, end));
    } else {
      types.push_back(end > 0 ? 1 + static_cast<uint8_t>(text[0]) % 6 : 1);
      tokens.emplace_back(text.substr(0, end));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (const auto tokenizer = load(tokens, types, merges)) {
    const std::string sample = "aab<|im_end|> x\n";
    if (tokenizer->decode(tokenizer->encode(sample, fl::tokenizer::Special::plain), true) != sample) {
      std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer kTokenizer = plain_tokenizer();
  if (size == 0) {
    return 0;
  }
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 16 == 0) {
    try_vocabulary(text);
    return 0;
  }
  const std::string expected = fl::tokenizer::replace_invalid_utf8(text);
  for (const auto special : {fl::tokenizer::Special::plain, fl::tokenizer::Special::parse}) {
    if (kTokenizer.decode(kTokenizer.encode(text, special), true) != expected) {
      std::abort();
    }
  }
  fl::tokenizer::Utf8Stream stream;
  std::string out;
  for (const char c : text) {
    out += stream.push({&c, 1});
  }
  out += stream.finish();
  if (!fl::tokenizer::is_valid_utf8(out)) {
    std::abort();
  }
  return 0;
}
