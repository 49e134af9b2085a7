// `freelunch synth`: a model of a published size with random weights in a published mix of types, for speed
// and memory work.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <future>
#include <map>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/models/encode.h"
#include "apps/models/published.h"
#include "apps/models/random_blocks.h"
#include "apps/models/synth.h"
#include "apps/models/synth_vocabulary.h"
#include "apps/progress.h"

namespace fl::apps {
namespace {

using convert::HfConfig;
using convert::Mapping;

constexpr const char* kExamples = R"(
Examples:
  freelunch synth big.gguf --size 27B               16.5 GB in the Q4_K_M mix
  freelunch synth --dry-run --size 9B --json        types and sizes only
  freelunch synth small.gguf --size 0.8B --mtp
  freelunch synth tiny.gguf --size tiny --type F32 --seed 7
  freelunch synth a.gguf --size 4B --vocab vocabulary.gguf)";

constexpr size_t kPieceBytes = size_t{32} << 20;

struct Spread {
  float mean = 0;
  float deviation = 0;
};

// Weights that keep activations near one at any depth: 1/sqrt(inputs), less for what is added to the residual
// stream.
Spread spread_of(const Mapping& mapping, const HfConfig& config) {
  const std::string& name = mapping.gguf;
  const auto ends = [&](const char* text) { return name.ends_with(text); };
  if (ends("norm.weight")) {
    return {1.0F, 0.1F};
  }
  if (ends("ssm_a")) {
    return {-4.0F, 1.0F};
  }
  if (ends("ssm_dt.bias")) {
    return {-4.0F, 1.0F};
  }
  if (ends("ssm_conv1d.weight")) {
    return {0, 0.5F};
  }
  float deviation = 1.0F / std::sqrt(static_cast<float>(mapping.ne[0]));
  if (ends("ffn_down.weight") || ends("attn_output.weight") || ends("ssm_out.weight")) {
    deviation /= std::sqrt(2.0F * static_cast<float>(config.n_layers));
  }
  return {0, deviation};
}

// One piece of a tensor, made by all threads.
std::vector<std::byte> make_piece(DType type, Spread spread, uint64_t seed, size_t bytes,
                                  unsigned n_threads) {
  std::vector<std::byte> piece(bytes);
  const size_t block = dtype_info(type).block_bytes;
  const size_t n_blocks = bytes / block;
  constexpr size_t kStripeBlocks =
      8192;  // seeds belong to stripes, so that the number of threads does not matter
  const size_t n_stripes = (n_blocks + kStripeBlocks - 1) / kStripeBlocks;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < n_threads; ++t) {
    threads.emplace_back([&, t] {
      for (size_t stripe = t; stripe < n_stripes; stripe += n_threads) {
        const size_t first = stripe * kStripeBlocks;
        const size_t count = std::min(kStripeBlocks, n_blocks - first);
        random_blocks(type, spread.deviation, seed + stripe,
                      std::span(piece).subspan(first * block, count * block));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (spread.mean != 0) {
    auto* values = reinterpret_cast<float*>(piece.data());
    for (size_t i = 0; i < bytes / sizeof(float); ++i) {
      values[i] += spread.mean;
      if (spread.mean < 0) {
        values[i] = std::min(values[i], -0.1F);
      }
    }
  }
  return piece;
}

Status write_tensor(gguf::Writer& writer, DType type, Spread spread, uint64_t bytes, uint64_t seed,
                    unsigned n_threads, Progress& progress) {
  const uint64_t block = dtype_info(type).block_bytes;
  const uint64_t piece = kPieceBytes / block * block;
  constexpr uint64_t kSeedsPerPiece = 1 << 20;
  const auto make = [=](uint64_t at) {
    return std::async(std::launch::async, make_piece, type, spread, seed + at / piece * kSeedsPerPiece,
                      std::min(piece, bytes - at), n_threads);
  };
  std::future<std::vector<std::byte>> next = make(0);
  for (uint64_t at = 0; at < bytes; at += piece) {
    const std::vector<std::byte> ready = next.get();
    if (at + piece < bytes) {
      next = make(at + piece);
    }
    FL_TRY(writer.write(ready));
    progress.add(ready.size());
  }
  return {};
}

struct Options {
  std::string out;
  std::string size = "tiny";
  std::string type = "Q4_K_M";
  std::string vocab;
  bool mtp = false;
  bool dry_run = false;
  bool json = false;
  bool quiet = false;
  uint64_t seed = 1;
};

// What would be written, by type.
void print_plan(const Options& options, const std::vector<PlannedTensor>& tensors) {
  struct Sum {
    uint64_t tensors = 0, elements = 0, bytes = 0;
    void add(const PlannedTensor& tensor) {
      ++tensors;
      elements += tensor.elements();
      bytes += tensor.bytes;
    }
  };
  Sum all;
  std::map<std::string, Sum> by_type;
  for (const PlannedTensor& tensor : tensors) {
    all.add(tensor);
    by_type[std::string(dtype_info(tensor.type).name)].add(tensor);
  }
  if (options.json) {
    nlohmann::ordered_json out{{"size", options.size},      {"recipe", options.type},
                               {"n_tensors", all.tensors},  {"n_params", all.elements},
                               {"tensor_bytes", all.bytes}, {"types", nlohmann::ordered_json::object()}};
    for (const auto& [name, sum] : by_type) {
      out["types"][name] = {
          {"n_tensors", sum.tensors}, {"n_params", sum.elements}, {"tensor_bytes", sum.bytes}};
    }
    fmt::print("{}\n", out.dump(2));
    return;
  }
  const auto line = [](std::string_view name, const Sum& sum) {
    fmt::print("{:<8} {:>8} {:>16} {:>16}\n", name, sum.tensors, sum.elements, sum.bytes);
  };
  fmt::print("{:<8} {:>8} {:>16} {:>16}\n", "type", "tensors", "parameters", "bytes");
  for (const auto& [name, sum] : by_type) {
    line(name, sum);
  }
  line("total", all);
}

Result<Recipe> recipe_of(const std::string& type) {
  if (std::optional<Recipe> recipe = find_recipe(type)) {
    return *std::move(recipe);
  }
  return fail(ErrorCode::invalid_argument,
              fmt::format("--type: expected one of {}, found '{}'", fmt::join(recipe_names(), ", "), type));
}

// Everything of the file but its data.
Status declare_model(const Options& options, const HfConfig& config, const Recipe& recipe,
                     const gguf::File* vocab, const std::vector<PlannedTensor>& tensors,
                     gguf::Writer& writer) {
  set_metadata(config, fmt::format("synthetic {}", options.size), writer);
  writer.set("general.size_label", options.size);
  writer.set("general.description",
             fmt::format("random weights, seed {}: for speed and memory work only", options.seed));
  writer.set("general.file_type", recipe.file_type);
  if (vocab != nullptr) {
    FL_TRY(copy_vocabulary(*vocab, config.n_vocab, writer));
  } else {
    set_own_vocabulary(config.n_vocab, writer);
  }
  for (const PlannedTensor& tensor : tensors) {
    writer.declare(tensor.mapping.gguf, tensor.type, tensor.mapping.ne);
  }
  return {};
}

Status run(const Options& options) {
  FL_ASSIGN(const Recipe recipe, recipe_of(options.type));
  HfConfig config = published_config(options.size, options.mtp);
  std::optional<gguf::File> vocab;
  if (!options.vocab.empty()) {
    FL_ASSIGN(vocab, gguf::File::open(options.vocab));
    // The published sizes have one width; the tiny model takes any vocabulary.
    if (options.size == "tiny") {
      FL_ASSIGN(const auto tokens, vocab->get_strings("tokenizer.ggml.tokens"));
      config.n_vocab = std::max(config.n_vocab, static_cast<int64_t>(tokens.size()));
    }
  }
  const std::vector<PlannedTensor> tensors = plan_tensors(config, recipe);
  if (options.dry_run) {
    print_plan(options, tensors);
    return {};
  }
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(options.out));
  FL_TRY(declare_model(options, config, recipe, vocab ? &*vocab : nullptr, tensors, writer));
  FL_TRY(writer.begin_data());
  uint64_t total = 0;
  for (const PlannedTensor& tensor : tensors) {
    total += tensor.bytes;
  }
  Progress progress("synth", total, options.quiet);
  const unsigned n_threads = threads_of(0);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t seed = (options.seed << 40) ^ (i << 24);
    FL_TRY(write_tensor(writer, tensors[i].type, spread_of(tensors[i].mapping, config), tensors[i].bytes,
                        seed, n_threads, progress));
  }
  return writer.finish();
}

}  // namespace

Result<gguf::File> hollow_model(const std::string& size, const std::string& type) {
  FL_ASSIGN(const Recipe recipe, recipe_of(type));
  const std::vector<std::string> sizes = published_sizes();
  if (std::ranges::find(sizes, size) == sizes.end()) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("--size: expected one of {}, found '{}'", fmt::join(sizes, ", "), size));
  }
  Options options;
  options.size = size;
  std::error_code error;
  const std::filesystem::path path =
      std::filesystem::temp_directory_path(error) / fmt::format("freelunch-plan-{}.gguf", ::getpid());
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(path));
  const HfConfig config = published_config(size, false);
  FL_TRY(declare_model(options, config, recipe, nullptr, plan_tensors(config, recipe), writer));
  FL_TRY(writer.finish_hollow());
  auto file = gguf::File::open(path);
  std::filesystem::remove(path, error);  // the mapping keeps it
  return file;
}

int run_synth(int argc, char** argv) {
  Options options;
  CLI::App app{"Writes a model of a published size with random weights", "freelunch synth"};
  app.footer(kExamples);
  auto* out = app.add_option("OUT", options.out,
                             "GGUF file to write; appears when complete, in the place of an older one");
  app.add_option("--size", options.size, "Published size, or tiny")
      ->check(CLI::IsMember(published_sizes()))
      ->capture_default_str();
  app.add_option("--type", options.type, "Mix or type of the matrices")->capture_default_str();
  app.add_option("--vocab", options.vocab,
                 "Take the tokenizer from this GGUF file (default: a byte-level one of our own)");
  app.add_flag("--mtp", options.mtp, "With the multi-token-prediction block");
  app.add_option("--seed", options.seed, "Of the weights")
      ->check(CLI::Range(0U, 1U << 20))
      ->capture_default_str();
  auto* dry_run =
      app.add_flag("--dry-run", options.dry_run, "Write nothing; print the tensors' types and sizes");
  app.add_flag("--json", options.json, "The same as JSON")->needs(dry_run);
  app.add_flag("-q,--quiet", options.quiet, "No progress");
  try {
    app.parse(argc, argv);
    if (out->empty() && !options.dry_run) {
      throw CLI::RequiredError("OUT");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  const Status status = run(options);
  return status ? kOk : report_error("synth", status.error());
}

}  // namespace fl::apps
