#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "gguf/gguf.h"

namespace fl::model {
namespace {

// Far above any published model; they keep products of two sizes inside int64 and absurd files out.
constexpr int64_t kMaxWidth = 1 << 20;  // n_embd, n_ff, channels
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxContext = int64_t{1} << 30;
constexpr int64_t kMaxConvKernel = 8;  // fl::kMaxConvKernel of the kernels
constexpr int64_t kMaxMtpLayers = 1;
constexpr double kMaxEps = 0.1;
constexpr double kMaxRopeBase = 1e12;
constexpr double kMaxRopeFactor = 1024;
constexpr int64_t kDefaultInterval = 4;

/// Reads keys of one file; the first error is kept and everything after it returns zeros.
class Keys {
 public:
  explicit Keys(const gguf::File& file) : file_(file) {}

  const std::optional<Error>& error() const { return error_; }

  void refuse(ErrorCode code, std::string message) {
    if (!error_) {
      error_ = Error{code, std::move(message)};
    }
  }
  void expect(bool condition, std::string_view key, std::string_view expected, const std::string& found) {
    if (!condition) {
      refuse(ErrorCode::bad_file, fmt::format("{}: expected {}, found {}", key, expected, found));
    }
  }

  int32_t integer(std::string_view key, int64_t least, int64_t most) {
    return checked(key, take(file_.get_int(key), key), least, most);
  }
  int32_t integer_or(std::string_view key, int64_t fallback, int64_t least, int64_t most) {
    return file_.has(key) ? integer(key, least, most) : static_cast<int32_t>(fallback);
  }
  /// A scalar, or one value a layer of which some may be zero (the layers without that part) and the others
  /// are equal.
  int32_t per_layer(std::string_view key, int64_t least, int64_t most) {
    int64_t value = 0;
    for (const int64_t element : take(file_.get_ints(key), key)) {
      if (element != 0 && value != 0 && element != value) {
        expect(false, key, fmt::format("one value for all layers ({})", value),
               fmt::format("also {}", element));
      }
      value = element != 0 ? element : value;
    }
    return checked(key, value, least, most);
  }
  float real(std::string_view key, double least, double most) {
    const double value = take(file_.get_float(key), key);
    // Written so that NaN fails.
    if (!(value >= least && value <= most)) {
      expect(false, key, fmt::format("{} to {}", least, most), fmt::format("{}", value));
      return 0;
    }
    return static_cast<float>(value);
  }
  float real_or(std::string_view key, double fallback, double least, double most) {
    return file_.has(key) ? real(key, least, most) : static_cast<float>(fallback);
  }
  std::string text_or(std::string_view key, std::string_view fallback) {
    return std::string(take(file_.get_string_or(key, fallback), key));
  }
  template <typename T>
  T take(Result<T> result, std::string_view key) {
    if (!result) {
      Error error = std::move(result.error());
      if (error.message.find(key) == std::string::npos) {
        error.message = fmt::format("{}: {}", key, error.message);
      }
      error.code = ErrorCode::bad_file;
      if (!error_) {
        error_ = std::move(error);
      }
      return T{};
    }
    return std::move(*result);
  }

 private:
  int32_t checked(std::string_view key, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most) {
      expect(false, key, fmt::format("{} to {}", least, most), fmt::format("{}", value));
      return static_cast<int32_t>(least);
    }
    return static_cast<int32_t>(value);
  }

  const gguf::File& file_;
  std::optional<Error> error_;
};

/// The kind of each trunk layer: an explicit list wins over the interval.
void read_layer_kinds(Keys& keys, const gguf::File& file, Config& c) {
  constexpr std::string_view kList = "qwen35.attention.recurrent_layers";
  constexpr std::string_view kInterval = "qwen35.full_attention_interval";
  if (file.has(kList)) {
    const Result<gguf::Value> value = file.value(kList);
    const auto* list = value ? std::get_if<std::vector<bool>>(&value->storage()) : nullptr;
    const size_t blocks = static_cast<size_t>(c.n_layers) + static_cast<size_t>(c.n_mtp_layers);
    if (list == nullptr || list->size() != blocks) {
      keys.expect(false, kList, fmt::format("{} booleans, one for each block", blocks), file.describe(kList));
      return;
    }
    for (int32_t i = 0; i < c.n_layers; ++i) {
      c.layers.push_back((*list)[static_cast<size_t>(i)] ? LayerKind::gated_delta_net
                                                         : LayerKind::full_attention);
    }
    return;
  }
  const int32_t interval = keys.integer_or(kInterval, kDefaultInterval, 1, kMaxLayers);
  for (int32_t i = 0; i < c.n_layers; ++i) {
    c.layers.push_back((i + 1) % interval == 0 ? LayerKind::full_attention : LayerKind::gated_delta_net);
  }
}

/// Three axes; some writers add a fourth, unused one.
void read_sections(Keys& keys, const gguf::File& file, Config& c) {
  std::string_view key = "qwen35.rope.dimension_sections";
  constexpr std::string_view kOther = "qwen35.mrope_sections";
  if (!file.has(key) && file.has(kOther)) {
    key = kOther;
  }
  const std::vector<int64_t> sections = keys.take(file.get_ints(key), key);
  const bool shape_ok = sections.size() == 3 || (sections.size() == 4 && sections[3] == 0);
  int64_t sum = 0;
  bool values_ok = shape_ok;
  for (size_t i = 0; shape_ok && i < 3; ++i) {
    values_ok = values_ok && sections[i] >= 0 && sections[i] <= c.rope_dims;
    sum += values_ok ? sections[i] : 0;
  }
  if (!values_ok || sum != c.rope_dims / 2) {
    keys.expect(false, key, fmt::format("three numbers that add up to {}", c.rope_dims / 2),
                file.describe(key));
    return;
  }
  for (size_t i = 0; i < 3; ++i) {
    c.rope_sections[i] = static_cast<int32_t>(sections[i]);
  }
}

void read_rope_scaling(Keys& keys, const gguf::File& file, Config& c) {
  constexpr std::string_view kType = "qwen35.rope.scaling.type";
  const std::string type = keys.text_or(kType, "none");
  if (type == "none" || type.empty()) {
    return;
  }
  if (type != "yarn") {
    keys.refuse(ErrorCode::unsupported,
                fmt::format("{}: expected \"none\" or \"yarn\", found \"{}\"", kType, type));
    return;
  }
  c.rope_scaling_factor = keys.real("qwen35.rope.scaling.factor", 1.0, kMaxRopeFactor);
  c.rope_original_ctx = keys.integer("qwen35.rope.scaling.original_context_length", 1, kMaxContext);
  // Only the published recipe's constants; another value would need another ramp or magnitude.
  struct Fixed {
    std::string_view key;
    double value;
  };
  for (const Fixed& fixed :
       {Fixed{"qwen35.rope.scaling.attn_factor", 1.0}, Fixed{"qwen35.rope.scaling.yarn_beta_fast", 32.0},
        Fixed{"qwen35.rope.scaling.yarn_beta_slow", 1.0}, Fixed{"qwen35.rope.scaling.yarn_ext_factor", 1.0},
        Fixed{"qwen35.rope.scaling.yarn_attn_factor", 1.0}}) {
    if (!file.has(fixed.key)) {
      continue;
    }
    const double value = keys.take(file.get_float(fixed.key), fixed.key);
    if (value != fixed.value) {
      keys.refuse(ErrorCode::unsupported,
                  fmt::format("{}: expected {}, found {}", fixed.key, fixed.value, value));
    }
  }
}

std::string size_name(const Config& c) {
  switch (c.n_layers) {
    case 24:
      return c.n_embd == 1024 ? "0.8B" : "2B";
    case 32:
      return c.n_embd == 2560 ? "4B" : "9B";
    case 64:
      return "27B";
    default:
      return fmt::format("{} layers", c.n_layers);
  }
}

}  // namespace

int32_t Config::n_full_layers() const {
  return static_cast<int32_t>(std::count(layers.begin(), layers.end(), LayerKind::full_attention));
}

Result<Config> Config::from_gguf(const gguf::File& file) {
  Keys keys(file);
  Config c;
  constexpr std::string_view kArchitecture = "general.architecture";
  const std::string architecture = std::string(keys.take(file.get_string(kArchitecture), kArchitecture));
  if (keys.error()) {
    return tl::unexpected(*keys.error());
  }
  if (architecture != "qwen35") {
    return fail(ErrorCode::unsupported, fmt::format("{}: expected \"qwen35\" (dense Qwen3.5), found \"{}\"",
                                                    kArchitecture, architecture));
  }
  const gguf::Tensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr) {
    return fail(ErrorCode::bad_file, file.tensors().empty() ? "the file has a vocabulary but no tensors"
                                                            : "token_embd.weight: the tensor is missing");
  }

  c.n_embd = keys.integer("qwen35.embedding_length", 1, kMaxWidth);
  c.n_ff = keys.per_layer("qwen35.feed_forward_length", 1, kMaxWidth);
  c.n_mtp_layers = keys.integer_or("qwen35.nextn_predict_layers", 0, 0, kMaxMtpLayers);
  c.n_layers = keys.integer("qwen35.block_count", 1 + c.n_mtp_layers, kMaxLayers) - c.n_mtp_layers;
  c.n_ctx_train = keys.integer("qwen35.context_length", 1, kMaxContext);
  c.rms_eps = keys.real("qwen35.attention.layer_norm_rms_epsilon", 0.0, kMaxEps);
  const int64_t vocab = embedding->view.rows();
  keys.expect(vocab >= 1 && vocab <= kMaxVocab, "token_embd.weight", fmt::format("1 to {} rows", kMaxVocab),
              fmt::format("{}", vocab));
  c.n_vocab = static_cast<int32_t>(std::clamp<int64_t>(vocab, 1, kMaxVocab));
  c.tied_embeddings = file.find("output.weight") == nullptr;

  c.n_heads = keys.per_layer("qwen35.attention.head_count", 1, kMaxHeads);
  c.n_kv_heads = keys.per_layer("qwen35.attention.head_count_kv", 1, kMaxHeads);
  keys.expect(c.n_heads % c.n_kv_heads == 0, "qwen35.attention.head_count",
              fmt::format("a multiple of qwen35.attention.head_count_kv ({})", c.n_kv_heads),
              fmt::format("{}", c.n_heads));
  c.head_dim = keys.integer_or("qwen35.attention.key_length", c.n_embd / c.n_heads, 2, kMaxHeadDim);
  const int32_t value_length = keys.integer_or("qwen35.attention.value_length", c.head_dim, 1, kMaxHeadDim);
  keys.expect(value_length == c.head_dim, "qwen35.attention.value_length",
              fmt::format("key_length ({})", c.head_dim), fmt::format("{}", value_length));
  c.attention_scale = keys.real_or("qwen35.attention.scale",
                                   1.0 / std::sqrt(static_cast<double>(std::max(c.head_dim, 1))), 1e-6, 1e3);

  c.rope_dims = keys.integer("qwen35.rope.dimension_count", 2, std::max(c.head_dim, 2));
  keys.expect(c.rope_dims % 2 == 0, "qwen35.rope.dimension_count", "an even number",
              fmt::format("{}", c.rope_dims));
  c.rope_base = keys.real("qwen35.rope.freq_base", 1.0, kMaxRopeBase);
  read_sections(keys, file, c);
  read_rope_scaling(keys, file, c);

  c.conv_kernel = keys.integer("qwen35.ssm.conv_kernel", 2, kMaxConvKernel);
  c.key_dim = keys.integer("qwen35.ssm.state_size", 1, kMaxHeadDim);
  c.n_key_heads = keys.integer("qwen35.ssm.group_count", 1, kMaxHeads);
  c.n_value_heads = keys.integer("qwen35.ssm.time_step_rank", 1, kMaxHeads);
  keys.expect(c.n_value_heads % c.n_key_heads == 0, "qwen35.ssm.time_step_rank",
              fmt::format("a multiple of qwen35.ssm.group_count ({})", c.n_key_heads),
              fmt::format("{}", c.n_value_heads));
  const int32_t inner = keys.integer("qwen35.ssm.inner_size", 1, kMaxWidth);
  keys.expect(inner % c.n_value_heads == 0 && inner / c.n_value_heads <= kMaxHeadDim, "qwen35.ssm.inner_size",
              fmt::format("a multiple of qwen35.ssm.time_step_rank ({}), at most {} times it",
                          c.n_value_heads, kMaxHeadDim),
              fmt::format("{}", inner));
  c.value_dim = inner / c.n_value_heads;
  // A grouped order of value heads cannot be seen in the shapes; the converters that write it say so.
  constexpr std::string_view kReordered = "qwen35.ssm.v_head_reordered";
  if (file.has(kReordered) && !keys.take(file.get_bool(kReordered), kReordered)) {
    keys.refuse(ErrorCode::unsupported,
                fmt::format("{}: expected true (tiled value heads), found false", kReordered));
  }
  if (!keys.error()) {
    read_layer_kinds(keys, file, c);
  }
  c.name = keys.text_or("general.name", size_name(c));
  if (keys.error()) {
    return tl::unexpected(*keys.error());
  }
  return c;
}

}  // namespace fl::model
