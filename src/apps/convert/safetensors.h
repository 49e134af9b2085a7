// Tensors of a Hugging Face checkpoint: model.safetensors, or the parts that model.safetensors.index.json
// names. Format: huggingface/safetensors, README.md (a 64-bit header length, a JSON header, then the data).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"

namespace fl::apps::convert {

struct SafeTensor {
  std::string dtype;           ///< as the file says it; F32, F16 and BF16 can be read
  std::vector<int64_t> shape;  ///< outermost first, as PyTorch prints it
  std::span<const std::byte> bytes;
  std::string file;

  int64_t elements() const;
  /// Elements [first, first + out.size()) as float. The dtype is one that can be read.
  void read(int64_t first, std::span<float> out) const;
};

class Checkpoint {
 public:
  /// Errors name the file and what is wrong with it; every offset is checked.
  static Result<Checkpoint> open(const std::filesystem::path& dir);

  bool has(std::string_view name) const { return tensors_.contains(name); }
  /// bad_file: absent, of another shape, or of a type that cannot be read (expected and found in the text).
  Result<const SafeTensor*> find(std::string_view name, const std::vector<int64_t>& shape) const;

 private:
  Status add_file(const std::filesystem::path& path);

  std::filesystem::path dir_;
  std::vector<MappedFile> files_;
  std::map<std::string, SafeTensor, std::less<>> tensors_;
};

}  // namespace fl::apps::convert
