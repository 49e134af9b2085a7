// Tensors of a Hugging Face checkpoint: model.safetensors, or the parts that model.safetensors.index.json
// names. Format: huggingface/safetensors, README.md (a 64-bit header length, a JSON header, then the data).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"

namespace fl::apps::convert {

struct SafeTensor {
  enum class Type { f32, f16, bf16 };
  Type type = Type::f32;
  std::vector<int64_t> shape;  ///< outermost first, as PyTorch prints it
  std::span<const std::byte> bytes;

  int64_t elements() const;
};

class Checkpoint {
 public:
  /// Errors name the file and what is wrong with it; every offset is checked.
  static Result<Checkpoint> open(const std::filesystem::path& dir);

  const std::map<std::string, SafeTensor, std::less<>>& tensors() const { return tensors_; }
  /// As float. bad_file: absent, or another shape (both in the text).
  Result<std::vector<float>> read(std::string_view name, const std::vector<int64_t>& shape) const;
  bool has(std::string_view name) const { return tensors_.contains(name); }

 private:
  Status add_file(const std::filesystem::path& path);

  std::filesystem::path dir_;
  std::vector<MappedFile> files_;
  std::map<std::string, SafeTensor, std::less<>> tensors_;
};

}  // namespace fl::apps::convert
