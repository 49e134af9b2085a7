// Which type each tensor of a Qwen3.5 file gets in a published mix. Source: ggml-org/llama.cpp,
// src/llama-quant.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace fl::apps {

struct Recipe {
  std::string name;    ///< "Q4_K_M", or the name of a type
  DType base;          ///< of most matrices
  DType more;          ///< of the more sensitive ones
  DType output;        ///< of the output matrix, or of tied embeddings
  uint32_t file_type;  ///< general.file_type (include/llama.h, llama_ftype)
};

/// More blocks than any file of the family has; a file that claims more is damaged.
inline constexpr int64_t kMaxBlocks = 4096;

/// A mix (Q4_K_M, Q5_K_M) or any supported type for all matrices, in any case of letters.
std::optional<Recipe> find_recipe(std::string_view name);
std::vector<std::string> recipe_names();

/// The type of one tensor: vectors, norms and the convolution stay f32; a row that does not hold whole blocks
/// gets the fallback type. `n_blocks` counts the MTP block too.
DType type_of(const Recipe& recipe, std::string_view tensor, const std::vector<int64_t>& ne, int64_t n_blocks,
              bool is_output);

}  // namespace fl::apps
