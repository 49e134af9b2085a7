// `freelunch quantize`: a GGUF file in another type or mix.
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/models/encode.h"
#include "apps/models/recipe.h"
#include "apps/progress.h"
#include "core/quants.h"
#include "gguf/gguf.h"

namespace fl::apps {
namespace {

constexpr const char* kExamples = R"(
Examples:
  freelunch quantize model-bf16.gguf model-q4_k_m.gguf Q4_K_M
  freelunch quantize model-bf16.gguf model-iq4_xs.gguf IQ4_XS --threads 4
  freelunch quantize q8.gguf q4.gguf Q4_K --allow-requantize    loses twice: start from f32 or bf16 if you can)";

struct Options {
  std::string in;
  std::string out;
  std::string type;
  bool requantize = false;
  bool quiet = false;
  int n_threads = 0;
};

bool is_float(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16;
}

std::vector<int64_t> dims_of(const TensorView& view) {
  std::vector<int64_t> ne(view.ne.begin(), view.ne.end());
  while (ne.size() > 1 && ne.back() == 1) {
    ne.pop_back();
  }
  return ne;
}

Status run(const Options& options) {
  const std::optional<Recipe> recipe = find_recipe(options.type);
  if (!recipe) {
    return fail(ErrorCode::invalid_argument, fmt::format("TYPE: expected one of {}, found '{}'",
                                                         fmt::join(recipe_names(), ", "), options.type));
  }
  FL_ASSIGN(const gguf::File file, gguf::File::open(options.in));
  FL_ASSIGN(const std::string_view architecture, file.get_string("general.architecture"));
  if (architecture != "qwen35") {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': expected the architecture qwen35, found '{}'", options.in, architecture));
  }
  FL_ASSIGN(const int64_t n_blocks, file.get_int("qwen35.block_count"));
  if (n_blocks < 1 || n_blocks > kMaxBlocks) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': qwen35.block_count: expected 1 to {}, found {}",
                                                 options.in, kMaxBlocks, n_blocks));
  }
  std::error_code ignored;
  if (std::filesystem::equivalent(options.in, options.out, ignored)) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("OUT: '{}' is the file to read; give the result another name", options.out));
  }
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(options.out));
  for (const gguf::File::Entry& entry : file.entries()) {
    if (!entry.key.starts_with("split.")) {
      FL_ASSIGN(gguf::Value value, file.value(entry.key));
      writer.set(std::string(entry.key), std::move(value));
    }
  }
  writer.set("general.file_type", recipe->file_type);
  writer.set("general.quantization_version", uint32_t{2});
  const bool tied = file.find("output.weight") == nullptr;
  std::vector<DType> types;
  uint64_t total = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    const std::vector<int64_t> ne = dims_of(tensor.view);
    const bool is_output = tensor.name == (tied ? "token_embd.weight" : "output.weight");
    const DType type = type_of(*recipe, tensor.name, ne, n_blocks, is_output);
    if (!is_float(tensor.view.type) && type != tensor.view.type && !options.requantize) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("'{}': tensor '{}' is {} already; --allow-requantize goes on all the same",
                              options.in, tensor.name, dtype_info(tensor.view.type).name));
    }
    types.push_back(type);
    total += static_cast<uint64_t>(tensor.view.cols() * tensor.view.rows());
    writer.declare(tensor.name, type, ne);
  }
  FL_TRY(writer.begin_data());
  Progress progress("quantize", total, options.quiet);
  const unsigned n_threads = threads_of(options.n_threads);
  for (size_t i = 0; i < types.size(); ++i) {
    const TensorView& view = file.tensors()[i].view;
    if (types[i] == view.type) {
      FL_TRY(writer.write({view.data, view.bytes()}));
      progress.add(static_cast<uint64_t>(view.cols() * view.rows()));
      continue;
    }
    const auto read = [&](int64_t first, std::span<float> out) {
      dequantize_row(view.type, view.row(first), out);
    };
    FL_TRY(write_rows(writer, types[i], view.rows(), view.cols(), n_threads, read, progress));
  }
  return writer.finish();
}

}  // namespace

int run_quantize(int argc, char** argv) {
  Options options;
  CLI::App app{"Writes a GGUF file in another type or mix", "freelunch quantize"};
  app.footer(kExamples);
  app.add_option("IN", options.in, "GGUF file, best in f32, bf16 or f16")->required();
  app.add_option("OUT", options.out,
                 "GGUF file to write; appears when complete, in the place of an older one")
      ->required();
  app.add_option("TYPE", options.type, fmt::format("{}", fmt::join(recipe_names(), ", ")))->required();
  app.add_flag("--allow-requantize", options.requantize, "Take tensors that are quantised already");
  app.add_option("-t,--threads", options.n_threads, "0: one per core")->check(CLI::Range(0, 1024));
  app.add_flag("-q,--quiet", options.quiet, "No progress");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  const Status status = run(options);
  return status ? kOk : report_error("quantize", status.error());
}

}  // namespace fl::apps
