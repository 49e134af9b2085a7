// The tensors of a model, bound by name and checked for shape once; no later code has to. Views into the
// mapped file. Names and shapes: ggml-org/llama.cpp, src/models/qwen35.cpp (see src/model/README.md).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/tensor.h"
#include "model/config.h"

namespace fl::gguf {
class File;
}

namespace fl::model {

/// Shapes in ggml order [in, out].
struct FeedForward {
  TensorView norm;  ///< [n_embd] f32
  TensorView gate;  ///< [n_embd, n_ff]
  TensorView up;    ///< [n_embd, n_ff]
  TensorView down;  ///< [n_ff, n_embd]
};

struct FullAttention {
  TensorView norm;  ///< [n_embd] f32
  TensorView q;  ///< [n_embd, n_heads * 2 * head_dim]; rows of a head: head_dim of q, then head_dim of gate
  TensorView k;  ///< [n_embd, n_kv_heads * head_dim]
  TensorView v;  ///< [n_embd, n_kv_heads * head_dim]
  TensorView q_norm;  ///< [head_dim] f32
  TensorView k_norm;  ///< [head_dim] f32
  TensorView out;     ///< [n_heads * head_dim, n_embd]
};

struct DeltaNet {
  TensorView norm;    ///< [n_embd] f32
  TensorView qkv;     ///< [n_embd, conv_channels]
  TensorView gate;    ///< [n_embd, v_channels] (z)
  TensorView beta;    ///< [n_embd, n_value_heads]
  TensorView alpha;   ///< [n_embd, n_value_heads]
  TensorView a;       ///< [n_value_heads] f32, -exp(A_log)
  TensorView dt;      ///< [n_value_heads] f32
  TensorView conv;    ///< [conv_kernel, conv_channels] f32
  TensorView o_norm;  ///< [value_dim] f32
  TensorView out;     ///< [v_channels, n_embd]
};

struct Layer {
  LayerKind kind = LayerKind::gated_delta_net;
  FullAttention attention;  ///< when kind == full_attention
  DeltaNet delta;           ///< when kind == gated_delta_net
  FeedForward ffn;
};

/// The multi-token-prediction block: bound and checked, not yet run.
struct MtpBlock {
  TensorView e_norm;      ///< [n_embd] f32
  TensorView h_norm;      ///< [n_embd] f32
  TensorView eh_proj;     ///< [2 * n_embd, n_embd], embedding half first
  TensorView head_norm;   ///< [n_embd] f32; output_norm when the file has none
  TensorView token_embd;  ///< no data: the trunk's, which is usual
  TensorView output;      ///< no data: the trunk's, which is usual
  FullAttention attention;
  FeedForward ffn;
};

class Weights {
 public:
  /// The file must outlive the weights. Errors name the tensor, the expected and the found shape or type.
  static Result<Weights> bind(const gguf::File& file);

  Config config;
  TensorView token_embd;   ///< [n_embd, n_vocab]
  TensorView output_norm;  ///< [n_embd] f32
  TensorView output;       ///< [n_embd, n_vocab]; equal to token_embd when tied
  std::vector<Layer> layers;
  std::optional<MtpBlock> mtp;

  /// The files behind the views: one that reads past the mapping finds its bytes there.
  struct Source {
    std::string path;
    std::span<const std::byte> bytes;
  };
  std::vector<Source> sources;

  uint64_t bytes() const;  ///< of all tensors bound, a tied embedding once
};

}  // namespace fl::model
