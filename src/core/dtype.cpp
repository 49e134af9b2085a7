#include "core/dtype.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "base/result.h"

namespace fl {
namespace {

constexpr std::array kInfos{
    DTypeInfo{DType::f32, "F32", 1, 4},          DTypeInfo{DType::f16, "F16", 1, 2},
    DTypeInfo{DType::bf16, "BF16", 1, 2},        DTypeInfo{DType::q4_0, "Q4_0", 32, 18},
    DTypeInfo{DType::q4_1, "Q4_1", 32, 20},      DTypeInfo{DType::q5_0, "Q5_0", 32, 22},
    DTypeInfo{DType::q5_1, "Q5_1", 32, 24},      DTypeInfo{DType::q8_0, "Q8_0", 32, 34},
    DTypeInfo{DType::q2_k, "Q2_K", 256, 84},     DTypeInfo{DType::q3_k, "Q3_K", 256, 110},
    DTypeInfo{DType::q4_k, "Q4_K", 256, 144},    DTypeInfo{DType::q5_k, "Q5_K", 256, 176},
    DTypeInfo{DType::q6_k, "Q6_K", 256, 210},    DTypeInfo{DType::iq4_nl, "IQ4_NL", 32, 18},
    DTypeInfo{DType::iq4_xs, "IQ4_XS", 256, 136}};

// Ids that files may carry and that are not supported, so that a refusal can name them.
constexpr std::array<std::pair<uint32_t, std::string_view>, 22> kForeign{{
    {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {21, "IQ3_S"}, {22, "IQ2_S"}, {24, "I8"},      {25, "I16"},    {26, "I32"},     {27, "I64"},
    {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},  {39, "MXFP4"},   {40, "NVFP4"},
    {41, "Q1_0"},  {42, "Q2_0"},  {4, "Q4_2"},     {5, "Q4_3"},
}};

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::toupper(static_cast<unsigned char>(x)) == std::toupper(static_cast<unsigned char>(y));
  });
}

}  // namespace

const DTypeInfo& dtype_info(DType type) {
  const auto* const found =
      std::find_if(kInfos.begin(), kInfos.end(), [&](const DTypeInfo& info) { return info.type == type; });
  FL_CHECK(found != kInfos.end(), "unknown DType");
  return *found;
}

std::optional<DType> dtype_from_id(uint32_t id) {
  for (const DTypeInfo& info : kInfos) {
    if (static_cast<uint32_t>(info.type) == id) {
      return info.type;
    }
  }
  return std::nullopt;
}

std::optional<std::string_view> ggml_type_name(uint32_t id) {
  if (const std::optional<DType> type = dtype_from_id(id)) {
    return dtype_info(*type).name;
  }
  for (const auto& [foreign, name] : kForeign) {
    if (foreign == id) {
      return name;
    }
  }
  return std::nullopt;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeInfo& info : kInfos) {
    if (equal_ignoring_case(info.name, name)) {
      return info.type;
    }
  }
  return std::nullopt;
}

}  // namespace fl
