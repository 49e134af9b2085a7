// Which tensors a Qwen3.5 GGUF has, from which of the checkpoint's they come, and what is done to their
// values on the way. Names: ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py; transforms:
// convert_hf_to_gguf.py (Qwen3.5).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "apps/convert/hf_config.h"
#include "apps/convert/safetensors.h"

namespace fl::apps::convert {

struct Mapping {
  enum class Transform {
    none,
    add_one,          ///< RMS norms are stored as an offset from one
    negative_exp,     ///< A_log -> -exp(A_log), then the head order
    value_head_rows,  ///< rows (or elements) of value heads from grouped to tiled order
    value_head_tail,  ///< the same for the rows behind q and k
    value_head_cols,  ///< the same for input columns
  };
  std::string gguf;
  std::string hf;
  std::vector<int64_t> hf_shape;  ///< outermost first
  std::vector<int64_t> ne;        ///< of the GGUF tensor
  Transform transform = Transform::none;
  bool is_output = false;  ///< the output matrix, or the embeddings when tied
};

std::vector<Mapping> make_mappings(const HfConfig& config);

/// Rows [first, first + out.size() / ne[0]) of the GGUF tensor from the checkpoint's `tensor` of the
/// mapping's shape, as float.
void read_rows(const SafeTensor& tensor, const HfConfig& config, const Mapping& mapping, int64_t first,
               std::span<float> out);

}  // namespace fl::apps::convert
