// Tiny random models, the same in C++ and in tools/export_golden/export.py: every weight is a function of
// (seed, name, index) under the checkpoint's names and in its layout, converted here to what a GGUF file
// holds (norms plus one, -exp(A_log), tiled value heads).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/quants.h"
#include "gguf/gguf.h"

namespace fl::test {

struct TinyModel {
  std::string name = "tiny";
  uint64_t seed = 1;
  int64_t hidden = 64, ff = 128, layers = 4;
  int64_t heads = 4, kv_heads = 2, head_dim = 32;
  int64_t key_heads = 2, value_heads = 6, key_dim = 32, value_dim = 32;
  int64_t vocab = 200;
  bool tied = false;
  std::vector<int32_t> sections{2, 1, 1};
  std::vector<bool> recurrent{true, true, true, false};  ///< per layer
  float yarn_factor = 1;
  int64_t yarn_original = 0;
  bool mtp = false;
};

inline uint64_t fnv1a(const std::string& text) {
  uint64_t h = 0xCBF29CE484222325ULL;
  for (const char c : text) {
    h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  }
  return h;
}

/// The i-th value (from 0) of the stream of a name.
inline uint64_t hash_stream(uint64_t seed, const std::string& name, uint64_t i) {
  uint64_t z = (fnv1a(name) ^ (seed * 0x9E3779B97F4A7C15ULL)) + (i + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

inline std::vector<float> uniform(uint64_t seed, const std::string& name, int64_t n, double centre,
                                  double half_width) {
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const auto bits =
        static_cast<int64_t>(hash_stream(seed, name, static_cast<uint64_t>(i)) >> 40) - (1 << 23);
    out[static_cast<size_t>(i)] =
        static_cast<float>(centre + half_width * (static_cast<double>(bits) / (1 << 23)));
  }
  return out;
}

inline std::vector<int32_t> tiny_prompt(const TinyModel& m, int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) {
    ids.push_back(
        static_cast<int32_t>(hash_stream(m.seed, "prompt/" + std::to_string(n), static_cast<uint64_t>(i)) %
                             static_cast<uint64_t>(m.vocab)));
  }
  return ids;
}

/// A GGUF file before it is written: tests change it at will.
struct Draft {
  struct TensorData {
    DType type = DType::f32;
    std::vector<int64_t> ne;
    std::vector<float> values;
  };
  std::map<std::string, gguf::Value::Storage> keys;
  std::map<std::string, TensorData> tensors;

  void tensor(const std::string& tensor_name, std::vector<int64_t> ne, std::vector<float> values) {
    tensors[tensor_name] = {DType::f32, std::move(ne), std::move(values)};
  }
  /// Matrices with rows of a whole number of blocks become `type`; vectors and the convolution stay.
  void quantise(DType type) {
    for (auto& [tensor_name, data] : tensors) {
      if (data.ne.size() == 2 && data.ne[0] % dtype_info(type).block_elems == 0 && data.ne[0] > 8) {
        data.type = type;
      }
    }
  }

  Status write(const std::filesystem::path& path) const {
    FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(path));
    for (const auto& entry : keys) {
      std::visit([&](const auto& held) { writer.set(entry.first, gguf::Value(held)); }, entry.second);
    }
    for (const auto& [tensor_name, data] : tensors) {
      writer.declare(tensor_name, data.type, data.ne);
    }
    FL_TRY(writer.begin_data());
    for (const auto& [tensor_name, data] : tensors) {
      if (data.type == DType::f32) {
        FL_TRY(writer.write(std::as_bytes(std::span(data.values))));
        continue;
      }
      std::vector<std::byte> bytes(row_bytes(data.type, data.values.size()));
      quantize_row(data.type, data.values, {}, bytes.data());
      FL_TRY(writer.write(bytes));
    }
    return writer.finish();
  }
};

class TinyBuilder {
 public:
  explicit TinyBuilder(const TinyModel& model) : m_(model) {}

  Draft build() {
    keys();
    draft_.tensor("token_embd.weight", {m_.hidden, m_.vocab},
                  weight("embed_tokens.weight", m_.vocab * m_.hidden, 0.0, 1.75));
    draft_.tensor("output_norm.weight", {m_.hidden}, norm("norm.weight", m_.hidden));
    if (!m_.tied) {
      matrix("output.weight", "lm_head.weight", m_.hidden, m_.vocab);
    }
    for (int64_t i = 0; i < m_.layers; ++i) {
      const std::string to = "blk." + std::to_string(i) + ".";
      const std::string from = "layers." + std::to_string(i) + ".";
      if (m_.recurrent[static_cast<size_t>(i)]) {
        delta(to, from);
      } else {
        attention(to, from);
      }
      feed_forward(to, from);
    }
    if (m_.mtp) {
      const std::string to = "blk." + std::to_string(m_.layers) + ".";
      const std::string from = "mtp.layers.0.";
      attention(to, from);
      feed_forward(to, from);
      matrix(to + "nextn.eh_proj.weight", "mtp.fc.weight", 2 * m_.hidden, m_.hidden);
      draft_.tensor(to + "nextn.enorm.weight", {m_.hidden},
                    norm("mtp.pre_fc_norm_embedding.weight", m_.hidden));
      draft_.tensor(to + "nextn.hnorm.weight", {m_.hidden}, norm("mtp.pre_fc_norm_hidden.weight", m_.hidden));
      draft_.tensor(to + "nextn.shared_head_norm.weight", {m_.hidden}, norm("mtp.norm.weight", m_.hidden));
    }
    return std::move(draft_);
  }

 private:
  void keys() {
    const auto u32 = [&](const std::string& key, int64_t value) {
      draft_.keys["qwen35." + key] = static_cast<uint32_t>(value);
    };
    draft_.keys["general.architecture"] = std::string("qwen35");
    draft_.keys["general.name"] = m_.name;
    u32("block_count", m_.layers + (m_.mtp ? 1 : 0));
    if (m_.mtp) {
      u32("nextn_predict_layers", 1);
    }
    u32("context_length", 4096);
    u32("embedding_length", m_.hidden);
    u32("feed_forward_length", m_.ff);
    u32("attention.head_count", m_.heads);
    u32("attention.head_count_kv", m_.kv_heads);
    u32("attention.key_length", m_.head_dim);
    u32("attention.value_length", m_.head_dim);
    draft_.keys["qwen35.attention.layer_norm_rms_epsilon"] = 1e-6F;
    u32("rope.dimension_count", m_.head_dim / 4);
    std::vector<int32_t> sections = m_.sections;
    sections.push_back(0);
    draft_.keys["qwen35.rope.dimension_sections"] = sections;
    draft_.keys["qwen35.rope.freq_base"] = 1e7F;
    if (m_.yarn_factor != 1) {
      draft_.keys["qwen35.rope.scaling.type"] = std::string("yarn");
      draft_.keys["qwen35.rope.scaling.factor"] = m_.yarn_factor;
      u32("rope.scaling.original_context_length", m_.yarn_original);
    }
    u32("ssm.conv_kernel", 4);
    u32("ssm.state_size", m_.key_dim);
    u32("ssm.group_count", m_.key_heads);
    u32("ssm.time_step_rank", m_.value_heads);
    u32("ssm.inner_size", m_.value_heads * m_.value_dim);
    std::vector<bool> recurrent = m_.recurrent;
    recurrent.resize(static_cast<size_t>(m_.layers + (m_.mtp ? 1 : 0)), false);
    draft_.keys["qwen35.attention.recurrent_layers"] = recurrent;
  }

  std::vector<float> weight(const std::string& name, int64_t n, double centre, double half) const {
    return uniform(m_.seed, name, n, centre, half);
  }
  /// Unit gain for the matrix's input width, as in the export script.
  std::vector<float> linear(const std::string& name, int64_t in, int64_t out) const {
    return weight(name, in * out, 0.0,
                  static_cast<double>(static_cast<float>(std::sqrt(3.0 / static_cast<double>(in)))));
  }
  std::vector<float> norm(const std::string& name, int64_t n) const {
    std::vector<float> values = weight(name, n, 0.0, 0.5);
    for (float& value : values) {
      value += 1.0F;
    }
    return values;
  }
  void matrix(const std::string& to, const std::string& from, int64_t in, int64_t out) {
    draft_.tensor(to, {in, out}, linear(from, in, out));
  }

  /// Moves groups of `width` elements from the checkpoint's order of value heads (those of a key head
  /// together) to the file's (those of the first of each key head, then the second, ...). `values` starts at
  /// the first value head.
  void tile_heads(float* values, int64_t width) const {
    const int64_t r = m_.value_heads / m_.key_heads;
    const std::vector<float> grouped(values, values + m_.value_heads * width);
    for (int64_t hf = 0; hf < m_.value_heads; ++hf) {
      const int64_t tiled = hf % r * m_.key_heads + hf / r;
      std::copy_n(grouped.data() + hf * width, width, values + tiled * width);
    }
  }
  std::vector<float> tiled(std::vector<float> values, int64_t first, int64_t width) const {
    tile_heads(values.data() + first, width);
    return values;
  }

  void delta(const std::string& to, const std::string& layer) {
    const std::string from = layer + "linear_attn.";
    const int64_t qk = 2 * m_.key_heads * m_.key_dim;
    const int64_t v = m_.value_heads * m_.value_dim;
    draft_.tensor(to + "attn_norm.weight", {m_.hidden}, norm(layer + "input_layernorm.weight", m_.hidden));
    draft_.tensor(to + "attn_qkv.weight", {m_.hidden, qk + v},
                  tiled(linear(from + "in_proj_qkv.weight", m_.hidden, qk + v), qk * m_.hidden,
                        m_.value_dim * m_.hidden));
    draft_.tensor(to + "attn_gate.weight", {m_.hidden, v},
                  tiled(linear(from + "in_proj_z.weight", m_.hidden, v), 0, m_.value_dim * m_.hidden));
    draft_.tensor(to + "ssm_beta.weight", {m_.hidden, m_.value_heads},
                  tiled(linear(from + "in_proj_b.weight", m_.hidden, m_.value_heads), 0, m_.hidden));
    draft_.tensor(to + "ssm_alpha.weight", {m_.hidden, m_.value_heads},
                  tiled(linear(from + "in_proj_a.weight", m_.hidden, m_.value_heads), 0, m_.hidden));
    std::vector<float> a = weight(from + "A_log", m_.value_heads, 0.0, 2.0);
    for (float& value : a) {
      value = -std::exp(value);
    }
    draft_.tensor(to + "ssm_a", {m_.value_heads}, tiled(a, 0, 1));
    draft_.tensor(to + "ssm_dt.bias", {m_.value_heads},
                  tiled(weight(from + "dt_bias", m_.value_heads, -1.0, 2.0), 0, 1));
    draft_.tensor(to + "ssm_conv1d.weight", {4, qk + v},
                  tiled(weight(from + "conv1d.weight", 4 * (qk + v), 0.0, 0.875), 4 * qk, 4 * m_.value_dim));
    draft_.tensor(to + "ssm_norm.weight", {m_.value_dim},
                  weight(from + "norm.weight", m_.value_dim, 1.0, 0.5));
    std::vector<float> out = linear(from + "out_proj.weight", v, m_.hidden);
    for (int64_t row = 0; row < m_.hidden; ++row) {
      tile_heads(out.data() + row * v, m_.value_dim);
    }
    draft_.tensor(to + "ssm_out.weight", {v, m_.hidden}, out);
  }

  void attention(const std::string& to, const std::string& layer) {
    const std::string from = layer + "self_attn.";
    const int64_t q = m_.heads * m_.head_dim;
    const int64_t kv = m_.kv_heads * m_.head_dim;
    draft_.tensor(to + "attn_norm.weight", {m_.hidden}, norm(layer + "input_layernorm.weight", m_.hidden));
    matrix(to + "attn_q.weight", from + "q_proj.weight", m_.hidden, 2 * q);
    matrix(to + "attn_k.weight", from + "k_proj.weight", m_.hidden, kv);
    matrix(to + "attn_v.weight", from + "v_proj.weight", m_.hidden, kv);
    matrix(to + "attn_output.weight", from + "o_proj.weight", q, m_.hidden);
    draft_.tensor(to + "attn_q_norm.weight", {m_.head_dim}, norm(from + "q_norm.weight", m_.head_dim));
    draft_.tensor(to + "attn_k_norm.weight", {m_.head_dim}, norm(from + "k_norm.weight", m_.head_dim));
  }

  void feed_forward(const std::string& to, const std::string& layer) {
    draft_.tensor(to + "post_attention_norm.weight", {m_.hidden},
                  norm(layer + "post_attention_layernorm.weight", m_.hidden));
    matrix(to + "ffn_gate.weight", layer + "mlp.gate_proj.weight", m_.hidden, m_.ff);
    matrix(to + "ffn_up.weight", layer + "mlp.up_proj.weight", m_.hidden, m_.ff);
    matrix(to + "ffn_down.weight", layer + "mlp.down_proj.weight", m_.ff, m_.hidden);
  }

  const TinyModel m_;
  Draft draft_;
};

inline Draft draft_model(const TinyModel& model) {
  return TinyBuilder(model).build();
}

}  // namespace fl::test
