#include "tokenizer/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include <fmt/format.h>

#include "gguf/gguf.h"
#include "tokenizer/bpe.h"
#include "tokenizer/split.h"

namespace fl::tokenizer {
namespace {

constexpr int32_t kMaxVocab = 1 << 22;

// GPT-2's map of bytes to printable characters: 33-126, 161-172 and 174-255 stand for themselves, the other
// 68 for U+0100 and on.
std::array<int32_t, 256> byte_to_code() {
  std::array<int32_t, 256> map{};
  int32_t next = 256;
  for (int32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    map[static_cast<size_t>(b)] = printable ? b : next++;
  }
  return map;
}

constexpr int32_t kMaxMappedCode = 256 + 68;

std::string utf8(int32_t code) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t n = utf8proc_encode_char(code, bytes.data());
  return {reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(n)};
}

// The bytes that a token in GPT-2's spelling stands for; characters outside the map stand for themselves.
std::string unmap(std::string_view text) {
  static const std::array<int16_t, kMaxMappedCode> kBytes = [] {
    std::array<int16_t, kMaxMappedCode> bytes{};
    bytes.fill(-1);
    const std::array<int32_t, 256> map = byte_to_code();
    for (size_t b = 0; b < 256; ++b) {
      bytes[static_cast<size_t>(map[b])] = static_cast<int16_t>(b);
    }
    return bytes;
  }();
  std::string out;
  while (!text.empty()) {
    int32_t code = -1;
    const utf8proc_ssize_t n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                static_cast<utf8proc_ssize_t>(text.size()), &code);
    const size_t length = n > 0 ? static_cast<size_t>(n) : 1;
    if (n > 0 && code < kMaxMappedCode && kBytes[static_cast<size_t>(code)] >= 0) {
      out += static_cast<char>(kBytes[static_cast<size_t>(code)]);
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace

struct Tokenizer::Impl {
  std::vector<std::string> pieces;  ///< raw bytes
  std::vector<TokenType> types;
  std::array<int32_t, 256> byte_ids{};
  MergeTable merges{0};
  std::unordered_map<std::string, int32_t> special;
  std::array<std::vector<int32_t>, 256> special_by_first;  ///< ids by first byte, longest text first
  int32_t eos = -1;
  int32_t bos = -1;
  bool add_bos = false;
  std::vector<int32_t> end_of_generation;
  std::optional<std::string> chat_template;

  Status read_tokens(const gguf::File& file, std::unordered_map<std::string_view, int32_t>& ids);
  Status read_merges(const gguf::File& file, const std::unordered_map<std::string_view, int32_t>& ids);
  Status read_ids(const gguf::File& file);

  void encode_plain(std::string_view text, std::vector<int32_t>& out) const {
    std::vector<std::string_view> parts;
    split_qwen35(text, parts);
    Merger merger(merges);
    std::vector<int32_t> ids;
    for (std::string_view part : parts) {
      ids.clear();
      for (char c : part) {
        ids.push_back(byte_ids[static_cast<uint8_t>(c)]);
      }
      merger.merge(ids);
      out.insert(out.end(), ids.begin(), ids.end());
    }
  }

  // The longest special token that starts at `at`, -1 if none does.
  int32_t special_at(std::string_view text, size_t at) const {
    for (int32_t id : special_by_first[static_cast<uint8_t>(text[at])]) {
      if (text.substr(at).starts_with(pieces[static_cast<size_t>(id)])) {
        return id;
      }
    }
    return -1;
  }
};

Status Tokenizer::Impl::read_tokens(const gguf::File& file,
                                    std::unordered_map<std::string_view, int32_t>& ids) {
  FL_ASSIGN(const std::vector<std::string_view> tokens, file.get_strings("tokenizer.ggml.tokens"));
  FL_ASSIGN(const std::vector<int64_t> kinds, file.get_ints("tokenizer.ggml.token_type"));
  if (tokens.empty() || tokens.size() > kMaxVocab || kinds.size() != tokens.size()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': {} tokens and {} token types", file.path().string(),
                                                 tokens.size(), kinds.size()));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (kinds[i] < 1 || kinds[i] > 6) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': token {} has the type {}, expected 1 to 6",
                                                   file.path().string(), i, kinds[i]));
    }
    const auto type = static_cast<TokenType>(kinds[i]);
    const auto id = static_cast<int32_t>(i);
    types.push_back(type);
    pieces.push_back(type == TokenType::normal ? unmap(tokens[i]) : std::string(tokens[i]));
    ids.emplace(tokens[i], id);  // of equal texts the first counts
    if ((type == TokenType::control || type == TokenType::user_defined) && !tokens[i].empty() &&
        special.emplace(std::string(tokens[i]), id).second) {
      special_by_first[static_cast<uint8_t>(tokens[i].front())].push_back(id);
    }
  }
  for (std::vector<int32_t>& bucket : special_by_first) {
    std::stable_sort(bucket.begin(), bucket.end(), [&](int32_t a, int32_t b) {
      return pieces[static_cast<size_t>(a)].size() > pieces[static_cast<size_t>(b)].size();
    });
  }
  const std::array<int32_t, 256> codes = byte_to_code();
  for (size_t b = 0; b < 256; ++b) {
    const auto found = ids.find(utf8(codes[b]));
    if (found == ids.end()) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': the vocabulary has no token for the byte {}", file.path().string(), b));
    }
    byte_ids[b] = found->second;
  }
  return {};
}

Status Tokenizer::Impl::read_merges(const gguf::File& file,
                                    const std::unordered_map<std::string_view, int32_t>& ids) {
  FL_ASSIGN(const std::vector<std::string_view> texts, file.get_strings("tokenizer.ggml.merges"));
  if (texts.empty() || texts.size() > kMaxVocab) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': {} merges", file.path().string(), texts.size()));
  }
  merges = MergeTable(texts.size());
  std::string joined;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    const std::string_view text = texts[rank];
    // The separator is the first space that is not the first character.
    const size_t space = text.find(' ', 1);
    const auto unknown = [&] {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': merge {} ('{}') is not of two known tokens into a third",
                              file.path().string(), rank, text.substr(0, 80)));
    };
    if (space == std::string_view::npos) {
      return unknown();
    }
    const auto left = ids.find(text.substr(0, space));
    const auto right = ids.find(text.substr(space + 1));
    joined.assign(text.substr(0, space));
    joined += text.substr(space + 1);
    const auto merged = ids.find(joined);
    if (left == ids.end() || right == ids.end() || merged == ids.end()) {
      return unknown();
    }
    merges.add(left->second, right->second, static_cast<int32_t>(rank), merged->second);
  }
  return {};
}

Status Tokenizer::Impl::read_ids(const gguf::File& file) {
  const auto read_id = [&](const char* key, int32_t& out) -> Status {
    FL_ASSIGN(const int64_t id, file.get_int_or(key, -1));
    if (id < -1 || id >= static_cast<int64_t>(pieces.size())) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': {} is {}, expected an id below {}",
                                                   file.path().string(), key, id, pieces.size()));
    }
    out = static_cast<int32_t>(id);
    return {};
  };
  FL_TRY(read_id("tokenizer.ggml.eos_token_id", eos));
  FL_TRY(read_id("tokenizer.ggml.bos_token_id", bos));
  FL_ASSIGN(add_bos, file.get_bool_or("tokenizer.ggml.add_bos_token", false));
  if (eos >= 0) {
    end_of_generation.push_back(eos);
  }
  // The family's other ends; the last three as in llama.cpp (src/llama-vocab.cpp).
  for (const char* text : {"<|im_end|>", "<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}) {
    const auto found = special.find(text);
    if (found != special.end() && std::find(end_of_generation.begin(), end_of_generation.end(),
                                            found->second) == end_of_generation.end()) {
      end_of_generation.push_back(found->second);
    }
  }
  if (file.has("tokenizer.chat_template")) {
    FL_ASSIGN(const std::string_view text, file.get_string("tokenizer.chat_template"));
    chat_template = std::string(text);
  }
  return {};
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::from_gguf(const gguf::File& file) {
  FL_ASSIGN(const std::string_view model, file.get_string("tokenizer.ggml.model"));
  FL_ASSIGN(const std::string_view pre, file.get_string_or("tokenizer.ggml.pre", ""));
  if (model != "gpt2" || pre != "qwen35") {
    return fail(ErrorCode::bad_file, fmt::format("'{}': expected the tokenizer gpt2/qwen35, found {}/{}",
                                                 file.path().string(), model, pre));
  }
  auto impl = std::make_unique<Impl>();
  std::unordered_map<std::string_view, int32_t> ids;
  FL_TRY(impl->read_tokens(file, ids));
  FL_TRY(impl->read_merges(file, ids));
  FL_TRY(impl->read_ids(file));
  return Tokenizer(std::move(impl));
}

int32_t Tokenizer::n_vocab() const {
  return static_cast<int32_t>(impl_->pieces.size());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Special special) const {
  std::vector<int32_t> ids;
  encode_append(text, special, ids);
  return ids;
}

void Tokenizer::encode_append(std::string_view text, Special special, std::vector<int32_t>& ids) const {
  if (special == Special::plain) {
    impl_->encode_plain(text, ids);
    return;
  }
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const int32_t id = impl_->special_at(text, at);
    if (id < 0) {
      ++at;
      continue;
    }
    impl_->encode_plain(text.substr(start, at - start), ids);
    ids.push_back(id);
    at += impl_->pieces[static_cast<size_t>(id)].size();
    start = at;
  }
  impl_->encode_plain(text.substr(start), ids);
}

std::string_view Tokenizer::piece(int32_t id) const {
  return id >= 0 && id < n_vocab() ? std::string_view(impl_->pieces[static_cast<size_t>(id)])
                                   : std::string_view{};
}

TokenType Tokenizer::type(int32_t id) const {
  return id >= 0 && id < n_vocab() ? impl_->types[static_cast<size_t>(id)] : TokenType::unknown;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool with_control) const {
  std::string text;
  for (int32_t id : ids) {
    if (with_control || type(id) != TokenType::control) {
      text += piece(id);
    }
  }
  return text;
}

std::optional<int32_t> Tokenizer::special_id(std::string_view text) const {
  const auto found = impl_->special.find(std::string(text));
  return found == impl_->special.end() ? std::nullopt : std::optional(found->second);
}

int32_t Tokenizer::eos() const {
  return impl_->eos;
}
int32_t Tokenizer::bos() const {
  return impl_->bos;
}
bool Tokenizer::add_bos() const {
  return impl_->add_bos;
}
const std::vector<int32_t>& Tokenizer::end_of_generation() const {
  return impl_->end_of_generation;
}

std::optional<std::string_view> Tokenizer::chat_template() const {
  return impl_->chat_template ? std::optional<std::string_view>(*impl_->chat_template) : std::nullopt;
}

}  // namespace fl::tokenizer
