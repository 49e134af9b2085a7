// `freelunch synth`: a model of a published size with random weights in a published mix of types, for speed
// and memory work.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <future>
#include <map>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/convert/hf_config.h"
#include "apps/convert/tensors.h"
#include "apps/models/random_blocks.h"
#include "apps/models/recipe.h"
#include "apps/models/synth.h"
#include "apps/progress.h"

namespace fl::apps {
namespace {

using convert::HfConfig;
using convert::Mapping;

constexpr const char* kExamples = R"(
Examples:
  freelunch synth big.gguf --size 27B               16.5 GB in the Q4_K_M mix
  freelunch synth small.gguf --size 0.8B --mtp
  freelunch synth tiny.gguf --size tiny --type F32 --seed 7
  freelunch synth a.gguf --size 4B --vocab vocabulary.gguf)";

struct Size {
  int64_t n_embd, n_layers, n_ff, n_heads, n_kv_heads, n_value_heads;
  bool tied;
};

// The published dense sizes (the models' config.json files).
const std::map<std::string, Size> kSizes{
    {"0.8B", {1024, 24, 3584, 8, 2, 16, true}},   {"2B", {2048, 24, 6144, 8, 2, 16, true}},
    {"4B", {2560, 32, 9216, 16, 4, 32, true}},    {"9B", {4096, 32, 12288, 16, 4, 32, false}},
    {"27B", {5120, 64, 17408, 24, 4, 48, false}}, {"tiny", {256, 8, 768, 4, 2, 4, false}}};
constexpr int64_t kInterval = 4;
constexpr int64_t kPublishedVocab = 248320;
constexpr int64_t kTinyVocab = 4096;
constexpr size_t kPieceBytes = size_t{32} << 20;

HfConfig make_config(const std::string& name, bool mtp) {
  const Size& size = kSizes.at(name);
  const bool tiny = name == "tiny";
  HfConfig config;
  config.prefix = "model.";
  config.n_vocab = tiny ? kTinyVocab : kPublishedVocab;
  config.n_embd = size.n_embd;
  config.n_ff = size.n_ff;
  config.n_layers = size.n_layers;
  config.n_mtp_layers = mtp ? 1 : 0;
  config.n_ctx_train = 262144;
  config.n_heads = size.n_heads;
  config.n_kv_heads = size.n_kv_heads;
  config.head_dim = tiny ? 64 : 256;
  config.n_key_heads = tiny ? 2 : 16;
  config.n_value_heads = size.n_value_heads;
  config.key_dim = config.value_dim = tiny ? 64 : 128;
  config.conv_kernel = 4;
  config.rope_dims = config.head_dim / 4;
  config.rope_base = 1e7;
  config.rms_eps = 1e-6;
  config.rope_sections = tiny ? std::array<int32_t, 4>{3, 3, 2, 0} : std::array<int32_t, 4>{11, 11, 10, 0};
  config.tied_embeddings = size.tied;
  for (int64_t i = 0; i < config.n_layers; ++i) {
    config.is_recurrent.push_back((i + 1) % kInterval != 0);
  }
  return config;
}

std::string utf8(int code) {
  if (code < 128) {
    return {static_cast<char>(code)};
  }
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

// A vocabulary that any text can be written in: all bytes, all pairs of small letters, the family's special
// tokens at the end.
void set_own_vocabulary(int64_t n_vocab, gguf::Writer& writer) {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<std::string> merges;
  const auto add = [&](std::string text, int32_t type) {
    tokens.push_back(std::move(text));
    types.push_back(type);
  };
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    add(utf8(printable ? b : next++), 1);
  }
  for (char a = 'a'; a <= 'z'; ++a) {
    for (char b = 'a'; b <= 'z'; ++b) {
      add({a, b}, 1);
      merges.push_back({a, ' ', b});
    }
  }
  const std::vector<std::pair<std::string, int32_t>> special{
      {"<|endoftext|>", 3},  {"<|im_start|>", 3},    {"<|im_end|>", 3},       {"<|vision_start|>", 3},
      {"<|vision_end|>", 3}, {"<|image_pad|>", 3},   {"<|video_pad|>", 3},    {"<tool_call>", 4},
      {"</tool_call>", 4},   {"<tool_response>", 4}, {"</tool_response>", 4}, {"<think>", 4},
      {"</think>", 4}};
  while (static_cast<int64_t>(tokens.size() + special.size()) < n_vocab) {
    add(fmt::format("[PAD{}]", tokens.size()), 5);
  }
  const auto eos = static_cast<uint32_t>(tokens.size() + 2);
  for (const auto& [text, type] : special) {
    add(text, type);
  }
  writer.set("tokenizer.ggml.model", std::string("gpt2"));
  writer.set("tokenizer.ggml.pre", std::string("qwen35"));
  writer.set("tokenizer.ggml.tokens", std::move(tokens));
  writer.set("tokenizer.ggml.token_type", std::move(types));
  writer.set("tokenizer.ggml.merges", std::move(merges));
  writer.set("tokenizer.ggml.eos_token_id", eos);
  writer.set("tokenizer.ggml.add_bos_token", false);
}

// Copies all tokenizer keys of a file; ids up to n_vocab are filled.
Status set_vocabulary_of(const std::string& path, int64_t n_vocab, gguf::Writer& writer) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(path));
  for (const gguf::File::Entry& entry : file.entries()) {
    if (!entry.key.starts_with("tokenizer.")) {
      continue;
    }
    FL_ASSIGN(gguf::Value value, file.value(entry.key));
    if (entry.key == "tokenizer.ggml.tokens" || entry.key == "tokenizer.ggml.token_type") {
      if (static_cast<int64_t>(entry.count) > n_vocab) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("'{}' has {} tokens, the model {}", path, entry.count, n_vocab));
      }
    }
    if (entry.key == "tokenizer.ggml.tokens" &&
        std::holds_alternative<std::vector<std::string>>(value.storage())) {
      auto tokens = std::get<std::vector<std::string>>(value.storage());
      while (static_cast<int64_t>(tokens.size()) < n_vocab) {
        tokens.push_back(fmt::format("[PAD{}]", tokens.size()));
      }
      value = gguf::Value(std::move(tokens));
    }
    if (entry.key == "tokenizer.ggml.token_type" &&
        std::holds_alternative<std::vector<int32_t>>(value.storage())) {
      auto types = std::get<std::vector<int32_t>>(value.storage());
      types.resize(static_cast<size_t>(n_vocab), 5);
      value = gguf::Value(std::move(types));
    }
    writer.set(std::string(entry.key), std::move(value));
  }
  return {};
}

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
  bool quiet = false;
  uint64_t seed = 1;
};

struct Declared {
  std::vector<Mapping> mappings;
  std::vector<DType> types;
  std::vector<uint64_t> sizes;
  uint64_t total = 0;
};

Result<Declared> declare_model(const HfConfig& config, const Options& options, const Recipe& recipe,
                               gguf::Writer& writer) {
  set_metadata(config, fmt::format("synthetic {}", options.size), writer);
  writer.set("general.size_label", options.size);
  writer.set("general.description",
             fmt::format("random weights, seed {}: for speed and memory work only", options.seed));
  writer.set("general.file_type", recipe.file_type);
  if (options.vocab.empty()) {
    set_own_vocabulary(config.n_vocab, writer);
  } else {
    FL_TRY(set_vocabulary_of(options.vocab, config.n_vocab, writer));
  }
  Declared out;
  out.mappings = make_mappings(config);
  for (const Mapping& mapping : out.mappings) {
    out.types.push_back(
        type_of(recipe, mapping.gguf, mapping.ne, config.n_layers + config.n_mtp_layers, mapping.is_output));
    out.sizes.push_back(row_bytes(out.types.back(), static_cast<uint64_t>(mapping.ne[0])) *
                        static_cast<uint64_t>(mapping.ne.size() > 1 ? mapping.ne[1] : 1));
    writer.declare(mapping.gguf, out.types.back(), mapping.ne);
    out.total += out.sizes.back();
  }
  return out;
}

Status run(const Options& options) {
  const std::optional<Recipe> recipe = find_recipe(options.type);
  if (!recipe) {
    return fail(ErrorCode::invalid_argument, fmt::format("--type: expected one of {}, found '{}'",
                                                         fmt::join(recipe_names(), ", "), options.type));
  }
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(options.out));
  const HfConfig config = make_config(options.size, options.mtp);
  FL_ASSIGN(const Declared declared, declare_model(config, options, *recipe, writer));
  const auto& [mappings, types, sizes, total] = declared;
  FL_TRY(writer.begin_data());
  Progress progress("synth", total, options.quiet);
  const unsigned n_threads = std::max(1U, std::thread::hardware_concurrency());
  for (size_t i = 0; i < mappings.size(); ++i) {
    const uint64_t seed = (options.seed << 40) ^ (i << 24);
    FL_TRY(
        write_tensor(writer, types[i], spread_of(mappings[i], config), sizes[i], seed, n_threads, progress));
  }
  return writer.finish();
}

}  // namespace

Result<gguf::File> hollow_model(const std::string& size, const std::string& type) {
  const std::optional<Recipe> recipe = find_recipe(type);
  if (!recipe) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("--type: expected one of {}, found '{}'", fmt::join(recipe_names(), ", "), type));
  }
  Options options;
  options.size = size;
  std::error_code error;
  const std::filesystem::path path =
      std::filesystem::temp_directory_path(error) / fmt::format("freelunch-plan-{}.gguf", ::getpid());
  FL_ASSIGN(gguf::Writer writer, gguf::Writer::create(path));
  FL_TRY(declare_model(make_config(size, false), options, *recipe, writer));
  FL_TRY(writer.finish_hollow());
  auto file = gguf::File::open(path);
  std::filesystem::remove(path, error);  // the mapping keeps it
  return file;
}

int run_synth(int argc, char** argv) {
  Options options;
  CLI::App app{"Writes a model of a published size with random weights", "freelunch synth"};
  app.footer(kExamples);
  app.add_option("OUT", options.out, "GGUF file to write; appears when complete")->required();
  std::vector<std::string> sizes;
  for (const auto& [name, size] : kSizes) {
    sizes.push_back(name);
  }
  app.add_option("--size", options.size, "Published size, or tiny")
      ->check(CLI::IsMember(sizes))
      ->capture_default_str();
  app.add_option("--type", options.type, "Mix or type of the matrices")->capture_default_str();
  app.add_option("--vocab", options.vocab,
                 "Take the tokenizer from this GGUF file (default: a byte-level one of our own)");
  app.add_flag("--mtp", options.mtp, "With the multi-token-prediction block");
  app.add_option("--seed", options.seed, "Of the weights")
      ->check(CLI::Range(0U, 1U << 20))
      ->capture_default_str();
  app.add_flag("-q,--quiet", options.quiet, "No progress");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  const Status status = run(options);
  return status ? kOk : report_error("synth", status.error());
}

}  // namespace fl::apps
