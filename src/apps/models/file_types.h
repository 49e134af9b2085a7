// The names of general.file_type.
#pragma once

#include <cstdint>
#include <string>

namespace fl::apps {

/// As llama.cpp prints it ("Q4_K - Medium"; include/llama.h, llama_ftype); "mixed" for an id it does not
/// have.
std::string file_type_name(int64_t id);

}  // namespace fl::apps
