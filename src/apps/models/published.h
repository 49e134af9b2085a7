// The published dense sizes of the family and the tensors of a file of such a size.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/convert/hf_config.h"
#include "apps/convert/tensors.h"
#include "apps/models/recipe.h"

namespace fl::apps {

/// "27B", "9B", "4B", "2B", "0.8B" and "tiny", a model of 8 layers with two value heads per key head.
std::vector<std::string> published_sizes();

/// One of published_sizes(). Numbers: the models' config.json files.
convert::HfConfig published_config(const std::string& size, bool mtp);

struct PlannedTensor {
  convert::Mapping mapping;
  DType type = DType::f32;
  uint64_t bytes = 0;

  uint64_t elements() const;
};

/// All tensors in the order of the file, with the types of a recipe.
std::vector<PlannedTensor> plan_tensors(const convert::HfConfig& config, const Recipe& recipe);

}  // namespace fl::apps
