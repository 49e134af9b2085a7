// The hyper-parameters of a Qwen3.5 model, read once from GGUF metadata and checked against each other.
// Keys and formulas: ggml-org/llama.cpp, src/models/qwen35.cpp and src/llama-hparams.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace fl::gguf {
class File;
}

namespace fl::model {

enum class LayerKind : uint8_t { gated_delta_net, full_attention };

struct Config {
  std::string name;  ///< general.name, or the size ("27B") when absent
  int32_t n_vocab = 0;
  int32_t n_embd = 0;
  int32_t n_ff = 0;
  int32_t n_layers = 0;  ///< trunk layers; the MTP block is not one of them
  int32_t n_mtp_layers = 0;
  int32_t n_ctx_train = 0;
  float rms_eps = 1e-6F;
  bool tied_embeddings = false;
  std::vector<LayerKind> layers;  ///< [n_layers]

  // Gated full attention
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  float attention_scale = 0;
  int32_t rope_dims = 0;  ///< first dims of a head that rotate; pair i is (i, i + rope_dims/2)
  float rope_base = 0;
  std::array<int32_t, 3> rope_sections{};  ///< pairs of t, y, x, interleaved
  // YaRN; factor 1 means none.
  float rope_scaling_factor = 1.0F;
  int32_t rope_original_ctx = 0;

  // Gated DeltaNet
  int32_t n_key_heads = 0;
  int32_t n_value_heads = 0;  ///< value head h reads key head h % n_key_heads (GGUF's tiled order)
  int32_t key_dim = 0;        ///< of one head
  int32_t value_dim = 0;      ///< of one head
  int32_t conv_kernel = 4;

  int32_t q_channels() const { return n_key_heads * key_dim; }
  int32_t v_channels() const { return n_value_heads * value_dim; }
  int32_t conv_channels() const { return 2 * q_channels() + v_channels(); }
  int32_t n_full_layers() const;
  int32_t n_delta_layers() const { return n_layers - n_full_layers(); }
  /// Elements of K (or of V) that one token adds in one full-attention layer.
  int32_t kv_width() const { return n_kv_heads * head_dim; }
  /// Floats of recurrent state of one sequence in one DeltaNet layer: S, then the convolution window.
  int64_t state_floats() const { return int64_t{n_value_heads} * key_dim * value_dim; }
  int64_t conv_floats() const { return int64_t{conv_kernel - 1} * conv_channels(); }

  /// Errors name the key, the expected and the found value.
  static Result<Config> from_gguf(const gguf::File& file);
};

}  // namespace fl::model
