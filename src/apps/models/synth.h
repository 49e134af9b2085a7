// A model of a published size as a file without data.
#pragma once

#include <string>

#include "base/result.h"
#include "gguf/gguf.h"

namespace fl::apps {

/// The directory that `freelunch synth --size S --type T` would write, all weights zero and none on the disk:
/// enough to bind and to plan by.
Result<gguf::File> hollow_model(const std::string& size, const std::string& type);

}  // namespace fl::apps
