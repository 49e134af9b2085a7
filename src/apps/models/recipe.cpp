#include "apps/models/recipe.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

namespace fl::apps {
namespace {

struct FileType {
  DType type;
  uint32_t id;
};
constexpr std::array<FileType, 15> kFileTypes{{{DType::f32, 0},
                                               {DType::f16, 1},
                                               {DType::q4_0, 2},
                                               {DType::q4_1, 3},
                                               {DType::q8_0, 7},
                                               {DType::q5_0, 8},
                                               {DType::q5_1, 9},
                                               {DType::q2_k, 10},
                                               {DType::q3_k, 12},
                                               {DType::q4_k, 14},
                                               {DType::q5_k, 16},
                                               {DType::q6_k, 18},
                                               {DType::iq4_nl, 25},
                                               {DType::iq4_xs, 30},
                                               {DType::bf16, 32}}};

int64_t block_of(std::string_view tensor) {
  constexpr std::string_view kPrefix = "blk.";
  int64_t block = -1;
  if (tensor.starts_with(kPrefix)) {
    std::from_chars(tensor.data() + kPrefix.size(), tensor.data() + tensor.size(), block);
  }
  return block;
}

// The first and last eighth of the blocks and every third between are given more bits.
bool gets_more(int64_t i, int64_t n) {
  return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

bool stays_f32(std::string_view tensor, const std::vector<int64_t>& ne) {
  return ne.size() < 2 || tensor.find("_norm.weight") != std::string_view::npos ||
         tensor.find("ssm_conv1d") != std::string_view::npos || !tensor.ends_with("weight");
}

DType fallback(DType type) {
  switch (type) {
    case DType::iq4_xs:
      return DType::iq4_nl;
    case DType::q2_k:
    case DType::q3_k:
      return DType::q4_0;
    case DType::q4_k:
      return DType::q5_0;
    case DType::q5_k:
      return DType::q5_1;
    case DType::q6_k:
      return DType::q8_0;
    default:
      return DType::f16;
  }
}

bool fits(DType type, int64_t n) {
  return n % dtype_info(type).block_elems == 0;
}

}  // namespace

std::optional<Recipe> find_recipe(std::string_view name) {
  std::string upper(name);
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
  if (upper == "Q4_K_M") {
    return Recipe{upper, DType::q4_k, DType::q6_k, DType::q6_k, 15};
  }
  if (upper == "Q5_K_M") {
    return Recipe{upper, DType::q5_k, DType::q6_k, DType::q6_k, 17};
  }
  const std::optional<DType> type = dtype_from_name(name);
  if (!type) {
    return std::nullopt;
  }
  for (const FileType& file_type : kFileTypes) {
    if (file_type.type == *type) {
      return Recipe{std::string(dtype_info(*type).name), *type, *type, *type, file_type.id};
    }
  }
  return std::nullopt;
}

std::vector<std::string> recipe_names() {
  std::vector<std::string> names{"Q4_K_M", "Q5_K_M"};
  for (const FileType& file_type : kFileTypes) {
    names.emplace_back(dtype_info(file_type.type).name);
  }
  return names;
}

DType type_of(const Recipe& recipe, std::string_view tensor, const std::vector<int64_t>& ne, int64_t n_blocks,
              bool is_output) {
  if (stays_f32(tensor, ne)) {
    return DType::f32;
  }
  DType type = recipe.base;
  const bool sensitive = tensor.ends_with("attn_v.weight") || tensor.ends_with("attn_qkv.weight") ||
                         tensor.ends_with("ffn_down.weight");
  if (is_output) {
    type = recipe.output;
  } else if (sensitive && gets_more(block_of(tensor), n_blocks)) {
    type = recipe.more;
  }
  if (!fits(type, ne[0])) {
    type = fallback(type);
  }
  return fits(type, ne[0]) ? type : DType::f16;
}

}  // namespace fl::apps
