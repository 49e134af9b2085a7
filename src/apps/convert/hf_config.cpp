#include "apps/convert/hf_config.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/convert/json_file.h"

namespace fl::apps::convert {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

Status read_rope(const Json& text, const fs::path& path, HfConfig& config) {
  const Json rope = text.value("rope_parameters", text.value("rope_scaling", Json::object()));
  if (const std::string type = rope.value("rope_type", "default"); type != "default") {
    return fail(ErrorCode::unsupported,
                fmt::format("'{}': rope_type '{}' is not converted", path.string(), type));
  }
  const Json& base_holder = rope.contains("rope_theta") ? rope : text;
  const Json& factor_holder = rope.contains("partial_rotary_factor") ? rope : text;
  FL_ASSIGN(config.rope_base, json_float(base_holder, "rope_theta", path));
  FL_ASSIGN(const double factor, json_float(factor_holder, "partial_rotary_factor", path));
  config.rope_dims = static_cast<int64_t>(static_cast<double>(config.head_dim) * factor);
  const Json sections = rope.value("mrope_section", Json::array());
  if (!sections.is_array() || sections.size() != 3) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected three numbers in 'mrope_section'", path.string()));
  }
  int64_t sum = 0;
  for (size_t i = 0; i < 3; ++i) {
    if (!sections[i].is_number_integer()) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': expected three numbers in 'mrope_section'", path.string()));
    }
    config.rope_sections[i] = sections[i].get<int32_t>();
    sum += config.rope_sections[i];
  }
  if (2 * sum != config.rope_dims) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': 'mrope_section' sums to {}, expected {}",
                                                 path.string(), sum, config.rope_dims / 2));
  }
  return {};
}

Status read_layers(const Json& text, const fs::path& path, HfConfig& config) {
  const auto found = text.find("layer_types");
  if (found == text.end()) {
    FL_ASSIGN(const int64_t interval, json_int(text, "full_attention_interval", path));
    for (int64_t i = 0; i < config.n_layers; ++i) {
      config.is_recurrent.push_back((i + 1) % std::max<int64_t>(interval, 1) != 0);
    }
    return {};
  }
  if (!found->is_array() || found->size() != static_cast<size_t>(config.n_layers)) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected {} entries in 'layer_types'", path.string(), config.n_layers));
  }
  for (const Json& kind : *found) {
    if (kind != "linear_attention" && kind != "full_attention") {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': unknown layer type {}", path.string(), kind.dump()));
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
  config.prefix = nested ? "model.language_model." : "model.";
  const std::string type = text.is_object() ? text.value("model_type", "") : "";
  if (type != "qwen3_5_text" && type != "qwen3_5") {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected a dense Qwen3.5 model (model_type qwen3_5_text), found '{}'",
                            path.string(), type));
  }
  FL_ASSIGN(config.n_vocab, json_int(text, "vocab_size", path));
  FL_ASSIGN(config.n_embd, json_int(text, "hidden_size", path));
  FL_ASSIGN(config.n_ff, json_int(text, "intermediate_size", path));
  FL_ASSIGN(config.n_layers, json_int(text, "num_hidden_layers", path));
  FL_ASSIGN(config.n_ctx_train, json_int(text, "max_position_embeddings", path));
  FL_ASSIGN(config.n_heads, json_int(text, "num_attention_heads", path));
  FL_ASSIGN(config.n_kv_heads, json_int(text, "num_key_value_heads", path));
  FL_ASSIGN(config.head_dim, json_int(text, "head_dim", path));
  FL_ASSIGN(config.n_key_heads, json_int(text, "linear_num_key_heads", path));
  FL_ASSIGN(config.n_value_heads, json_int(text, "linear_num_value_heads", path));
  FL_ASSIGN(config.key_dim, json_int(text, "linear_key_head_dim", path));
  FL_ASSIGN(config.value_dim, json_int(text, "linear_value_head_dim", path));
  FL_ASSIGN(config.conv_kernel, json_int(text, "linear_conv_kernel_dim", path));
  FL_ASSIGN(config.rms_eps, json_float(text, "rms_norm_eps", path));
  for (const int64_t size : {config.n_vocab, config.n_embd, config.n_ff, config.n_layers, config.n_heads,
                             config.n_kv_heads, config.head_dim, config.n_key_heads, config.n_value_heads,
                             config.key_dim, config.value_dim, config.conv_kernel, config.n_ctx_train}) {
    constexpr int64_t kMaxSize = 1 << 26;
    if (size <= 0 || size > kMaxSize) {
      return fail(ErrorCode::bad_file, fmt::format("'{}': a size of {}", path.string(), size));
    }
  }
  if (config.n_value_heads % config.n_key_heads != 0 || config.key_dim != config.value_dim) {
    return fail(
        ErrorCode::bad_file,
        fmt::format("'{}': {} value heads of {} and {} key heads of {} do not fit together", path.string(),
                    config.n_value_heads, config.value_dim, config.n_key_heads, config.key_dim));
  }
  config.n_mtp_layers = text.value("mtp_num_hidden_layers", int64_t{0});
  config.tied_embeddings = json.value("tie_word_embeddings", text.value("tie_word_embeddings", false));
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
