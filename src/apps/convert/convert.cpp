// `freelunch convert`: a Hugging Face checkpoint of the family to GGUF.
#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/convert/hf_config.h"
#include "apps/convert/safetensors.h"
#include "apps/convert/tensors.h"
#include "apps/convert/vocabulary.h"
#include "apps/models/encode.h"
#include "apps/models/published.h"
#include "apps/models/recipe.h"
#include "apps/progress.h"

namespace fl::apps {
namespace {

namespace fs = std::filesystem;
using namespace convert;

constexpr const char* kExamples = R"(
Examples:
  freelunch convert Qwen3.5-0.8B model-bf16.gguf --type bf16
  freelunch convert checkpoint model-q8_0.gguf --type q8_0
  freelunch convert checkpoint f32.gguf --type f32 && freelunch quantize f32.gguf model.gguf Q4_K_M)";

// What the checkpoint has decides where its configuration leaves it open.
void fit_to_tensors(const Checkpoint& checkpoint, HfConfig& config) {
  const auto has_trunk = [&](const char* prefix) {
    return checkpoint.has(std::string(prefix) + "embed_tokens.weight");
  };
  if (const auto* found = std::ranges::find_if(kPrefixes, has_trunk); found != std::end(kPrefixes)) {
    config.prefix = *found;
  }
  // Checkpoints that were saved again by transformers have lost the block, not the number.
  if (config.n_mtp_layers > 0 && !checkpoint.has("mtp.fc.weight")) {
    fmt::print(stderr,
               "freelunch convert: no 'mtp.' tensors: the file will have no multi-token-prediction block\n");
    config.n_mtp_layers = 0;
  }
}

struct Options {
  std::string dir;
  std::string out;
  std::string type = "bf16";
  std::string name;
  int n_threads = 0;
  bool quiet = false;
};

Status run(const Options& options) {
  const fs::path dir = options.dir;
  const Recipe recipe = find_recipe(options.type).value();
  FL_ASSIGN(HfConfig config, read_config(dir));
  FL_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(dir));
  fit_to_tensors(checkpoint, config);
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(options.out));
  set_metadata(config,
               options.name.empty()
                   ? fs::absolute(dir / "").lexically_normal().parent_path().filename().string()
                   : options.name,
               writer);
  writer.set("general.file_type", recipe.file_type);
  FL_TRY(set_vocabulary(dir, config.n_vocab, writer));
  const std::vector<PlannedTensor> tensors = plan_tensors(config, recipe);
  std::vector<const SafeTensor*> sources;
  uint64_t total = 0;
  for (const PlannedTensor& tensor : tensors) {
    FL_ASSIGN(const SafeTensor* const source, checkpoint.find(tensor.mapping.hf, tensor.mapping.hf_shape));
    sources.push_back(source);
    writer.declare(tensor.mapping.gguf, tensor.type, tensor.mapping.ne);
    total += tensor.elements();
  }
  FL_TRY(writer.begin_data());
  Progress progress("convert", total, options.quiet);
  const unsigned n_threads = threads_of(options.n_threads);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Mapping& mapping = tensors[i].mapping;
    const int64_t cols = mapping.ne[0];
    const auto read = [&](int64_t first, std::span<float> out) {
      read_rows(*sources[i], config, mapping, first, out);
    };
    FL_TRY(
        write_rows(writer, tensors[i].type, sources[i]->elements() / cols, cols, n_threads, read, progress));
  }
  return writer.finish();
}

}  // namespace

int run_convert(int argc, char** argv) {
  Options options;
  CLI::App app{"Converts a Hugging Face checkpoint (safetensors) of the Qwen3.5 family to GGUF",
               "freelunch convert"};
  app.footer(kExamples);
  app.add_option("DIR", options.dir, "Folder with config.json, tokenizer.json and model*.safetensors")
      ->required();
  app.add_option("OUT", options.out,
                 "GGUF file to write; appears when complete, in the place of an older one")
      ->required();
  app.add_option("--type", options.type, "Type of the matrices")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}, CLI::ignore_case))
      ->capture_default_str();
  app.add_option("--name", options.name, "general.name (default: the folder's name)");
  app.add_option("-t,--threads", options.n_threads, "0: one per core")->check(CLI::Range(0, 1024));
  app.add_flag("-q,--quiet", options.quiet, "No progress");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  const Status status = run(options);
  return status ? kOk : report_error("convert", status.error());
}

}  // namespace fl::apps
