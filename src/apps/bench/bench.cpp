// `freelunch bench`: how fast a model's steps are, by llama-bench's tests and columns, each with its distance
// from the measured limit of the machine and a hash of the tokens.
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "apps/bench/measure.h"
#include "apps/bench/output.h"
#include "apps/bench/plan.h"
#include "apps/command.h"
#include "apps/flags/flags.h"
#include "apps/load/load.h"
#include "apps/models/file_types.h"
#include "gguf/gguf.h"
#include "model/runners.h"
#include "model/weights.h"

namespace fl::apps {
namespace {

using bench::Test;

constexpr const char* kExamples = R"(
Examples:
  freelunch bench -m model.gguf                         pp512 and tg128
  freelunch bench -m model.gguf -p 0 -n 64 --parallel 1,2,4,8
  freelunch bench -m model.gguf -d 0,4096,16384 -o json > result.json
  freelunch bench -m a.gguf -m b.gguf -p 512-2048*2 -r 3 -o csv

A line prints its share of the limit: for generation, the bytes a token must move over the read bandwidth measured in the
same run (on the CPU between every eight steps: medians of both); for a prompt, the operations of the matrices over the peak of the machine's dot products (int8 on the CPU, 16-bit
matrix products on the GPU). Equal token hashes mean equal results; repetitions that choose other tokens than the
first are counted (n_differing) and told on stderr.)";

struct BenchOptions {
  std::vector<std::string> models;
  std::string prompt = "512", gen = "128", depth = "0", parallel = "1", batch = "2048", threads = "0";
  std::vector<std::string> prompt_gen;
  std::string type_k = "f16", type_v = "f16", format = "md", device = "auto", output;
  int repetitions = 5;
  int n_gpu_layers = -1;
  std::string vram_limit;
  uint32_t seed = 1;
  bool progress = false;
};

// llama-bench's several-letter short names; CLI11 knows one letter only.
const std::map<std::string_view, const char*> kLongNames{
    {"-pg", "--prompt-gen"},    {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"},
    {"-ngl", "--n-gpu-layers"}, {"-npl", "--parallel"},     {"-ub", "--ubatch-size"},
};

Result<bench::Lists> parse_lists(const BenchOptions& options) {
  bench::Lists lists;
  FL_ASSIGN(lists.prompt, bench::parse_numbers(options.prompt));
  FL_ASSIGN(lists.gen, bench::parse_numbers(options.gen));
  FL_ASSIGN(lists.depth, bench::parse_numbers(options.depth));
  FL_ASSIGN(lists.parallel, bench::parse_numbers(options.parallel));
  FL_ASSIGN(lists.batch, bench::parse_numbers(options.batch));
  FL_ASSIGN(lists.threads, bench::parse_numbers(options.threads));
  FL_ASSIGN(lists.type_k, bench::parse_kv_types(options.type_k));
  FL_ASSIGN(lists.type_v, bench::parse_kv_types(options.type_v));
  for (const std::string& text : options.prompt_gen) {
    FL_ASSIGN(const std::vector<int64_t> pair, bench::parse_numbers(text));
    if (pair.size() != 2) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("--prompt-gen: expected PROMPT,GEN, found '{}'", text));
    }
    lists.prompt_gen.emplace_back(pair[0], pair[1]);
  }
  for (int64_t n : lists.parallel) {
    if (n < 1) {
      return fail(ErrorCode::invalid_argument, "--parallel: expected at least 1, found 0");
    }
  }
  for (int64_t n : lists.batch) {
    if (n < model::kBlockTokens) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("--batch-size: expected at least {}, found {}", model::kBlockTokens, n));
    }
  }
  return lists;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) {
      const size_t colon = line.find(": ");
      return colon == std::string::npos ? line : line.substr(colon + 2);
    }
  }
  return "unknown";
}

bench::ModelInfo model_info(const gguf::File& file, const model::Weights& weights) {
  bench::ModelInfo info;
  info.file = file.path().string();
  const std::string_view size = file.get_string_or("general.size_label", "").value_or("");
  const int64_t file_type = file.get_int("general.file_type").value_or(-1);
  info.type = fmt::format("qwen35 {} {}", size.empty() ? weights.config.name : std::string(size),
                          file_type_name(file_type));
  info.bytes = weights.bytes();
  for (const gguf::Tensor& tensor : file.tensors()) {
    info.n_params += static_cast<uint64_t>(tensor.view.cols() * tensor.view.rows());
  }
  return info;
}

Result<std::unique_ptr<model::Runner>> make_runner(const BenchOptions& options, const model::Weights& weights,
                                                   const Test& test, bool cuda) {
  model::RunnerOptions runner_options = bench::runner_options(test);
  if (cuda && !options.vram_limit.empty()) {
    FL_ASSIGN(runner_options.memory_limit, parse_bytes(options.vram_limit));
  }
  ReadProgress progress("bench", options.models.front(), weights.bytes(), !options.progress);
  auto runner = cuda ? model::make_cuda_runner(weights, runner_options, ReadProgress::on_read, &progress)
                     : model::make_cpu_runner(weights, runner_options, ReadProgress::on_read, &progress);
  if (!runner) {
    return fail(std::move(runner.error()), fmt::format("{} ({})", options.models.front(), test.name()));
  }
  if (options.progress) {
    fmt::print(stderr, "bench: {}\n", progress.summary());
  }
  return runner;
}

bool same_runner(const Test& a, const Test& b) {
  const model::RunnerOptions x = bench::runner_options(a);
  const model::RunnerOptions y = bench::runner_options(b);
  return x.n_threads == y.n_threads && x.n_blocks == y.n_blocks && x.n_state_rows == y.n_state_rows &&
         x.max_tokens == y.max_tokens && x.max_slices == y.max_slices && x.kv_type_k == y.kv_type_k &&
         x.kv_type_v == y.kv_type_v;
}

Status bench_model(const BenchOptions& options, const std::string& path, const std::vector<Test>& tests,
                   bool cuda, bench::Writer& writer, std::FILE* out) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(path));
  FL_ASSIGN(const model::Weights weights, model::Weights::bind(file));
  std::unique_ptr<model::Runner> runner;
  model::DeviceLimits limits;
  bench::Line line;
  line.model = model_info(file, weights);
  line.backend = cuda ? "CUDA" : "CPU";
  line.cpu_info = cpu_name();
  line.n_gpu_layers = cuda ? options.n_gpu_layers : 0;
  line.prompt_token_ops = bench::prompt_token_ops(weights);
  for (size_t i = 0; i < tests.size(); ++i) {
    const Test& test = tests[i];
    if (options.progress) {
      fmt::print(stderr, "bench: {} {}/{}: {}\n", std::filesystem::path(path).filename().string(), i + 1,
                 tests.size(), test.name());
    }
    if (!runner || !same_runner(tests[i - 1], test)) {
      runner.reset();  // its memory first
      FL_ASSIGN(runner, make_runner(options, weights, test, cuda));
      limits = runner->measure_limits();
    }
    line.device = runner->describe();
    line.memory_bytes = 0;
    for (const model::MemoryItem& item : runner->memory()) {
      line.memory_bytes += item.bytes;
    }
    line.test = test;
    line.limits = limits;
    line.step_bytes = bench::step_bytes(weights, test);
    line.test_time = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
    line.measured = bench::measure(*runner, test, options.repetitions, options.seed);
    fmt::print(out, "{}", writer.line(line));
    std::fflush(out);
    if (line.measured.n_differing > 0) {
      fmt::print(stderr, "freelunch bench: {}: {} of {} repetitions chose other tokens than the first\n",
                 test.name(), line.measured.n_differing, options.repetitions);
    }
  }
  return {};
}

Status run(const BenchOptions& options) {
  FL_ASSIGN(const bench::Lists lists, parse_lists(options));
  const std::vector<Test> tests = bench::make_tests(lists);
  if (tests.empty()) {
    return fail(ErrorCode::invalid_argument, "nothing to measure: -p and -n are both 0");
  }
  const bool want_cuda = options.device == "cuda" || (options.device == "auto" && options.n_gpu_layers != 0);
  const bool cuda = want_cuda && (options.device == "cuda" || model::cuda_available());
  static const std::map<std::string, bench::Format> kFormats{{"md", bench::Format::md},
                                                             {"csv", bench::Format::csv},
                                                             {"json", bench::Format::json},
                                                             {"jsonl", bench::Format::jsonl}};
  bench::Writer writer(kFormats.at(options.format));
  fmt::print("{}", writer.begin());
  for (const std::string& path : options.models) {
    FL_TRY(bench_model(options, path, tests, cuda, writer, stdout));
  }
  fmt::print("{}", writer.end());
  return {};
}

}  // namespace

int run_bench(int argc, char** argv) {
  BenchOptions options;
  CLI::App app{"Measures the steps of a model: prompts, generation, parallel sequences, at depths",
               "freelunch bench"};
  app.footer(kExamples);
  app.add_option("-m,--model", options.models, "GGUF file; may be repeated")->required();
  app.add_option("-p,--n-prompt", options.prompt,
                 "Prompt lengths; lists 1,2 and ranges a-b, a-b+step, a-b*factor; 0: none")
      ->capture_default_str();
  app.add_option("-n,--n-gen", options.gen, "Generated tokens; 0: none")->capture_default_str();
  app.add_option("--prompt-gen", options.prompt_gen, "(-pg) PROMPT,GEN timed as one piece; may be repeated");
  app.add_option("-d,--n-depth", options.depth, "Tokens in the context before the clock starts")
      ->capture_default_str();
  app.add_option("--parallel", options.parallel, "(-npl) Sequences at once; rates are of all together")
      ->capture_default_str();
  app.add_option("-b,--batch-size,--ubatch-size", options.batch, "Most tokens of one step")
      ->capture_default_str();
  app.add_option("-t,--threads", options.threads, "Threads of the CPU backend; 0: one per core")
      ->capture_default_str();
  app.add_option("--cache-type-k", options.type_k, "(-ctk) f32, f16, bf16, q8_0")->capture_default_str();
  app.add_option("--cache-type-v", options.type_v, "(-ctv) f32, f16, bf16, q8_0")->capture_default_str();
  app.add_option("-r,--repetitions", options.repetitions, "Timed runs of each test")
      ->check(CLI::Range(1, 1000));
  app.add_option("-o,--output", options.format, "Format of the result")
      ->check(CLI::IsMember({"md", "csv", "json", "jsonl"}));
  app.add_option("--device", options.device, "Where to run")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option("--n-gpu-layers", options.n_gpu_layers, "(-ngl) 0: the CPU; else the GPU if there is one");
  app.add_option("--vram-limit", options.vram_limit,
                 "Memory of the GPU that may be used, such as 24GiB, the driver's part included");
  app.add_option("--seed", options.seed, "Of the random prompts")->capture_default_str();
  app.add_flag("--progress", options.progress, "Say on stderr which test runs");

  std::vector<std::string> words(argv + 1, argv + argc);
  for (std::string& word : words) {
    if (const auto found = kLongNames.find(word); found != kLongNames.end()) {
      word = found->second;
    }
  }
  std::reverse(words.begin(), words.end());  // the order that CLI11 takes
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  try {
    if (const Status status = run(options); !status) {
      return report_error("bench", status.error());
    }
  } catch (const model::DeviceError& error) {
    return report_error("bench", {ErrorCode::device, error.what()});
  } catch (const std::exception& error) {
    return report_error("bench", {ErrorCode::internal, error.what()});
  }
  return kOk;
}

}  // namespace fl::apps
