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

// tokenizer.ggml.token_type (ggml-org/llama.cpp, include/llama.h, llama_token_type).
enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;

  Status put(const std::string& text, const Json& id, TokenType type, const fs::path& path) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() >= static_cast<int64_t>(tokens.size())) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': token '{}' has the id {}, expected one below {}",
                                                   path.string(), text, id.dump(), tokens.size()));
    }
    const auto at = id.get<size_t>();
    if (types[at] != kUnused) {
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

Result<std::vector<std::string>> read_merges(const Json& model, const fs::path& path) {
  const auto found = model.find("merges");
  if (found == model.end() || !found->is_array() || found->empty()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': no merges", path.string()));
  }
  std::vector<std::string> merges;
  for (const Json& merge : *found) {
    if (merge.is_string()) {
      merges.push_back(merge);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': merge {} is neither a text nor a pair", path.string(), merges.size()));
    }
  }
  return merges;
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
  FL_ASSIGN(const Json config, read_json(dir / "tokenizer_config.json"));
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
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': {} {} is not in the vocabulary",
                              (dir / "tokenizer_config.json").string(), name, text.dump()));
    }
    writer.set(key, *id);
  }
  writer.set("tokenizer.ggml.add_bos_token", false);
  std::string chat_template = config.value("chat_template", "");
  if (fs::exists(dir / "chat_template.jinja")) {
    FL_ASSIGN(const MappedFile file, MappedFile::open(dir / "chat_template.jinja"));
    chat_template.assign(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  }
  if (!chat_template.empty()) {
    writer.set("tokenizer.chat_template", chat_template);
  }
  return {};
}

Status set_sampling(const fs::path& dir, gguf::Writer& writer) {
  const fs::path path = dir / "generation_config.json";
  if (!fs::exists(path)) {
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
    FL_ASSIGN(const int64_t value, json_int(config, "top_k", path));
    writer.set("general.sampling.top_k", static_cast<int32_t>(value));
  }
  return {};
}

}  // namespace

Status set_vocabulary(const fs::path& dir, int64_t n_vocab, gguf::Writer& writer) {
  const fs::path path = dir / "tokenizer.json";
  FL_ASSIGN(const Json json, read_json(path));
  const auto model = json.find("model");
  if (model == json.end() || !model->is_object() || model->value("type", "") != "BPE" ||
      !model->contains("vocab") || !(*model)["vocab"].is_object()) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected a BPE model with a vocabulary", path.string()));
  }
  Vocabulary vocabulary;
  for (int64_t i = 0; i < n_vocab; ++i) {
    vocabulary.tokens.push_back(fmt::format("[PAD{}]", i));
    vocabulary.types.push_back(kUnused);
  }
  for (const auto& [text, id] : (*model)["vocab"].items()) {
    FL_TRY(vocabulary.put(text, id, kNormal, path));
  }
  for (const Json& added : json.value("added_tokens", Json::array())) {
    if (!added.is_object() || !added.contains("content") || !added["content"].is_string() ||
        !added.contains("id")) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': an added token without content or id", path.string()));
    }
    const std::string text = added["content"];
    const bool control = added.value("special", false) || looks_like_control(text);
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
