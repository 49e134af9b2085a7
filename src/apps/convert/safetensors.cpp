#include "apps/convert/safetensors.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "apps/convert/json_file.h"
#include "core/half.h"

namespace fl::apps::convert {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = uint64_t{100} << 20;  // as the reference reader

/// Bytes of an element of the types that can be read, else 0.
int64_t element_bytes(std::string_view dtype) {
  return dtype == "F32" ? 4 : dtype == "F16" || dtype == "BF16" ? 2 : 0;
}

Result<SafeTensor> parse_tensor(const Json& json, std::span<const std::byte> data, const std::string& where) {
  const auto bad = [&](const std::string& problem) {
    return fail(ErrorCode::bad_file, fmt::format("{}: {}", where, problem));
  };
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!json.is_object() || !json.contains(key)) {
      return bad(fmt::format("expected dtype, shape and data_offsets, found no {}", key));
    }
  }
  if (!json["dtype"].is_string() || !json["shape"].is_array()) {
    return bad("expected a text as dtype and a list as shape");
  }
  SafeTensor tensor;
  tensor.dtype = json["dtype"].get<std::string>();
  // Of a type that cannot be read (parts that are not converted may have one) the size is not known.
  int64_t bytes = element_bytes(tensor.dtype);
  for (const Json& size : json["shape"]) {
    int64_t n = 0;
    if (!size.is_number_unsigned() || __builtin_mul_overflow(size.get<uint64_t>(), 1, &n) ||
        __builtin_mul_overflow(bytes, n, &bytes)) {
      return bad(fmt::format("expected a dimension below 2^63 bytes, found {}", json_brief(size)));
    }
    tensor.shape.push_back(n);
  }
  const Json& offsets = json["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return bad("expected two numbers in data_offsets");
  }
  const auto begin = offsets[0].get<uint64_t>();
  const auto end = offsets[1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return bad(fmt::format("data_offsets {} to {}: expected a range within the {} bytes of data (truncated?)",
                           begin, end, data.size()));
  }
  if (element_bytes(tensor.dtype) != 0 && end - begin != static_cast<uint64_t>(bytes)) {
    return bad(fmt::format("data_offsets {} to {}: expected the {} bytes of its shape, found {}", begin, end,
                           bytes, end - begin));
  }
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

}  // namespace

int64_t SafeTensor::elements() const {
  int64_t n = 1;
  for (int64_t size : shape) {
    n *= size;
  }
  return n;
}

void SafeTensor::read(int64_t first, std::span<float> out) const {
  const auto from = static_cast<size_t>(first);
  if (dtype == "F32") {
    std::memcpy(out.data(), bytes.data() + from * sizeof(float), out.size_bytes());
    return;
  }
  const std::byte* at = bytes.data() + from * sizeof(uint16_t);
  const bool half = dtype == "F16";
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, at + i * sizeof bits, sizeof bits);
    out[i] = half ? f16_to_float(bits) : bf16_to_float(bits);
  }
}

Status Checkpoint::add_file(const fs::path& path) {
  FL_ASSIGN(MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': expected a safetensors file, found {} bytes",
                                                 path.string(), bytes.size()));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const uint64_t most = std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - sizeof header_bytes);
  if (header_bytes == 0 || header_bytes > most) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected a safetensors header of 1 to {} bytes, found a length of {}",
                            path.string(), most, header_bytes));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data() + sizeof header_bytes),
                              header_bytes);
  FL_ASSIGN(const Json header, parse_json(text, fmt::format("'{}': header", path.string())));
  const std::span<const std::byte> data = bytes.subspan(sizeof header_bytes + header_bytes);
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      continue;
    }
    const std::string where = fmt::format("'{}': tensor '{}'", path.string(), name);
    FL_ASSIGN(SafeTensor tensor, parse_tensor(json, data, where));
    tensor.file = path.string();
    const auto [held, added] = tensors_.emplace(name, std::move(tensor));
    if (!added) {
      return fail(ErrorCode::bad_file, fmt::format("{} is also in '{}'", where, held->second.file));
    }
  }
  files_.push_back(std::move(file));
  return {};
}

Result<Checkpoint> Checkpoint::open(const fs::path& dir) {
  Checkpoint checkpoint;
  checkpoint.dir_ = dir;
  const fs::path index = dir / "model.safetensors.index.json";
  std::error_code ignored;  // a name that cannot be looked up is not there
  if (!fs::exists(index, ignored)) {
    FL_TRY(checkpoint.add_file(dir / "model.safetensors"));
    return checkpoint;
  }
  FL_ASSIGN(const Json json, read_json(index));
  if (!json.contains("weight_map") || !json["weight_map"].is_object()) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected an object 'weight_map', found none", index.string()));
  }
  std::map<std::string, std::string> files;  // and one of the tensors that each is named for
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string() || fs::path(file.get<std::string>()).has_parent_path()) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': '{}': expected the name of a file beside it, found {}", index.string(),
                              tensor, json_brief(file)));
    }
    files.emplace(file.get<std::string>(), tensor);
  }
  for (const auto& [file, tensor] : files) {
    if (!fs::exists(dir / file, ignored)) {
      return fail(ErrorCode::not_found, fmt::format("'{}': tensor '{}' is in '{}', which is not there",
                                                    index.string(), tensor, (dir / file).string()));
    }
    FL_TRY(checkpoint.add_file(dir / file));
  }
  return checkpoint;
}

Result<const SafeTensor*> Checkpoint::find(std::string_view name, const std::vector<int64_t>& shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': the tensor '{}' is missing", dir_.string(), name));
  }
  const SafeTensor& tensor = found->second;
  if (tensor.shape != shape) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': tensor '{}': expected shape [{}], found [{}]", tensor.file, name,
                            fmt::join(shape, ", "), fmt::join(tensor.shape, ", ")));
  }
  if (element_bytes(tensor.dtype) == 0) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': tensor '{}': expected F32, F16 or BF16, found {}",
                                                 tensor.file, name, tensor.dtype));
  }
  return &tensor;
}

}  // namespace fl::apps::convert
