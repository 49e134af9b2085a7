#include "tokenizer/vocabulary.h"

#include <optional>
#include <unordered_map>

#include <fmt/format.h>

#include "gguf/gguf.h"
#include "tokenizer/byte_map.h"
#include "tokenizer/utf8.h"

namespace fl::tokenizer {
namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kSplitterKey = "tokenizer.ggml.pre";
constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";

// Ids are int32 throughout; the family has 248,320.
constexpr size_t kMaxTokens = size_t{1} << 24;

constexpr size_t kMaxQuoted = 40;

// A text of the file for an error message: short and printable.
std::string quote(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, kMaxQuoted)) {
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
    } else {
      out += c;
    }
  }
  out += text.size() > kMaxQuoted ? "...'" : "'";
  return is_valid_utf8(out) ? out : replace_invalid_utf8(out);
}

Status check_kind(const gguf::File& file) {
  for (const auto& [key, expected] : {std::pair{kModelKey, "gpt2"}, std::pair{kSplitterKey, "qwen35"}}) {
    if (!file.has(key)) {
      return fail(ErrorCode::bad_file, fmt::format("{}: expected '{}', found no such key", key, expected));
    }
    FL_ASSIGN(const std::string_view found, file.get_string(key));
    if (found != expected) {
      return fail(ErrorCode::bad_file,
                  fmt::format("{}: expected '{}', found {}", key, expected, quote(found)));
    }
  }
  return {};
}

bool is_text(TokenType type) {
  return type == TokenType::normal || type == TokenType::byte;
}

class Reader {
 public:
  Result<Vocabulary> read(const gguf::File& file) {
    FL_TRY(check_kind(file));
    FL_TRY(read_types(file));
    FL_TRY(read_tokens(file));
    FL_TRY(find_byte_tokens());
    FL_TRY(read_merges(file));
    return std::move(out_);
  }

 private:
  Status read_types(const gguf::File& file) {
    if (!file.has(kTypesKey)) {
      return fail(ErrorCode::bad_file,
                  fmt::format("{}: expected one type per token, found no such key", kTypesKey));
    }
    FL_ASSIGN(const std::vector<int64_t> types, file.get_ints(kTypesKey));
    out_.types.reserve(types.size());
    for (const int64_t type : types) {
      if (type < static_cast<int64_t>(TokenType::normal) || type > static_cast<int64_t>(TokenType::byte)) {
        return fail(ErrorCode::bad_file, fmt::format("{}[{}]: expected a type from 1 to 6, found {}",
                                                     kTypesKey, out_.types.size(), type));
      }
      out_.types.push_back(static_cast<TokenType>(type));
    }
    return {};
  }

  Status read_tokens(const gguf::File& file) {
    if (!file.has(kTokensKey)) {
      return fail(ErrorCode::bad_file,
                  fmt::format("{}: expected the vocabulary, found no such key", kTokensKey));
    }
    FL_ASSIGN(const std::vector<std::string_view> tokens, file.get_strings(kTokensKey));
    if (tokens.empty() || tokens.size() > kMaxTokens) {
      return fail(ErrorCode::bad_file, fmt::format("{}: expected 1 to {} tokens, found {}", kTokensKey,
                                                   kMaxTokens, tokens.size()));
    }
    if (tokens.size() != out_.types.size()) {
      return fail(ErrorCode::bad_file, fmt::format("{}: expected {} entries as in {}, found {}", kTypesKey,
                                                   tokens.size(), kTokensKey, out_.types.size()));
    }
    out_.offsets.reserve(tokens.size() + 1);
    out_.offsets.push_back(0);
    by_text_.reserve(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      FL_TRY(add_token(tokens[i], static_cast<int32_t>(i)));
    }
    return {};
  }

  Status add_token(std::string_view text, int32_t id) {
    const TokenType type = out_.types[static_cast<size_t>(id)];
    std::optional<std::string> bytes;
    if (is_text(type)) {
      const auto [it, added] = by_text_.emplace(text, id);
      if (!added) {
        return fail(ErrorCode::bad_file,
                    fmt::format("{}[{}]: {} is already token {}", kTokensKey, id, quote(text), it->second));
      }
      bytes = bytes_of_token_text(text);
    } else if (type == TokenType::control || type == TokenType::user_defined) {
      if (text.empty() || text.size() > SpecialTokens::kMaxBytes) {
        return fail(ErrorCode::bad_file,
                    fmt::format("{}[{}]: expected a special token of 1 to {} bytes, found {}", kTokensKey, id,
                                SpecialTokens::kMaxBytes, text.size()));
      }
      out_.special.push_back({std::string(text), id});
    }
    // A text that is not written in the byte alphabet stands for itself, as an added token does.
    out_.bytes.append(bytes ? std::string_view(*bytes) : text);
    out_.offsets.push_back(out_.bytes.size());
    return {};
  }

  Status find_byte_tokens() {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      std::string text;
      append_utf8(text, code_point_of_byte(static_cast<uint8_t>(byte)));
      const auto it = by_text_.find(text);
      if (it == by_text_.end()) {
        return fail(ErrorCode::bad_file,
                    fmt::format("{}: byte 0x{:02x} ({}) has no token, so not every text could be written",
                                kTokensKey, byte, quote(text)));
      }
      out_.byte_tokens[byte] = it->second;
    }
    return {};
  }

  Status read_merges(const gguf::File& file) {
    if (!file.has(kMergesKey)) {
      return fail(ErrorCode::bad_file,
                  fmt::format("{}: expected the merges of a byte-pair vocabulary, found no such "
                              "key; without them text cannot be tokenized",
                              kMergesKey));
    }
    FL_ASSIGN(const std::vector<std::string_view> merges, file.get_strings(kMergesKey));
    out_.merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      FL_TRY(add_merge(merges[i], i));
    }
    return {};
  }

  Status add_merge(std::string_view line, size_t index) {
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == line.size()) {
      return fail(ErrorCode::bad_file,
                  fmt::format("{}[{}]: expected two tokens with a space between, found {}", kMergesKey, index,
                              quote(line)));
    }
    const std::string_view left = line.substr(0, space);
    const std::string_view right = line.substr(space + 1);
    joined_.assign(left).append(right);
    Merge merge;
    for (const auto& [text, id] : {std::pair{left, &merge.left}, std::pair{right, &merge.right},
                                   std::pair{std::string_view(joined_), &merge.result}}) {
      const auto it = by_text_.find(text);
      if (it == by_text_.end()) {
        return fail(ErrorCode::bad_file,
                    fmt::format("{}[{}]: {} is not a normal token", kMergesKey, index, quote(text)));
      }
      *id = it->second;
    }
    out_.merges.push_back(merge);
    return {};
  }

  Vocabulary out_;
  std::unordered_map<std::string_view, int32_t>
      by_text_;  // normal tokens only; keys lie in the file's mapping
  std::string joined_;
};

}  // namespace

Result<Vocabulary> read_vocabulary(const gguf::File& file) {
  return Reader().read(file);
}

}  // namespace fl::tokenizer
