// The shapes of a Qwen3.5 checkpoint from its config.json, and the metadata that a GGUF file says them in.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/result.h"
#include "gguf/gguf.h"

namespace fl::apps::convert {

struct HfConfig {
  int64_t n_vocab = 0, n_embd = 0, n_ff = 0, n_layers = 0, n_mtp_layers = 0, n_ctx_train = 0;
  int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int64_t n_key_heads = 0, n_value_heads = 0, key_dim = 0, value_dim = 0, conv_kernel = 0;
  int64_t rope_dims = 0;
  double rope_base = 0, rms_eps = 0;
  std::array<int32_t, 4> rope_sections{};
  double yarn_factor = 1;  ///< above 1: YaRN, with the context it starts from
  int64_t yarn_original_ctx = 0;
  bool tied_embeddings = false;
  std::vector<bool> is_recurrent;  ///< of each trunk layer
  /// In front of the names of the trunk: one of kPrefixes.
  std::string prefix;

  int64_t key_channels() const { return n_key_heads * key_dim; }
  int64_t value_channels() const { return n_value_heads * value_dim; }
  int64_t conv_channels() const { return 2 * key_channels() + value_channels(); }
};

/// Of checkpoints with and without a vision part.
inline constexpr const char* kPrefixes[] = {"model.language_model.", "model."};

/// bad_file names the key, what was expected and what was found; unsupported: another architecture, or a
/// rope scaling that the model does not know.
Result<HfConfig> read_config(const std::filesystem::path& dir);

void set_metadata(const HfConfig& config, const std::string& name, gguf::Writer& writer);

}  // namespace fl::apps::convert
