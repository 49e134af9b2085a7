// A tiny model as the Hugging Face checkpoint that it would be published as: the names, layout and value-head
// order of the official implementation, written by hand from its definition. The weights are those of
// tools/export_golden/export.py, so that the stored logits belong to it.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/half.h"
#include "tests/support/tiny_model.h"
#include "tokenizer/byte_map.h"
#include "tokenizer/utf8.h"

namespace fl::test {

class HfCheckpoint {
 public:
  struct Tensor {
    std::vector<int64_t> shape;  ///< outermost first
    std::vector<float> values;
    std::string dtype = "F32";
  };

  /// `nested`: as a checkpoint with a vision part, whose text part is one level down.
  explicit HfCheckpoint(const TinyModel& model, bool nested = false) : m_(model), nested_(nested) {
    make_tensors();
    make_config();
    make_tokenizer();
  }

  std::map<std::string, Tensor> tensors;
  nlohmann::ordered_json config, tokenizer, tokenizer_config, generation_config;
  std::string chat_template = "{{ messages[0].content }}";

  /// All matrices and vectors in a type, rounded to it.
  void store_as(const std::string& dtype) {
    for (auto& [name, tensor] : tensors) {
      tensor.dtype = dtype;
      for (float& value : tensor.values) {
        value = dtype == "F16"    ? f16_to_float(float_to_f16(value))
                : dtype == "BF16" ? bf16_to_float(float_to_bf16(value))
                                  : value;
      }
    }
  }

  void write(const std::filesystem::path& dir, int n_shards = 1) const {
    write_text(dir / "config.json", config.dump(1));
    write_text(dir / "tokenizer.json", tokenizer.dump());
    write_text(dir / "tokenizer_config.json", tokenizer_config.dump());
    write_text(dir / "generation_config.json", generation_config.dump());
    write_text(dir / "chat_template.jinja", chat_template);
    std::vector<std::map<std::string, Tensor>> shards(static_cast<size_t>(n_shards));
    nlohmann::ordered_json index{{"metadata", {{"total_size", 0}}}};
    size_t next = 0;
    for (const auto& [name, tensor] : tensors) {
      const size_t shard = next++ % shards.size();
      shards[shard][name] = tensor;
      index["weight_map"][name] = shard_name(shard, shards.size());
    }
    for (size_t i = 0; i < shards.size(); ++i) {
      write_text(dir / shard_name(i, shards.size()), safetensors(shards[i]));
    }
    if (n_shards > 1) {
      write_text(dir / "model.safetensors.index.json", index.dump());
    }
  }

  static void write_text(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }

  static std::string shard_name(size_t i, size_t n) {
    if (n == 1) {
      return "model.safetensors";
    }
    const auto five = [](size_t number) {
      std::string text = std::to_string(number);
      return std::string(5 - text.size(), '0') + text;
    };
    return "model-" + five(i + 1) + "-of-" + five(n) + ".safetensors";
  }

  static std::string safetensors(const std::map<std::string, Tensor>& tensors) {
    nlohmann::ordered_json header{{"__metadata__", {{"format", "pt"}}}};
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const size_t begin = data.size();
      for (const float value : tensor.values) {
        if (tensor.dtype == "F32") {
          data.append(reinterpret_cast<const char*>(&value), sizeof value);
        } else {
          const uint16_t bits = tensor.dtype == "F16" ? float_to_f16(value) : float_to_bf16(value);
          data.append(reinterpret_cast<const char*>(&bits), sizeof bits);
        }
      }
      header[name] = {
          {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
    }
    return with_header(header.dump(), data);
  }

  static std::string with_header(const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
  }

 private:
  void add(const std::string& name, std::vector<int64_t> shape) {
    int64_t n = 1;
    for (const int64_t size : shape) {
      n *= size;
    }
    // The stream's name is the published one without the prefix.
    const auto [centre, half] = range_of(name, shape.back());
    Tensor tensor{std::move(shape), uniform(m_.seed, name, n, centre, half)};
    const bool top = name == "lm_head.weight" || name.starts_with("mtp.");
    tensors[top ? name : prefix() + name] = std::move(tensor);
  }

  static std::pair<double, double> range_of(const std::string& name, int64_t inputs) {
    const auto ends = [&](const char* text) { return name.ends_with(text); };
    if (ends("A_log")) {
      return {0.0, 2.0};
    }
    if (ends("dt_bias")) {
      return {-1.0, 2.0};
    }
    if (ends("linear_attn.norm.weight")) {
      return {1.0, 0.5};
    }
    if (ends("norm.weight") || ends("pre_fc_norm_embedding.weight") || ends("pre_fc_norm_hidden.weight")) {
      return {0.0, 0.5};
    }
    if (ends("conv1d.weight")) {
      return {0.0, 0.875};
    }
    if (ends("embed_tokens.weight")) {
      return {0.0, 1.75};
    }
    return {0.0, static_cast<double>(static_cast<float>(std::sqrt(3.0 / static_cast<double>(inputs))))};
  }

  std::string prefix() const { return nested_ ? "model.language_model." : "model."; }

  void make_tensors() {
    add("embed_tokens.weight", {m_.vocab, m_.hidden});
    add("norm.weight", {m_.hidden});
    if (!m_.tied) {
      add("lm_head.weight", {m_.vocab, m_.hidden});
    }
    for (int64_t i = 0; i < m_.layers; ++i) {
      make_layer("layers." + std::to_string(i) + ".", m_.recurrent[static_cast<size_t>(i)]);
    }
    if (m_.mtp) {
      make_layer("mtp.layers.0.", false);
      add("mtp.fc.weight", {m_.hidden, 2 * m_.hidden});
      add("mtp.pre_fc_norm_embedding.weight", {m_.hidden});
      add("mtp.pre_fc_norm_hidden.weight", {m_.hidden});
      add("mtp.norm.weight", {m_.hidden});
    }
  }

  void make_layer(const std::string& layer, bool recurrent) {
    add(layer + "input_layernorm.weight", {m_.hidden});
    add(layer + "post_attention_layernorm.weight", {m_.hidden});
    add(layer + "mlp.gate_proj.weight", {m_.ff, m_.hidden});
    add(layer + "mlp.up_proj.weight", {m_.ff, m_.hidden});
    add(layer + "mlp.down_proj.weight", {m_.hidden, m_.ff});
    if (recurrent) {
      const int64_t v = m_.value_heads * m_.value_dim;
      const int64_t channels = 2 * m_.key_heads * m_.key_dim + v;
      add(layer + "linear_attn.in_proj_qkv.weight", {channels, m_.hidden});
      add(layer + "linear_attn.in_proj_z.weight", {v, m_.hidden});
      add(layer + "linear_attn.in_proj_b.weight", {m_.value_heads, m_.hidden});
      add(layer + "linear_attn.in_proj_a.weight", {m_.value_heads, m_.hidden});
      add(layer + "linear_attn.A_log", {m_.value_heads});
      add(layer + "linear_attn.dt_bias", {m_.value_heads});
      add(layer + "linear_attn.conv1d.weight", {channels, 1, 4});
      add(layer + "linear_attn.norm.weight", {m_.value_dim});
      add(layer + "linear_attn.out_proj.weight", {m_.hidden, v});
      return;
    }
    add(layer + "self_attn.q_proj.weight", {2 * m_.heads * m_.head_dim, m_.hidden});
    add(layer + "self_attn.k_proj.weight", {m_.kv_heads * m_.head_dim, m_.hidden});
    add(layer + "self_attn.v_proj.weight", {m_.kv_heads * m_.head_dim, m_.hidden});
    add(layer + "self_attn.o_proj.weight", {m_.hidden, m_.heads * m_.head_dim});
    add(layer + "self_attn.q_norm.weight", {m_.head_dim});
    add(layer + "self_attn.k_norm.weight", {m_.head_dim});
  }

  void make_config() {
    nlohmann::ordered_json text{{"model_type", "qwen3_5_text"},
                                {"vocab_size", m_.vocab},
                                {"hidden_size", m_.hidden},
                                {"intermediate_size", m_.ff},
                                {"num_hidden_layers", m_.layers},
                                {"max_position_embeddings", 4096},
                                {"num_attention_heads", m_.heads},
                                {"num_key_value_heads", m_.kv_heads},
                                {"head_dim", m_.head_dim},
                                {"linear_num_key_heads", m_.key_heads},
                                {"linear_num_value_heads", m_.value_heads},
                                {"linear_key_head_dim", m_.key_dim},
                                {"linear_value_head_dim", m_.value_dim},
                                {"linear_conv_kernel_dim", 4},
                                {"rms_norm_eps", 1e-6},
                                {"mtp_num_hidden_layers", m_.mtp ? 1 : 0},
                                {"rope_parameters",
                                 {{"rope_type", m_.yarn_factor == 1 ? "default" : "yarn"},
                                  {"rope_theta", 1e7},
                                  {"partial_rotary_factor", 0.25},
                                  {"mrope_interleaved", true},
                                  {"mrope_section", m_.sections}}}};
    if (m_.yarn_factor != 1) {
      text["rope_parameters"]["factor"] = m_.yarn_factor;
      text["rope_parameters"]["original_max_position_embeddings"] = m_.yarn_original;
    }
    for (const bool recurrent : m_.recurrent) {
      text["layer_types"].push_back(recurrent ? "linear_attention" : "full_attention");
    }
    if (nested_) {
      config = {{"model_type", "qwen3_5"}, {"text_config", text}, {"vision_config", {{"depth", 12}}}};
    } else {
      config = text;
    }
    config["tie_word_embeddings"] = m_.tied;
  }

  // All bytes, two merges and the family's special tokens; fewer bytes where the model has too few ids.
  void make_tokenizer() {
    constexpr int64_t kExtra = 7;
    const int64_t n_bytes = std::min<int64_t>(256, m_.vocab - kExtra);
    nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
    // In the order of the alphabet of byte-level BPE: the letters come first.
    for (int64_t i = 0; i < n_bytes; ++i) {
      std::string text;
      tokenizer::append_utf8(text, tokenizer::code_point_of_byte(static_cast<uint8_t>((i + 'a') % 256)));
      vocab[text] = i;
    }
    vocab["he"] = n_bytes;
    vocab["hel"] = n_bytes + 1;
    nlohmann::ordered_json added = nlohmann::ordered_json::array();
    const auto add_token = [&](const char* text, bool special) {
      added.push_back({{"id", n_bytes + 2 + static_cast<int64_t>(added.size())},
                       {"content", text},
                       {"special", special},
                       {"normalized", false}});
    };
    add_token("<|endoftext|>", true);
    add_token("<|im_start|>", true);
    add_token("<|im_end|>", true);
    add_token("<|fim_pad|>", false);
    add_token("<think>", false);
    // Braces alone would make an object of pairs.
    nlohmann::ordered_json pairs = nlohmann::ordered_json::array();
    pairs.push_back(nlohmann::ordered_json::array({"h", "e"}));
    pairs.push_back(nlohmann::ordered_json::array({"he", "l"}));
    tokenizer = {
        {"version", "1.0"},
        {"added_tokens", added},
        {"normalizer", {{"type", "NFC"}}},
        {"pre_tokenizer",
         {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"},
             {"pattern",
              {{"Regex",
                R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
             {"behavior", "Isolated"},
             {"invert", false}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
        {"model",
         {{"type", "BPE"},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", vocab},
          {"merges", pairs}}}};
    tokenizer_config = {{"eos_token", "<|im_end|>"},
                        {"pad_token", {{"content", "<|endoftext|>"}, {"special", true}}},
                        {"bos_token", nullptr}};
    generation_config = {{"temperature", 0.6}, {"top_k", 20}, {"top_p", 0.95}};
  }

  const TinyModel m_;
  bool nested_;
};

}  // namespace fl::test
