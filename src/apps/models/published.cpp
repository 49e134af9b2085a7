#include "apps/models/published.h"

#include <array>
#include <map>

namespace fl::apps {
namespace {

using convert::HfConfig;

struct Size {
  int64_t n_embd, n_layers, n_ff, n_heads, n_kv_heads, n_value_heads;
  bool tied;
};

const std::map<std::string, Size>& sizes() {
  static const std::map<std::string, Size> kSizes{
      {"0.8B", {1024, 24, 3584, 8, 2, 16, true}},   {"2B", {2048, 24, 6144, 8, 2, 16, true}},
      {"4B", {2560, 32, 9216, 16, 4, 32, true}},    {"9B", {4096, 32, 12288, 16, 4, 32, false}},
      {"27B", {5120, 64, 17408, 24, 4, 48, false}}, {"tiny", {256, 8, 768, 4, 2, 4, false}}};
  return kSizes;
}

constexpr int64_t kInterval = 4;
constexpr int64_t kPublishedVocab = 248320;
constexpr int64_t kTinyVocab = 4096;

}  // namespace

std::vector<std::string> published_sizes() {
  std::vector<std::string> names;
  for (const auto& [name, size] : sizes()) {
    names.push_back(name);
  }
  return names;
}

HfConfig published_config(const std::string& name, bool mtp) {
  const Size& size = sizes().at(name);
  const bool tiny = name == "tiny";
  HfConfig config;
  config.prefix = convert::kPrefixes[1];
  config.n_vocab = tiny ? kTinyVocab : kPublishedVocab;
  config.n_embd = size.n_embd;
  config.n_ff = size.n_ff;
  config.n_layers = size.n_layers;
  config.n_mtp_layers = mtp ? 1 : 0;
  config.n_ctx_train = 262144;
  config.n_heads = size.n_heads;
  config.n_kv_heads = size.n_kv_heads;
  config.head_dim = tiny ? 64 : 256;
  config.n_key_heads = tiny ? 2 : 16;
  config.n_value_heads = size.n_value_heads;
  config.key_dim = config.value_dim = tiny ? 64 : 128;
  config.conv_kernel = 4;
  config.rope_dims = config.head_dim / 4;
  config.rope_base = 1e7;
  config.rms_eps = 1e-6;
  config.rope_sections = tiny ? std::array<int32_t, 4>{3, 3, 2, 0} : std::array<int32_t, 4>{11, 11, 10, 0};
  config.tied_embeddings = size.tied;
  for (int64_t i = 0; i < config.n_layers; ++i) {
    config.is_recurrent.push_back((i + 1) % kInterval != 0);
  }
  return config;
}

uint64_t PlannedTensor::elements() const {
  uint64_t n = 1;
  for (const int64_t size : mapping.ne) {
    n *= static_cast<uint64_t>(size);
  }
  return n;
}

std::vector<PlannedTensor> plan_tensors(const HfConfig& config, const Recipe& recipe) {
  std::vector<PlannedTensor> tensors;
  for (convert::Mapping& mapping : convert::make_mappings(config)) {
    PlannedTensor tensor;
    tensor.type =
        type_of(recipe, mapping.gguf, mapping.ne, config.n_layers + config.n_mtp_layers, mapping.is_output);
    tensor.mapping = std::move(mapping);
    tensor.bytes = row_bytes(tensor.type, tensor.elements());
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace fl::apps
