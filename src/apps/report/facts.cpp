#include "apps/report/facts.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include <fmt/format.h>
#include <xxhash.h>

#include "apps/bench/measure.h"
#include "apps/models/file_types.h"
#include "gguf/gguf.h"
#include "model/weights.h"

namespace fl::apps::report {
namespace {

constexpr size_t kReadBytes = size_t{1} << 20;
constexpr int64_t kFloatBytes = 4;
constexpr int64_t kHalfBytes = 2;

}  // namespace

Result<std::string> file_hash(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) {
    return fail(ErrorCode::not_found, fmt::format("cannot open '{}': {}", path, std::strerror(errno)));
  }
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  XXH3_128bits_reset(state.get());
  std::vector<char> buffer(kReadBytes);
  for (size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), file.get())) > 0;) {
    XXH3_128bits_update(state.get(), buffer.data(), n);
  }
  if (std::ferror(file.get()) != 0) {
    return fail(ErrorCode::io, fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return fmt::format("xxh3-128:{:016x}{:016x}", hash.high64, hash.low64);
}

Result<fl::report::Model> file_facts(const std::string& path) {
  fl::report::Model out;
  out.path = path;
  out.name = std::filesystem::path(path).filename().string();
  FL_ASSIGN(out.hash, file_hash(path));
  std::error_code error;
  out.file_bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
  return out;
}

Result<fl::report::Model> model_facts(const std::string& path) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(path));
  FL_ASSIGN(const model::Weights weights, model::Weights::bind(file));
  FL_ASSIGN(fl::report::Model out, file_facts(path));
  const model::Config& config = weights.config;
  out.architecture = std::string(file.get_string_or("general.architecture", "").value_or(""));
  out.quantisation = file_type_name(file.get_int_or("general.file_type", -1).value_or(-1));
  out.random_weights = file.get_string_or("general.description", "").value_or("").find("random weights") !=
                       std::string_view::npos;
  int64_t n_params = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    n_params += tensor.view.cols() * tensor.view.rows();
  }
  out.n_params = n_params;
  out.ctx_train = config.n_ctx_train;
  bench::Test nobody;
  nobody.n_parallel = 0;
  out.weight_bytes_per_step = static_cast<int64_t>(bench::step_bytes(weights, nobody));
  out.ops_per_token = static_cast<int64_t>(bench::prompt_token_ops(weights)) +
                      2 * int64_t{weights.output.cols()} * weights.output.rows();
  out.kv_bytes_per_token = int64_t{2} * config.n_full_layers() * config.kv_width() * kHalfBytes;
  out.state_bytes_per_chat =
      config.n_delta_layers() * (config.state_floats() + config.conv_floats()) * kFloatBytes;
  return out;
}

}  // namespace fl::apps::report
