#include "apps/convert/tensors.h"

#include <cmath>

#include <fmt/format.h>

namespace fl::apps::convert {
namespace {

using Transform = Mapping::Transform;

class Builder {
 public:
  explicit Builder(const HfConfig& config) : c_(config) {}

  std::vector<Mapping> build() {
    matrix("token_embd.weight", c_.prefix + "embed_tokens.weight", c_.n_embd, c_.n_vocab);
    out_.back().is_output = c_.tied_embeddings;
    vector("output_norm.weight", c_.prefix + "norm.weight", c_.n_embd, Transform::add_one);
    if (!c_.tied_embeddings) {
      matrix("output.weight", "lm_head.weight", c_.n_embd, c_.n_vocab);
      out_.back().is_output = true;
    }
    for (int64_t i = 0; i < c_.n_layers; ++i) {
      const std::string gguf = fmt::format("blk.{}.", i);
      const std::string hf = fmt::format("{}layers.{}.", c_.prefix, i);
      if (c_.is_recurrent[static_cast<size_t>(i)]) {
        delta_net(gguf, hf + "linear_attn.");
      } else {
        attention(gguf, hf + "self_attn.");
      }
      common(gguf, hf);
    }
    for (int64_t i = 0; i < c_.n_mtp_layers; ++i) {
      const std::string gguf = fmt::format("blk.{}.", c_.n_layers + i);
      const std::string hf = fmt::format("mtp.layers.{}.", i);
      attention(gguf, hf + "self_attn.");
      common(gguf, hf);
      matrix(gguf + "nextn.eh_proj.weight", "mtp.fc.weight", 2 * c_.n_embd, c_.n_embd);
      vector(gguf + "nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight", c_.n_embd, Transform::add_one);
      vector(gguf + "nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", c_.n_embd, Transform::add_one);
      vector(gguf + "nextn.shared_head_norm.weight", "mtp.norm.weight", c_.n_embd, Transform::add_one);
    }
    return std::move(out_);
  }

 private:
  void matrix(std::string gguf, std::string hf, int64_t in, int64_t n_out,
              Transform transform = Transform::none) {
    out_.push_back({std::move(gguf), std::move(hf), {n_out, in}, {in, n_out}, transform, false});
  }
  void vector(std::string gguf, std::string hf, int64_t n, Transform transform = Transform::none) {
    out_.push_back({std::move(gguf), std::move(hf), {n}, {n}, transform, false});
  }

  void common(const std::string& gguf, const std::string& hf) {
    vector(gguf + "attn_norm.weight", hf + "input_layernorm.weight", c_.n_embd, Transform::add_one);
    vector(gguf + "post_attention_norm.weight", hf + "post_attention_layernorm.weight", c_.n_embd,
           Transform::add_one);
    matrix(gguf + "ffn_gate.weight", hf + "mlp.gate_proj.weight", c_.n_embd, c_.n_ff);
    matrix(gguf + "ffn_up.weight", hf + "mlp.up_proj.weight", c_.n_embd, c_.n_ff);
    matrix(gguf + "ffn_down.weight", hf + "mlp.down_proj.weight", c_.n_ff, c_.n_embd);
  }

  void attention(const std::string& gguf, const std::string& hf) {
    matrix(gguf + "attn_q.weight", hf + "q_proj.weight", c_.n_embd, c_.n_heads * 2 * c_.head_dim);
    matrix(gguf + "attn_k.weight", hf + "k_proj.weight", c_.n_embd, c_.n_kv_heads * c_.head_dim);
    matrix(gguf + "attn_v.weight", hf + "v_proj.weight", c_.n_embd, c_.n_kv_heads * c_.head_dim);
    matrix(gguf + "attn_output.weight", hf + "o_proj.weight", c_.n_heads * c_.head_dim, c_.n_embd);
    vector(gguf + "attn_q_norm.weight", hf + "q_norm.weight", c_.head_dim, Transform::add_one);
    vector(gguf + "attn_k_norm.weight", hf + "k_norm.weight", c_.head_dim, Transform::add_one);
  }

  void delta_net(const std::string& gguf, const std::string& hf) {
    matrix(gguf + "attn_qkv.weight", hf + "in_proj_qkv.weight", c_.n_embd, c_.conv_channels(),
           Transform::value_head_tail);
    matrix(gguf + "attn_gate.weight", hf + "in_proj_z.weight", c_.n_embd, c_.value_channels(),
           Transform::value_head_rows);
    matrix(gguf + "ssm_beta.weight", hf + "in_proj_b.weight", c_.n_embd, c_.n_value_heads,
           Transform::value_head_rows);
    matrix(gguf + "ssm_alpha.weight", hf + "in_proj_a.weight", c_.n_embd, c_.n_value_heads,
           Transform::value_head_rows);
    vector(gguf + "ssm_a", hf + "A_log", c_.n_value_heads, Transform::negative_exp);
    vector(gguf + "ssm_dt.bias", hf + "dt_bias", c_.n_value_heads, Transform::value_head_rows);
    vector(gguf + "ssm_norm.weight", hf + "norm.weight", c_.value_dim);
    out_.push_back({gguf + "ssm_conv1d.weight",
                    hf + "conv1d.weight",
                    {c_.conv_channels(), 1, c_.conv_kernel},
                    {c_.conv_kernel, c_.conv_channels()},
                    Transform::value_head_tail,
                    false});
    matrix(gguf + "ssm_out.weight", hf + "out_proj.weight", c_.value_channels(), c_.n_embd,
           Transform::value_head_cols);
  }

  const HfConfig& c_;
  std::vector<Mapping> out_;
};

// The checkpoint groups value heads by key head (head = key * r + j); GGUF tiles them (head = j * n_key_heads
// + key). The checkpoint's number of the GGUF head.
int64_t grouped_head(const HfConfig& c, int64_t tiled) {
  const int64_t r = c.n_value_heads / c.n_key_heads;
  return tiled % c.n_key_heads * r + tiled / c.n_key_heads;
}

// Where element `i` of an axis of value heads, `width` elements each, comes from.
int64_t grouped_element(const HfConfig& c, int64_t i, int64_t width) {
  return grouped_head(c, i / width) * width + i % width;
}

// Where item `i` of the outermost axis comes from.
int64_t source_item(const HfConfig& c, const Mapping& mapping, int64_t i) {
  const int64_t head = 2 * c.key_channels();  // q and k in front of the value heads
  switch (mapping.transform) {
    case Transform::none:
    case Transform::add_one:
    case Transform::value_head_cols:
      return i;
    case Transform::negative_exp:
    case Transform::value_head_rows:
      return grouped_element(c, i, mapping.hf_shape[0] / c.n_value_heads);
    case Transform::value_head_tail:
      return i < head ? i : head + grouped_element(c, i - head, c.value_dim);
  }
  return i;
}

}  // namespace

std::vector<Mapping> make_mappings(const HfConfig& config) {
  return Builder(config).build();
}

void read_rows(const SafeTensor& tensor, const HfConfig& config, const Mapping& mapping, int64_t first,
               std::span<float> out) {
  // An item is an index of the outermost axis: an element of a vector, a row of a matrix.
  const int64_t width = tensor.elements() / mapping.hf_shape[0];
  const int64_t first_item = first * mapping.ne[0] / width;
  const auto n = static_cast<int64_t>(out.size()) / width;
  std::vector<float> grouped(static_cast<size_t>(width));
  for (int64_t i = 0; i < n; ++i) {
    const auto item = out.subspan(static_cast<size_t>(i * width), static_cast<size_t>(width));
    const int64_t from = source_item(config, mapping, first_item + i) * width;
    if (mapping.transform != Transform::value_head_cols) {
      tensor.read(from, item);
      continue;
    }
    tensor.read(from, grouped);
    for (int64_t k = 0; k < width; ++k) {
      item[static_cast<size_t>(k)] =
          grouped[static_cast<size_t>(grouped_element(config, k, config.value_dim))];
    }
  }
  if (mapping.transform == Transform::add_one) {
    for (float& value : out) {
      value += 1.0F;
    }
  } else if (mapping.transform == Transform::negative_exp) {
    for (float& value : out) {
      value = -std::exp(value);
    }
  }
}

}  // namespace fl::apps::convert
