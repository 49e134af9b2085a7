#include "apps/convert/hf_config.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/convert/json_file.h"

namespace fl::apps::convert {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// Far above any published model, so that sizes can be multiplied without care.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxContext = int64_t{1} << 30;
constexpr int64_t kMaxConvKernel = 8;
constexpr int64_t kMaxMtpLayers = 1;

tl::unexpected<Error> bad(const fs::path& path, const std::string& problem) {
  return fail(ErrorCode::bad_file, fmt::format("'{}': {}", path.string(), problem));
}

Status read_scaling(const Json& rope, const fs::path& path, HfConfig& config) {
  // Two spellings of different versions.
  FL_ASSIGN(const std::string old_type, json_text_or(rope, "type", "default", path));
  FL_ASSIGN(const std::string type, json_text_or(rope, "rope_type", old_type, path));
  if (type == "default") {
    return {};
  }
  if (type != "yarn") {
    return fail(ErrorCode::unsupported,
                fmt::format("'{}': 'rope_type': expected default or yarn, found '{}'", path.string(), type));
  }
  FL_ASSIGN(config.yarn_factor, json_float(rope, "factor", path));
  FL_ASSIGN(config.yarn_original_ctx,
            json_int(rope, "original_max_position_embeddings", path, 1, kMaxContext));
  return {};
}

Status read_rope(const Json& text, const fs::path& path, HfConfig& config) {
  auto found = text.find("rope_parameters");
  found = found == text.end() || found->is_null() ? text.find("rope_scaling") : found;
  const bool own = found != text.end() && !found->is_null();
  if (own && !found->is_object()) {
    return bad(path, fmt::format("rope_parameters: expected an object, found {}", json_brief(*found)));
  }
  const Json& rope = own ? *found : text;
  if (own) {
    FL_TRY(read_scaling(rope, path, config));
  }
  FL_ASSIGN(config.rope_base, json_float(rope.contains("rope_theta") ? rope : text, "rope_theta", path));
  FL_ASSIGN(const double factor,
            json_float(rope.contains("partial_rotary_factor") ? rope : text, "partial_rotary_factor", path));
  config.rope_dims =
      factor > 0 && factor <= 1 ? static_cast<int64_t>(static_cast<double>(config.head_dim) * factor) : 0;
  if (config.rope_dims < 2 || config.rope_dims % 2 != 0) {
    return bad(path,
               fmt::format("'partial_rotary_factor': expected an even part of the {} dimensions of a head, "
                           "found {}",
                           config.head_dim, factor));
  }
  const auto sections = rope.find("mrope_section");
  int64_t sum = 0;
  if (sections != rope.end() && sections->is_array() && sections->size() == 3) {
    for (size_t i = 0; i < 3; ++i) {
      const Json& section = (*sections)[i];
      const bool fits =
          section.is_number_unsigned() && section.get<uint64_t>() <= static_cast<uint64_t>(config.rope_dims);
      config.rope_sections[i] = fits ? section.get<int32_t>() : 0;
      sum += config.rope_sections[i];
    }
  }
  if (2 * sum != config.rope_dims) {
    return bad(path,
               fmt::format("'mrope_section': expected three numbers that add up to {}, found {}",
                           config.rope_dims / 2, sections == rope.end() ? "no such key" : sections->dump()));
  }
  return {};
}

Status read_layers(const Json& text, const fs::path& path, HfConfig& config) {
  const auto found = text.find("layer_types");
  if (found == text.end() || found->is_null()) {
    FL_ASSIGN(const int64_t interval, json_int(text, "full_attention_interval", path, 1, kMaxLayers));
    for (int64_t i = 0; i < config.n_layers; ++i) {
      config.is_recurrent.push_back((i + 1) % interval != 0);
    }
    return {};
  }
  if (!found->is_array() || found->size() != static_cast<size_t>(config.n_layers)) {
    return bad(path, fmt::format("'layer_types': expected {} entries, found {}", config.n_layers,
                                 json_brief(*found)));
  }
  for (const Json& kind : *found) {
    if (kind != "linear_attention" && kind != "full_attention") {
      return bad(path, fmt::format("'layer_types': expected linear_attention or full_attention, found {}",
                                   json_brief(kind)));
    }
    config.is_recurrent.push_back(kind == "linear_attention");
  }
  return {};
}

}  // namespace

Result<HfConfig> read_config(const fs::path& dir) {
  const fs::path path = dir / "config.json";
  FL_ASSIGN(const Json json, read_json(path));
  HfConfig config;
  const bool nested = json.contains("text_config");
  const Json& text = nested ? json["text_config"] : json;
  config.prefix = kPrefixes[nested ? 0 : 1];
  if (!text.is_object()) {
    return bad(path, fmt::format("'text_config': expected an object, found {}", json_brief(text)));
  }
  FL_ASSIGN(const std::string type, json_text_or(text, "model_type", "", path));
  if (type != "qwen3_5_text" && type != "qwen3_5") {
    return fail(ErrorCode::unsupported,
                fmt::format("'{}': 'model_type': expected qwen3_5_text (dense Qwen3.5), found '{}'",
                            path.string(), type));
  }
  FL_ASSIGN(config.n_vocab, json_int(text, "vocab_size", path, 1, kMaxVocab));
  FL_ASSIGN(config.n_embd, json_int(text, "hidden_size", path, 1, kMaxWidth));
  FL_ASSIGN(config.n_ff, json_int(text, "intermediate_size", path, 1, kMaxWidth));
  FL_ASSIGN(config.n_layers, json_int(text, "num_hidden_layers", path, 1, kMaxLayers));
  FL_ASSIGN(config.n_ctx_train, json_int(text, "max_position_embeddings", path, 1, kMaxContext));
  FL_ASSIGN(config.n_heads, json_int(text, "num_attention_heads", path, 1, kMaxHeads));
  FL_ASSIGN(config.n_kv_heads, json_int(text, "num_key_value_heads", path, 1, config.n_heads));
  FL_ASSIGN(config.head_dim, json_int(text, "head_dim", path, 2, kMaxHeadDim));
  FL_ASSIGN(config.n_key_heads, json_int(text, "linear_num_key_heads", path, 1, kMaxHeads));
  FL_ASSIGN(config.n_value_heads, json_int(text, "linear_num_value_heads", path, 1, kMaxHeads));
  FL_ASSIGN(config.key_dim, json_int(text, "linear_key_head_dim", path, 1, kMaxHeadDim));
  FL_ASSIGN(config.value_dim, json_int(text, "linear_value_head_dim", path, 1, kMaxHeadDim));
  FL_ASSIGN(config.conv_kernel, json_int(text, "linear_conv_kernel_dim", path, 2, kMaxConvKernel));
  FL_ASSIGN(config.rms_eps, json_float(text, "rms_norm_eps", path));
  if (config.n_value_heads % config.n_key_heads != 0) {
    return bad(path,
               fmt::format("'linear_num_value_heads': expected a multiple of the {} key heads, found {}",
                           config.n_key_heads, config.n_value_heads));
  }
  if (config.n_heads % config.n_kv_heads != 0) {
    return bad(path,
               fmt::format("'num_attention_heads': expected a multiple of the {} key-value heads, found {}",
                           config.n_kv_heads, config.n_heads));
  }
  if (text.contains("mtp_num_hidden_layers")) {
    FL_ASSIGN(config.n_mtp_layers, json_int(text, "mtp_num_hidden_layers", path, 0, kMaxMtpLayers));
  }
  FL_ASSIGN(const bool inner_tied, json_bool_or(text, "tie_word_embeddings", false, path));
  FL_ASSIGN(config.tied_embeddings, json_bool_or(json, "tie_word_embeddings", inner_tied, path));
  FL_TRY(read_rope(text, path, config));
  FL_TRY(read_layers(text, path, config));
  return config;
}

void set_metadata(const HfConfig& config, const std::string& name, gguf::Writer& writer) {
  const auto u32 = [](int64_t value) { return static_cast<uint32_t>(value); };
  writer.set("general.architecture", std::string("qwen35"));
  writer.set("general.name", name);
  writer.set("general.quantization_version", uint32_t{2});
  const auto set = [&](const char* key, auto value) { writer.set(std::string("qwen35.") + key, value); };
  set("block_count", u32(config.n_layers + config.n_mtp_layers));
  if (config.n_mtp_layers > 0) {
    set("nextn_predict_layers", u32(config.n_mtp_layers));
  }
  set("context_length", u32(config.n_ctx_train));
  set("embedding_length", u32(config.n_embd));
  set("feed_forward_length", u32(config.n_ff));
  set("attention.head_count", u32(config.n_heads));
  set("attention.head_count_kv", u32(config.n_kv_heads));
  set("attention.key_length", u32(config.head_dim));
  set("attention.value_length", u32(config.head_dim));
  set("attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_eps));
  set("rope.dimension_count", u32(config.rope_dims));
  set("rope.dimension_sections",
      std::vector<int32_t>(config.rope_sections.begin(), config.rope_sections.end()));
  set("rope.freq_base", static_cast<float>(config.rope_base));
  if (config.yarn_factor > 1) {
    set("rope.scaling.type", std::string("yarn"));
    set("rope.scaling.factor", static_cast<float>(config.yarn_factor));
    set("rope.scaling.original_context_length", u32(config.yarn_original_ctx));
  }
  set("ssm.conv_kernel", u32(config.conv_kernel));
  set("ssm.state_size", u32(config.key_dim));
  set("ssm.group_count", u32(config.n_key_heads));
  set("ssm.time_step_rank", u32(config.n_value_heads));
  set("ssm.inner_size", u32(config.value_channels()));
  std::vector<bool> recurrent = config.is_recurrent;
  recurrent.resize(static_cast<size_t>(config.n_layers + config.n_mtp_layers), false);
  set("attention.recurrent_layers", recurrent);
}

}  // namespace fl::apps::convert
