#include "tokenizer/tokenizer.h"

#include <algorithm>

#include <fmt/format.h>

#include "gguf/gguf.h"
#include "tokenizer/bpe.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/splitter.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocabulary.h"

namespace fl::tokenizer {
namespace {

constexpr std::string_view kTemplateKey = "tokenizer.chat_template";

// Tokens that end an answer whatever the file says. The last three separate documents in the family's code
// training.
constexpr std::string_view kEndTexts[] = {"<|im_end|>", "<|endoftext|>", "<|fim_pad|>", "<|repo_name|>",
                                          "<|file_sep|>"};

// -1 if the file does not name the token.
Result<int32_t> read_id(const gguf::File& file, std::string_view key, int32_t n_vocab) {
  FL_ASSIGN(const int64_t id, file.get_int_or(key, -1));
  if (file.has(key) && (id < 0 || id >= n_vocab)) {
    return fail(ErrorCode::bad_file, fmt::format("{}: expected an id below {}, found {}", key, n_vocab, id));
  }
  return static_cast<int32_t>(id);
}

}  // namespace

struct Tokenizer::Impl {
  Impl(Vocabulary read, SpecialTokens special_tokens)
      : vocabulary(std::move(read)),
        special(std::move(special_tokens)),
        bpe(vocabulary.size(), vocabulary.byte_tokens, vocabulary.merges) {
    vocabulary.merges = {};
  }

  bool holds(int32_t id) const { return id >= 0 && id < vocabulary.size(); }

  void encode_plain(std::string_view text, Bpe::Scratch& scratch, std::vector<int32_t>& ids) const {
    std::string replaced;
    if (!is_valid_utf8(text)) {
      replaced = replace_invalid_utf8(text);
      text = replaced;
    }
    for (size_t pos = 0; pos < text.size();) {
      const size_t end = std::min(next_piece(text, pos), pos + Bpe::kMaxPieceBytes);
      bpe.encode(text.substr(pos, end - pos), scratch, ids);
      pos = end;
    }
  }

  void encode(std::string_view text, std::span<const ByteRange> trusted, std::vector<int32_t>& ids) const {
    Bpe::Scratch scratch;
    size_t done = 0;
    for (const ByteRange& range : trusted) {
      FL_CHECK(range.begin <= range.end && range.end <= text.size() && range.begin >= done, "ranges ascend");
      const std::string_view inside = text.substr(0, range.end);
      for (size_t pos = range.begin; const auto match = special.find(inside, pos);) {
        encode_plain(text.substr(done, match->begin - done), scratch, ids);
        ids.push_back(match->id);
        done = pos = match->end;
      }
    }
    encode_plain(text.substr(done), scratch, ids);
  }

  Vocabulary vocabulary;
  SpecialTokens special;
  Bpe bpe;
  int32_t eos = -1;
  int32_t bos = -1;
  bool add_bos = false;
  std::vector<int32_t> ends;
  std::optional<std::string> chat_template;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::from_gguf(const gguf::File& file) {
  auto vocabulary = read_vocabulary(file);
  if (!vocabulary) {
    return fail(std::move(vocabulary.error()), file.path().string());
  }
  SpecialTokens special(std::move(vocabulary->special));
  auto impl = std::make_unique<Impl>(std::move(*vocabulary), std::move(special));
  const int32_t n_vocab = impl->vocabulary.size();
  FL_ASSIGN(impl->eos, read_id(file, "tokenizer.ggml.eos_token_id", n_vocab));
  FL_ASSIGN(impl->bos, read_id(file, "tokenizer.ggml.bos_token_id", n_vocab));
  FL_ASSIGN(impl->add_bos, file.get_bool_or("tokenizer.ggml.add_bos_token", false));
  FL_ASSIGN(const int32_t end_of_turn, read_id(file, "tokenizer.ggml.eot_token_id", n_vocab));
  for (const int32_t id : {impl->eos, end_of_turn}) {
    if (id >= 0) {
      impl->ends.push_back(id);
    }
  }
  for (const std::string_view text : kEndTexts) {
    if (const auto id = impl->special.id(text)) {
      impl->ends.push_back(*id);
    }
  }
  std::sort(impl->ends.begin(), impl->ends.end());
  impl->ends.erase(std::unique(impl->ends.begin(), impl->ends.end()), impl->ends.end());
  if (file.has(kTemplateKey)) {
    FL_ASSIGN(impl->chat_template, file.get_string(kTemplateKey));
  }
  return Tokenizer(std::move(impl));
}

int32_t Tokenizer::n_vocab() const {
  return impl_->vocabulary.size();
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Special special) const {
  std::vector<int32_t> ids;
  encode_append(text, special, ids);
  return ids;
}

void Tokenizer::encode_append(std::string_view text, Special special, std::vector<int32_t>& ids) const {
  const ByteRange all{0, text.size()};
  const std::span<const ByteRange> trusted(&all, special == Special::parse ? 1 : 0);
  impl_->encode(text, trusted, ids);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, std::span<const ByteRange> trusted) const {
  std::vector<int32_t> ids;
  impl_->encode(text, trusted, ids);
  return ids;
}

std::string_view Tokenizer::piece(int32_t id) const {
  if (!impl_->holds(id)) {
    return {};
  }
  const Vocabulary& v = impl_->vocabulary;
  const auto i = static_cast<size_t>(id);
  return std::string_view(v.bytes).substr(v.offsets[i], v.offsets[i + 1] - v.offsets[i]);
}

TokenType Tokenizer::type(int32_t id) const {
  return impl_->holds(id) ? impl_->vocabulary.types[static_cast<size_t>(id)] : TokenType::unknown;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool with_control) const {
  std::string out;
  for (const int32_t id : ids) {
    if (with_control || type(id) != TokenType::control) {
      out.append(piece(id));
    }
  }
  return out;
}

std::optional<int32_t> Tokenizer::special_id(std::string_view text) const {
  return impl_->special.id(text);
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
  return impl_->ends;
}

std::optional<std::string_view> Tokenizer::chat_template() const {
  return impl_->chat_template ? std::optional<std::string_view>(*impl_->chat_template) : std::nullopt;
}

}  // namespace fl::tokenizer
