#include "apps/convert/safetensors.h"

#include <cstring>
#include <set>

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

Result<SafeTensor> parse_tensor(const Json& json, std::span<const std::byte> data, const std::string& where) {
  const auto bad = [&](const char* problem) {
    return fail(ErrorCode::bad_file, fmt::format("{}: {}", where, problem));
  };
  SafeTensor tensor;
  if (!json.is_object() || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets")) {
    return bad("expected dtype, shape and data_offsets");
  }
  const Json& type = json["dtype"];
  if (type == "F32") {
    tensor.type = SafeTensor::Type::f32;
  } else if (type == "F16") {
    tensor.type = SafeTensor::Type::f16;
  } else if (type == "BF16") {
    tensor.type = SafeTensor::Type::bf16;
  } else {
    return fail(ErrorCode::bad_file,
                fmt::format("{}: expected F32, F16 or BF16, found {}", where, type.dump()));
  }
  int64_t bytes = tensor.type == SafeTensor::Type::f32 ? 4 : 2;
  if (!json["shape"].is_array()) {
    return bad("the shape is not a list");
  }
  for (const Json& size : json["shape"]) {
    if (!size.is_number_integer() || size.get<int64_t>() <= 0 ||
        __builtin_mul_overflow(bytes, size.get<int64_t>(), &bytes)) {
      return bad("a dimension is not a positive number");
    }
    tensor.shape.push_back(size.get<int64_t>());
  }
  const Json& offsets = json["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return bad("data_offsets is not a pair of numbers");
  }
  const auto begin = offsets[0].get<uint64_t>();
  const auto end = offsets[1].get<uint64_t>();
  if (begin > end || end > data.size() || end - begin != static_cast<uint64_t>(bytes)) {
    return fail(ErrorCode::bad_file,
                fmt::format("{}: bytes {} to {} do not hold the {} bytes of its shape in data of {}", where,
                            begin, end, bytes, data.size()));
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

Status Checkpoint::add_file(const fs::path& path) {
  FL_ASSIGN(MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() >= sizeof header_bytes) {
    std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  }
  if (header_bytes == 0 || header_bytes > kMaxHeaderBytes ||
      header_bytes > bytes.size() - sizeof header_bytes) {
    return fail(ErrorCode::bad_file, fmt::format("'{}' is not a safetensors file: a header of {} bytes in {}",
                                                 path.string(), header_bytes, bytes.size()));
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data() + sizeof header_bytes);
  const Json header = Json::parse(text, text + header_bytes, nullptr, false);
  if (!header.is_object()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': the header is not a JSON object", path.string()));
  }
  const std::span<const std::byte> data = bytes.subspan(sizeof header_bytes + header_bytes);
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      continue;
    }
    const std::string where = fmt::format("'{}': tensor '{}'", path.string(), name);
    FL_ASSIGN(SafeTensor tensor, parse_tensor(json, data, where));
    if (!tensors_.emplace(name, std::move(tensor)).second) {
      return fail(ErrorCode::bad_file, where + " is in two files");
    }
  }
  files_.push_back(std::move(file));
  return {};
}

Result<Checkpoint> Checkpoint::open(const fs::path& dir) {
  Checkpoint checkpoint;
  checkpoint.dir_ = dir;
  const fs::path index = dir / "model.safetensors.index.json";
  if (!fs::exists(index)) {
    FL_TRY(checkpoint.add_file(dir / "model.safetensors"));
    return checkpoint;
  }
  FL_ASSIGN(const Json json, read_json(index));
  if (!json.contains("weight_map") || !json["weight_map"].is_object()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': no weight_map", index.string()));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string() || fs::path(file.get<std::string>()).has_parent_path()) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': the file of '{}' is not a plain name", index.string(), tensor));
    }
    names.insert(file.get<std::string>());
  }
  for (const std::string& name : names) {
    FL_TRY(checkpoint.add_file(dir / name));
  }
  return checkpoint;
}

Result<std::vector<float>> Checkpoint::read(std::string_view name, const std::vector<int64_t>& shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': the tensor '{}' is missing", dir_.string(), name));
  }
  const SafeTensor& tensor = found->second;
  if (tensor.shape != shape) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': tensor '{}': expected shape [{}], found [{}]", dir_.string(), name,
                            fmt::join(shape, ", "), fmt::join(tensor.shape, ", ")));
  }
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  if (tensor.type == SafeTensor::Type::f32) {
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, tensor.bytes.data() + 2 * i, 2);
    values[i] = tensor.type == SafeTensor::Type::f16 ? f16_to_float(bits) : bf16_to_float(bits);
  }
  return values;
}

}  // namespace fl::apps::convert
