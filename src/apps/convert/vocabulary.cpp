#include "apps/convert/vocabulary.h"

#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/convert/json_file.h"
#include "base/mapped_file.h"

namespace fl::apps::convert {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMaxTopK = 1 << 24;

// tokenizer.ggml.token_type (ggml-org/llama.cpp, include/llama.h, llama_token_type).
enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;

  Status put(const std::string& text, const Json& id, TokenType type, const fs::path& path) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokens.size()) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': token '{}' has the id {}, expected one below {}",
                                                   path.string(), text, id.dump(), tokens.size()));
    }
    const auto at = id.get<size_t>();
    const bool known = types[at] != kUnused;
    // Some files list an added token among the ordinary ones too.
    if (known && tokens[at] != text) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': '{}' and '{}' have the same id {}", path.string(),
                                                   tokens[at], text, at));
    }
    tokens[at] = text;
    types[at] = type;
    return {};
  }
};

// Every "<|...|>" is a control token, as llama.cpp's converter decides.
bool looks_like_control(const std::string& text) {
  return text.starts_with("<|") && text.ends_with("|>");
}

// The splitter of the family as its tokenizer.json spells it; the engine has no other.
constexpr std::string_view kSplitter =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
    "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// Another kind of tokenizer would give other ids without any sign of it.
Status check_kind(const Json& json, const Json& model, const fs::path& path) {
  const auto expect = [&](const char* what, std::string_view expected, const std::string& found) -> Status {
    return fail(ErrorCode::unsupported,
                fmt::format("'{}': {}: expected {}, found {}", path.string(), what, expected, found));
  };
  FL_ASSIGN(const std::string type, json_text_or(model, "type", "no type", path));
  if (type != "BPE") {
    return expect("model", "BPE", type);
  }
  for (const char* flag : {"byte_fallback", "ignore_merges", "fuse_unk"}) {
    FL_ASSIGN(const bool on, json_bool_or(model, flag, false, path));
    if (on) {
      return expect(flag, "false", "true");
    }
  }
  const Json normalizer = json.value("normalizer", Json());
  if (!normalizer.is_null() && (!normalizer.is_object() || normalizer.value("type", Json()) != "NFC")) {
    return expect(
        "normalizer", "NFC or none",
        normalizer.is_object() ? json_brief(normalizer.value("type", Json())) : json_brief(normalizer));
  }
  const Json splitter = json.value("pre_tokenizer", Json());
  const Json* first = &splitter;
  if (splitter.is_object() && splitter.value("pretokenizers", Json()).is_array() &&
      !splitter["pretokenizers"].empty()) {
    first = &splitter["pretokenizers"][0];
  }
  const Json pattern = first->is_object() ? first->value("pattern", Json()) : Json();
  const Json regex = pattern.is_object() ? pattern.value("Regex", Json()) : Json();
  if (!regex.is_string() || regex.get<std::string>() != kSplitter) {
    return expect("pre_tokenizer", "the pattern of Qwen3.5 (letters with combining marks, digits one by one)",
                  json_brief(regex.is_null() ? splitter : regex));
  }
  return {};
}

Result<std::vector<std::string>> read_merges(const Json& model, const fs::path& path) {
  const auto found = model.find("merges");
  if (found == model.end() || !found->is_array() || found->empty()) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected a list 'merges', found none", path.string()));
  }
  const Json& vocab = model["vocab"];
  std::vector<std::string> merges;
  for (const Json& merge : *found) {
    std::string left;
    std::string right;
    if (merge.is_string()) {
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      left = text.substr(0, space);
      right = space == std::string::npos ? "" : text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0];
      right = merge[1];
    } else {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': merge {}: expected a text or a pair of texts, found {}", path.string(),
                              merges.size(), json_brief(merge)));
    }
    for (const std::string& part : {left, right, left + right}) {
      if (!vocab.contains(part)) {
        return fail(ErrorCode::bad_file,
                    fmt::format("'{}': merge {}: expected parts of the vocabulary, found '{}'", path.string(),
                                merges.size(), part));
      }
    }
    merges.push_back(fmt::format("{} {}", left, right));
  }
  return merges;
}

// The text of a template: one, or several by name of which "default" counts.
Result<std::string> read_template(const fs::path& dir, const Json& config, const fs::path& config_path) {
  const fs::path file_path = dir / "chat_template.jinja";
  std::error_code ignored;
  if (fs::exists(file_path, ignored)) {
    FL_ASSIGN(const MappedFile file, MappedFile::open(file_path));
    return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  }
  const Json found = config.value("chat_template", Json());
  if (!found.is_array()) {
    return json_text_or(config, "chat_template", "", config_path);
  }
  for (const Json& named : found) {
    if (named.is_object() && named.value("name", Json()) == "default") {
      return json_text_or(named, "template", "", config_path);
    }
  }
  return std::string();
}

Status set_special_ids(const fs::path& dir, const Vocabulary& vocabulary, gguf::Writer& writer) {
  const auto id_of = [&](const std::string& text) -> std::optional<uint32_t> {
    for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
      if (vocabulary.tokens[i] == text) {
        return static_cast<uint32_t>(i);
      }
    }
    return std::nullopt;
  };
  const fs::path path = dir / "tokenizer_config.json";
  FL_ASSIGN(const Json config, read_json(path));
  for (const auto& [name, key] : {std::pair{"eos_token", "tokenizer.ggml.eos_token_id"},
                                  std::pair{"pad_token", "tokenizer.ggml.padding_token_id"},
                                  std::pair{"bos_token", "tokenizer.ggml.bos_token_id"}}) {
    const Json value = config.value(name, Json());
    const Json text = value.is_object() ? value.value("content", Json()) : value;
    if (!text.is_string()) {
      continue;
    }
    const std::optional<uint32_t> id = id_of(text);
    if (!id) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': {}: expected a token of the vocabulary, found {}",
                                                   path.string(), name, json_brief(text)));
    }
    writer.set(key, *id);
  }
  writer.set("tokenizer.ggml.add_bos_token", false);
  FL_ASSIGN(const std::string chat_template, read_template(dir, config, path));
  if (!chat_template.empty()) {
    writer.set("tokenizer.chat_template", chat_template);
  }
  return {};
}

Status set_sampling(const fs::path& dir, gguf::Writer& writer) {
  const fs::path path = dir / "generation_config.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    return {};
  }
  FL_ASSIGN(const Json config, read_json(path));
  if (config.contains("temperature")) {
    FL_ASSIGN(const double value, json_float(config, "temperature", path));
    writer.set("general.sampling.temp", static_cast<float>(value));
  }
  if (config.contains("top_p")) {
    FL_ASSIGN(const double value, json_float(config, "top_p", path));
    writer.set("general.sampling.top_p", static_cast<float>(value));
  }
  if (config.contains("top_k")) {
    FL_ASSIGN(const int64_t value, json_int(config, "top_k", path, 0, kMaxTopK));
    writer.set("general.sampling.top_k", static_cast<int32_t>(value));
  }
  return {};
}

}  // namespace

Status set_vocabulary(const fs::path& dir, int64_t n_vocab, gguf::Writer& writer) {
  const fs::path path = dir / "tokenizer.json";
  FL_ASSIGN(const Json json, read_json(path));
  const auto model = json.find("model");
  if (model == json.end() || !model->is_object()) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected an object 'model', found none", path.string()));
  }
  FL_TRY(check_kind(json, *model, path));
  const auto vocab = model->find("vocab");
  if (vocab == model->end() || !vocab->is_object()) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected an object 'vocab', found none", path.string()));
  }
  Vocabulary vocabulary;
  for (int64_t i = 0; i < n_vocab; ++i) {
    vocabulary.tokens.push_back(fmt::format("[PAD{}]", i));
    vocabulary.types.push_back(kUnused);
  }
  for (const auto& [text, id] : vocab->items()) {
    FL_TRY(vocabulary.put(text, id, kNormal, path));
  }
  for (const Json& added : json.value("added_tokens", Json::array())) {
    if (!added.is_object() || !added.contains("content") || !added["content"].is_string() ||
        !added.contains("id")) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': added token: expected an object with content and id, found {}",
                              path.string(), json_brief(added)));
    }
    const std::string text = added["content"];
    FL_ASSIGN(const bool special, json_bool_or(added, "special", false, path));
    const bool control = special || looks_like_control(text);
    FL_TRY(vocabulary.put(text, added["id"], control ? kControl : kUserDefined, path));
  }
  FL_ASSIGN(std::vector<std::string> merges, read_merges(*model, path));
  writer.set("tokenizer.ggml.model", std::string("gpt2"));
  writer.set("tokenizer.ggml.pre", std::string("qwen35"));
  FL_TRY(set_special_ids(dir, vocabulary, writer));
  FL_TRY(set_sampling(dir, writer));
  writer.set("tokenizer.ggml.tokens", std::move(vocabulary.tokens));
  writer.set("tokenizer.ggml.token_type", std::move(vocabulary.types));
  writer.set("tokenizer.ggml.merges", std::move(merges));
  return {};
}

}  // namespace fl::apps::convert
