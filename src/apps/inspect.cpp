// `freelunch inspect`: what is in a GGUF file.
#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/models/file_types.h"
#include "gguf/gguf.h"
#include "model/config.h"
#include "model/weights.h"
#include "tokenizer/tokenizer.h"

namespace fl::apps {
namespace {

using nlohmann::ordered_json;

constexpr const char* kExamples = R"(
Examples:
  freelunch inspect model.gguf
  freelunch inspect model-00001-of-00003.gguf --tensors
  freelunch inspect model.gguf --json | jq .tensor_bytes_by_type)";
constexpr double kMiB = 1024.0 * 1024.0;
constexpr size_t kValueChars = 80;

struct Options {
  std::string file;
  bool json = false;
  bool tensors = false;
  bool template_text = false;
};

/// Where a tensor's bytes go. `mtp` is the name of the draft block with its dot, or empty.
std::string_view kind_of(std::string_view name, std::string_view mtp) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (!mtp.empty() && name.starts_with(mtp)) {
    return "draft block (MTP)";
  }
  if (name.starts_with("token_embd") || name == "output.weight") {
    return "embeddings and output";
  }
  if (name.starts_with("v.") || name.starts_with("mm.")) {
    return "vision";
  }
  if (has("ffn_")) {
    return "feed-forward";
  }
  if (has("ssm_") || has("attn_qkv") || has("attn_gate")) {
    return "Gated DeltaNet";
  }
  if (has("norm")) {
    return "norms";
  }
  return has("attn_") ? "full attention" : "other";
}

struct Sum {
  uint64_t tensors = 0;
  uint64_t params = 0;
  uint64_t bytes = 0;
};

uint64_t params_of(const gguf::Tensor& tensor) {
  uint64_t n = 1;
  for (const int64_t extent : tensor.view.ne) {
    n *= static_cast<uint64_t>(extent);
  }
  return n;
}

std::map<std::string, Sum> sums(const gguf::File& file, bool by_type) {
  const auto config = model::Config::from_gguf(file);
  const std::string mtp =
      config && config->n_mtp_layers > 0 ? fmt::format("blk.{}.", config->n_layers) : std::string();
  std::map<std::string, Sum> out;
  for (const gguf::Tensor& tensor : file.tensors()) {
    const std::string_view key = by_type ? dtype_info(tensor.view.type).name : kind_of(tensor.name, mtp);
    Sum& sum = out[std::string(key)];
    ++sum.tensors;
    sum.params += params_of(tensor);
    sum.bytes += tensor.view.bytes();
  }
  return out;
}

std::string shape_of(const gguf::Tensor& tensor) {
  std::string text = fmt::format("[{}", tensor.view.ne[0]);
  int last = 3;
  while (last > 0 && tensor.view.ne[static_cast<size_t>(last)] == 1) {
    --last;
  }
  for (int i = 1; i <= last; ++i) {
    text += fmt::format(", {}", tensor.view.ne[static_cast<size_t>(i)]);
  }
  return text + "]";
}

uint32_t n_shards(const gguf::File& file) {
  uint32_t n = 1;
  for (const gguf::Tensor& tensor : file.tensors()) {
    n = std::max(n, tensor.shard + 1);
  }
  return n;
}

// What the family's shapes say, or why the file is no model of the family.
ordered_json model_json(const gguf::File& file) {
  const auto config = model::Config::from_gguf(file);
  if (!config) {
    return {{"usable", false}, {"why", config.error().message}};
  }
  ordered_json out{{"usable", true},
                   {"name", config->name},
                   {"layers", config->n_layers},
                   {"full_attention_layers", config->n_full_layers()},
                   {"delta_net_layers", config->n_delta_layers()},
                   {"mtp_layers", config->n_mtp_layers},
                   {"vocabulary", config->n_vocab},
                   {"embedding", config->n_embd},
                   {"feed_forward", config->n_ff},
                   {"training_context", config->n_ctx_train},
                   {"heads", config->n_heads},
                   {"kv_heads", config->n_kv_heads},
                   {"head_dim", config->head_dim},
                   {"key_heads", config->n_key_heads},
                   {"value_heads", config->n_value_heads},
                   {"tied_embeddings", config->tied_embeddings},
                   {"kv_bytes_per_token_f16", 4LL * config->kv_width() * config->n_full_layers()},
                   {"state_bytes_per_chat",
                    4LL * (config->state_floats() + config->conv_floats()) * config->n_delta_layers()}};
  if (const auto weights = model::Weights::bind(file); !weights) {
    out["usable"] = false;
    out["why"] = weights.error().message;
  }
  return out;
}

ordered_json tokenizer_json(const gguf::File& file) {
  if (!file.has("tokenizer.ggml.model")) {
    return nullptr;
  }
  const auto tokenizer = tokenizer::Tokenizer::from_gguf(file);
  if (!tokenizer) {
    return {{"usable", false}, {"why", tokenizer.error().message}};
  }
  return {{"usable", true},
          {"model", file.get_string_or("tokenizer.ggml.model", "").value_or("")},
          {"splitter", file.get_string_or("tokenizer.ggml.pre", "").value_or("")},
          {"tokens", tokenizer->n_vocab()},
          {"eos", tokenizer->eos()},
          {"end_of_generation", tokenizer->end_of_generation()},
          {"adds_bos", tokenizer->add_bos()},
          {"chat_template_bytes", tokenizer->chat_template() ? tokenizer->chat_template()->size() : 0}};
}

ordered_json sums_json(const gguf::File& file, bool by_type) {
  ordered_json out = ordered_json::object();
  for (const auto& [name, sum] : sums(file, by_type)) {
    out[name] = {{"tensors", sum.tensors}, {"parameters", sum.params}, {"bytes", sum.bytes}};
  }
  return out;
}

ordered_json to_json(const gguf::File& file) {
  ordered_json metadata = ordered_json::object();
  for (const gguf::File::Entry& entry : file.entries()) {
    metadata[std::string(entry.key)] = file.describe(entry.key, kValueChars);
  }
  ordered_json tensors = ordered_json::array();
  for (const gguf::Tensor& tensor : file.tensors()) {
    tensors.push_back({{"name", tensor.name},
                       {"type", dtype_info(tensor.view.type).name},
                       {"shape", tensor.view.ne},
                       {"bytes", tensor.view.bytes()},
                       {"shard", tensor.shard},
                       {"offset", tensor.offset}});
  }
  return {{"path", file.path().string()},
          {"gguf_version", file.version()},
          {"bytes", file.file_bytes()},
          {"shards", n_shards(file)},
          {"file_type", file_type_name(file.get_int("general.file_type").value_or(-1))},
          {"model", model_json(file)},
          {"tokenizer", tokenizer_json(file)},
          {"tensor_bytes_by_type", sums_json(file, true)},
          {"tensor_bytes_by_kind", sums_json(file, false)},
          {"metadata", metadata},
          {"tensors", tensors}};
}

void print_sums(const gguf::File& file, bool by_type, std::string_view title) {
  fmt::print("\n{:<24} {:>8} {:>15} {:>12} {:>7}\n", title, "tensors", "parameters", "MiB", "bits");
  for (const auto& [name, sum] : sums(file, by_type)) {
    fmt::print("  {:<22} {:>8} {:>15} {:>12.1f} {:>7.2f}\n", name, sum.tensors, sum.params,
               static_cast<double>(sum.bytes) / kMiB,
               8.0 * static_cast<double>(sum.bytes) / static_cast<double>(std::max<uint64_t>(sum.params, 1)));
  }
}

void print_text(const gguf::File& file, const Options& options) {
  fmt::print("{}: GGUF v{}, {:.1f} MiB", file.path().string(), file.version(),
             static_cast<double>(file.file_bytes()) / kMiB);
  fmt::print("{}, {} tensors\n", n_shards(file) > 1 ? fmt::format(" in {} parts", n_shards(file)) : "",
             file.tensors().size());
  const ordered_json model = model_json(file);
  if (model.contains("layers")) {
    fmt::print("\nmodel      {} ({}), {} layers: {} Gated DeltaNet, {} full attention{}\n",
               model["name"].get<std::string>(),
               file_type_name(file.get_int("general.file_type").value_or(-1)), model["layers"].get<int>(),
               model["delta_net_layers"].get<int>(), model["full_attention_layers"].get<int>(),
               model["mtp_layers"].get<int>() > 0 ? ", and a draft block (MTP)" : "");
    fmt::print("width      {} embedding, {} feed-forward, {} tokens{}\n", model["embedding"].get<int>(),
               model["feed_forward"].get<int>(), model["vocabulary"].get<int>(),
               model["tied_embeddings"].get<bool>() ? ", output tied to the embeddings" : "");
    fmt::print("heads      {} of {} with {} KV heads; DeltaNet {} key, {} value heads\n",
               model["heads"].get<int>(), model["head_dim"].get<int>(), model["kv_heads"].get<int>(),
               model["key_heads"].get<int>(), model["value_heads"].get<int>());
    fmt::print(
        "context    trained for {}; a token takes {:.1f} KiB of f16 cache, a chat {:.1f} MiB of state\n",
        model["training_context"].get<int>(), model["kv_bytes_per_token_f16"].get<double>() / 1024,
        model["state_bytes_per_chat"].get<double>() / kMiB);
  }
  if (!model["usable"].get<bool>()) {
    fmt::print("\nnot usable as a model: {}\n", model["why"].get<std::string>());
  }
  const ordered_json tokenizer = tokenizer_json(file);
  if (tokenizer.is_null()) {
    fmt::print("tokenizer  none\n");
  } else if (!tokenizer["usable"].get<bool>()) {
    fmt::print("tokenizer  not usable: {}\n", tokenizer["why"].get<std::string>());
  } else {
    const size_t template_bytes = tokenizer["chat_template_bytes"].get<size_t>();
    fmt::print("tokenizer  {} tokens ({}, splitter {}), end of text {}; {}\n", tokenizer["tokens"].get<int>(),
               tokenizer["model"].get<std::string>(), tokenizer["splitter"].get<std::string>(),
               tokenizer["eos"].get<int>(),
               template_bytes > 0 ? fmt::format("chat template of {} bytes", template_bytes)
                                  : std::string("no chat template"));
  }
  if (!file.tensors().empty()) {
    print_sums(file, false, "by kind");
    print_sums(file, true, "by type");
  }
  fmt::print("\nmetadata\n");
  for (const gguf::File::Entry& entry : file.entries()) {
    fmt::print("  {:<44} {}\n", entry.key, file.describe(entry.key, kValueChars));
  }
  if (options.tensors) {
    fmt::print("\ntensors\n");
    for (const gguf::Tensor& tensor : file.tensors()) {
      fmt::print("  {:<36} {:<7} {:<22} {:>12} bytes\n", tensor.name, dtype_info(tensor.view.type).name,
                 shape_of(tensor), tensor.view.bytes());
    }
  }
}

Status run(const Options& options) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(options.file));
  if (options.template_text) {
    FL_ASSIGN(const std::string_view source, file.get_string("tokenizer.chat_template"));
    fmt::print("{}\n", source);
  } else if (options.json) {
    fmt::print("{}\n", to_json(file).dump(2, ' ', false, ordered_json::error_handler_t::replace));
  } else {
    print_text(file, options);
  }
  return {};
}

}  // namespace

int run_inspect(int argc, char** argv) {
  Options options;
  CLI::App app{"Shows what is in a GGUF file", "freelunch inspect"};
  app.footer(kExamples);
  app.add_option("FILE", options.file, "GGUF file; of a split model the first part")->required();
  app.add_flag("--json", options.json, "Everything, as one JSON document");
  app.add_flag("--tensors", options.tensors, "List the tensors, too");
  app.add_flag("--template", options.template_text, "Only the chat template");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  const Status status = run(options);
  return status ? kOk : report_error("inspect", status.error());
}

}  // namespace fl::apps
