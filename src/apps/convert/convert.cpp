// `freelunch convert`: a Hugging Face checkpoint of the family to GGUF.
#include <algorithm>
#include <filesystem>
#include <map>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/convert/hf_config.h"
#include "apps/convert/safetensors.h"
#include "apps/convert/tensors.h"
#include "apps/convert/vocabulary.h"
#include "apps/progress.h"
#include "core/quants.h"

namespace fl::apps {
namespace {

namespace fs = std::filesystem;
using namespace convert;

constexpr const char* kExamples = R"(
Examples:
  freelunch convert Qwen3.5-0.8B model-bf16.gguf --type bf16
  freelunch convert checkpoint model-q8_0.gguf --type q8_0
  freelunch convert checkpoint f32.gguf --type f32 && freelunch quantize f32.gguf model.gguf Q4_K_M)";

// Labels of general.file_type (ggml-org/llama.cpp, include/llama.h, llama_ftype).
struct Target {
  DType type;
  uint32_t file_type;
};
const std::map<std::string, Target> kTargets{{"f32", {DType::f32, 0}},
                                             {"f16", {DType::f16, 1}},
                                             {"bf16", {DType::bf16, 32}},
                                             {"q8_0", {DType::q8_0, 7}}};

DType stored_type(const Mapping& mapping, DType wanted) {
  if (mapping.keep_f32) {
    return DType::f32;
  }
  // A row that does not hold whole blocks keeps 16 bits.
  return mapping.ne[0] % dtype_info(wanted).block_elems == 0 ? wanted : DType::f16;
}

Status run(const fs::path& dir, const fs::path& out, const std::string& type, std::string name, bool quiet) {
  const Target target = kTargets.at(type);
  FL_ASSIGN(const HfConfig config, read_config(dir));
  FL_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(dir));
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(out));
  if (name.empty()) {
    name = fs::absolute(dir).lexically_normal().filename().string();
  }
  set_metadata(config, name, writer);
  writer.set("general.file_type", target.file_type);
  FL_TRY(set_vocabulary(dir, config.n_vocab, writer));
  const std::vector<Mapping> mappings = make_mappings(config);
  uint64_t total = 0;
  for (const Mapping& mapping : mappings) {
    writer.declare(mapping.gguf, stored_type(mapping, target.type), mapping.ne);
    total += static_cast<uint64_t>(mapping.ne[0] * (mapping.ne.size() > 1 ? mapping.ne[1] : 1));
  }
  FL_TRY(writer.begin_data());
  Progress progress("convert", total, quiet);
  std::vector<std::byte> row;
  for (const Mapping& mapping : mappings) {
    FL_ASSIGN(const std::vector<float> values, read_transformed(checkpoint, config, mapping));
    const DType stored = stored_type(mapping, target.type);
    const auto cols = static_cast<size_t>(mapping.ne[0]);
    row.resize(row_bytes(stored, cols));
    for (size_t at = 0; at < values.size(); at += cols) {
      quantize_row(stored, std::span(values).subspan(at, cols), {}, row.data());
      FL_TRY(writer.write(row));
    }
    progress.add(values.size());
  }
  return writer.finish();
}

}  // namespace

int run_convert(int argc, char** argv) {
  std::string dir;
  std::string out;
  std::string type = "bf16";
  std::string name;
  bool quiet = false;
  CLI::App app{"Converts a Hugging Face checkpoint (safetensors) of the Qwen3.5 family to GGUF",
               "freelunch convert"};
  app.footer(kExamples);
  app.add_option("DIR", dir, "Folder with config.json, tokenizer.json and model*.safetensors")->required();
  app.add_option("OUT", out, "GGUF file to write; appears when complete")->required();
  app.add_option("--type", type, "Type of the matrices")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}))
      ->capture_default_str();
  app.add_option("--name", name, "general.name (default: the folder's name)");
  app.add_flag("-q,--quiet", quiet, "No progress");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  try {
    if (const Status status = run(dir, out, type, name, quiet); !status) {
      return report_error("convert", status.error());
    }
  } catch (const std::exception& error) {
    return report_error("convert", {ErrorCode::bad_file, error.what()});
  }
  return kOk;
}

}  // namespace fl::apps
