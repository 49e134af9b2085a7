#include "apps/load/load.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "apps/models/file_types.h"
#include "apps/progress.h"
#include "gguf/gguf.h"
#include "model/host_buffer.h"
#include "model/runners.h"
#include "model/weights.h"

namespace fl::apps {
namespace {

namespace fs = std::filesystem;

constexpr int kParentsToSearch = 4;  // build/release/freelunch is two below the repository
constexpr std::string_view kDemoModel = "freelunch-demo-q8_0.gguf";
constexpr uint64_t kMaxTemplateBytes = 1 << 20;

// The demo model of a directory: the usual name, else the first file of the kind.
std::string demo_in(const fs::path& directory) {
  std::error_code error;
  const fs::path usual = directory / kDemoModel;
  if (fs::is_regular_file(usual, error)) {
    return usual.string();
  }
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".gguf") {
      found.push_back(entry.path().string());
    }
  }
  return found.empty() ? std::string() : *std::ranges::min_element(found);
}

Result<std::optional<chat::Template>> chat_template(const Options& options,
                                                    const tokenizer::Tokenizer& tokenizer) {
  std::string source = options.chat_template;
  if (!options.chat_template_file.empty()) {
    std::error_code error;
    if (fs::file_size(options.chat_template_file, error) > kMaxTemplateBytes || error) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("--chat-template-file: expected a file of at most {} bytes, found '{}' ({})",
                              kMaxTemplateBytes, options.chat_template_file,
                              error ? error.message() : std::string("too large")));
    }
    std::ifstream file(options.chat_template_file, std::ios::binary);
    source.assign(std::istreambuf_iterator<char>(file), {});
  }
  if (source == "chatml") {
    return std::optional<chat::Template>();
  }
  if (source.empty()) {
    if (!tokenizer.chat_template()) {
      return std::optional<chat::Template>();
    }
    source = std::string(*tokenizer.chat_template());
  }
  FL_ASSIGN(chat::Template compiled, chat::Template::compile(source));
  return std::optional<chat::Template>(std::move(compiled));
}

// One token in an empty context: pages, caches and kernels are warm. What it writes is never read.
void warm_up(model::Runner& runner) {
  const std::array<int32_t, 1> tokens{0};
  const std::array<model::Position, 1> positions{};
  const std::array<int32_t, 1> blocks{0};
  const std::array<model::Slice, 1> slices{model::Slice{0, 1, 0, 0, blocks}};
  const std::array<model::Row, 1> rows{};
  model::Batch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slices = slices;
  batch.rows = rows;
  runner.submit(batch);
  runner.collect();
}

void lock_memory() {
  if (mlockall(MCL_CURRENT) != 0) {
    spdlog::warn("--load-mode mlock: the system refused to lock the memory ({}); raise `ulimit -l`",
                 std::strerror(errno));
  }
}

}  // namespace

void set_up_log(int64_t verbosity) {
  auto logger = spdlog::get("freelunch");
  if (!logger) {
    const char* no_color = std::getenv("NO_COLOR");
    logger = spdlog::stderr_color_mt("freelunch", no_color != nullptr && *no_color != '\0'
                                                      ? spdlog::color_mode::never
                                                      : spdlog::color_mode::automatic);
    logger->set_pattern("%H:%M:%S.%e %^%L%$ %v");
    spdlog::set_default_logger(logger);
  }
  constexpr std::array kLevels{spdlog::level::off,  spdlog::level::err,   spdlog::level::warn,
                               spdlog::level::info, spdlog::level::debug, spdlog::level::trace};
  spdlog::set_level(kLevels[static_cast<size_t>(std::clamp<int64_t>(verbosity, 0, kLevels.size() - 1))]);
}

Result<std::string> resolve_model(const Options& options) {
  if (!options.model.empty()) {
    return options.model;
  }
  std::vector<fs::path> places;
  if (const char* data = std::getenv("FREELUNCH_DATA"); data != nullptr && *data != '\0') {
    places.emplace_back(fs::path(data) / "models" / "demo");
  } else {
    std::error_code error;
    fs::path directory = fs::read_symlink("/proc/self/exe", error).parent_path();
    places.push_back(directory / ".." / "share" / "freelunch" / "models" / "demo");
    for (int i = 0; i < kParentsToSearch && !directory.empty(); ++i) {
      places.push_back(directory / "models" / "demo");
      directory = directory.parent_path();
    }
  }
  std::string searched;
  for (const fs::path& place : places) {
    if (std::string found = demo_in(place); !found.empty()) {
      return found;
    }
    searched += (searched.empty() ? "" : ", ") + place.string();
  }
  return fail(ErrorCode::not_found,
              fmt::format("no --model was given and no demo model is in {} (FREELUNCH_DATA says where else)",
                          searched));
}

// Source of the keys: ggml-org/llama.cpp, common/common.cpp.
Status take_file_sampling(const std::string& path, Options& options) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(path));
  engine::SamplingParams& sampling = options.server.defaults.sampling;
  const auto read = [&](std::string_view key, std::string_view flag, auto& field) -> Status {
    const std::string name = fmt::format("general.sampling.{}", key);
    if (!file.has(name) || options.given.contains(flag)) {
      return {};
    }
    using Field = std::remove_reference_t<decltype(field)>;
    if constexpr (std::is_integral_v<Field>) {
      FL_ASSIGN(const int64_t value, file.get_int(name));
      field = static_cast<Field>(std::clamp<int64_t>(value, INT32_MIN, INT32_MAX));
    } else {
      FL_ASSIGN(const double value, file.get_float(name));
      field = static_cast<Field>(value);
    }
    return {};
  };
  FL_TRY(read("top_k", "--top-k", sampling.top_k));
  FL_TRY(read("top_p", "--top-p", sampling.top_p));
  FL_TRY(read("min_p", "--min-p", sampling.min_p));
  FL_TRY(read("xtc_probability", "--xtc-probability", sampling.xtc_probability));
  FL_TRY(read("xtc_threshold", "--xtc-threshold", sampling.xtc_threshold));
  FL_TRY(read("temp", "--temp", sampling.temperature));
  FL_TRY(read("penalty_last_n", "--repeat-last-n", sampling.repeat_last_n));
  FL_TRY(read("penalty_repeat", "--repeat-penalty", sampling.repeat_penalty));
  FL_TRY(read("mirostat", "--mirostat", sampling.mirostat));
  FL_TRY(read("mirostat_tau", "--mirostat-ent", sampling.mirostat_tau));
  FL_TRY(read("mirostat_eta", "--mirostat-lr", sampling.mirostat_eta));
  return {};
}

Result<model::Weights> bind_model(const gguf::File& file) {
  auto weights = model::Weights::bind(file);
  if (!weights && weights.error().code == ErrorCode::unsupported) {
    // Of a request that is a wrong value; of a file it makes the model unusable.
    return fail({ErrorCode::bad_file, weights.error().message}, file.path().string());
  }
  if (!weights) {
    return fail(weights.error(), file.path().string());
  }
  return weights;
}

Result<bool> choose_cuda(const Options& options) {
  const bool named = options.device == "cuda" || options.device == "CUDA0";
  const bool available = model::cuda_available();
  if (named && !available) {
    return fail(
        ErrorCode::device,
        fmt::format("--device {}: no GPU answers, or this build has no CUDA backend", options.device));
  }
  if (named) {
    return true;
  }
  if (options.device != "auto" || options.n_gpu_layers == 0) {
    return false;
  }
  if (!available && options.n_gpu_layers != kAutoLayers) {
    spdlog::warn("--n-gpu-layers {}: no GPU here (or a build without CUDA); all layers run on the CPU",
                 options.n_gpu_layers == kAllLayers ? "all" : std::to_string(options.n_gpu_layers));
  }
  return available;
}

std::string list_devices() {
  std::ifstream file("/proc/cpuinfo");
  std::string name = "unknown processor";
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) {
      name = line.substr(line.find(": ") + 2);
      break;
    }
  }
  std::string text = fmt::format("cpu: {}, {} processors, {} MiB available\n", name,
                                 std::thread::hardware_concurrency(), model::available_memory() >> 20);
  text += model::cuda_available() ? "CUDA0: answers\n" : "no GPU (or a build without CUDA)\n";
  return text;
}

uint64_t memory_available(const Options& options, bool cuda) {
  return cuda ? model::cuda_memory_available(options.vram_limit) : model::available_memory();
}

Status check_projector(const std::string& path, int64_t n_embd) {
  const auto wrong = [&](const std::string& what) {
    return fail(ErrorCode::bad_file, fmt::format("--mmproj {}: {}", path, what));
  };
  auto opened = gguf::File::open(path);
  if (!opened) {
    return fail(opened.error(), "--mmproj");
  }
  const gguf::File& file = *opened;
  const std::string_view architecture = file.get_string_or("general.architecture", "").value_or("");
  if (architecture != "clip") {
    return wrong(fmt::format("expected general.architecture 'clip', found '{}'", architecture));
  }
  if (!file.get_bool_or("clip.has_vision_encoder", false).value_or(false)) {
    return wrong("expected clip.has_vision_encoder to be true");
  }
  const std::string_view projector =
      file.get_string_or("clip.projector_type",
                         file.get_string_or("clip.vision.projector_type", "").value_or(""))
          .value_or("");
  if (projector != "qwen3vl_merger") {
    return wrong(fmt::format("expected clip.projector_type 'qwen3vl_merger', found '{}'", projector));
  }
  FL_ASSIGN(const int64_t width, file.get_int("clip.vision.projection_dim"));
  if (width != n_embd) {
    return wrong(
        fmt::format("its output is {} wide (clip.vision.projection_dim), the model takes {}: it belongs "
                    "to another size",
                    width, n_embd));
  }
  if (file.has("clip.vision.is_deepstack_layers")) {
    FL_ASSIGN(const gguf::Value flags, file.value("clip.vision.is_deepstack_layers"));
    if (const auto* layers = std::get_if<std::vector<bool>>(&flags.storage());
        layers != nullptr && std::ranges::find(*layers, true) != layers->end()) {
      return wrong("it has deepstack layers, so it belongs to Qwen3-VL, not to this family");
    }
  }
  for (const std::string_view name :
       {"v.patch_embd.weight", "v.position_embd.weight", "mm.0.weight", "mm.2.weight"}) {
    if (file.find(name) == nullptr) {
      return wrong(fmt::format("the tensor {} is missing", name));
    }
  }
  if (const int64_t rows = file.find("mm.2.weight")->view.rows(); rows != n_embd) {
    return wrong(fmt::format("mm.2.weight: expected {} rows, found {}", n_embd, rows));
  }
  return {};
}

ReadProgress::ReadProgress(std::string_view command, const std::string& path, uint64_t bytes, bool quiet)
    : name_(fs::path(path).filename().string()),
      line_(std::make_unique<Progress>(fmt::format("{}: reading {}", command, name_), bytes,
                                       quiet || ::isatty(STDERR_FILENO) == 0)),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

ReadProgress::~ReadProgress() = default;

void ReadProgress::on_read(void* context, uint64_t done, uint64_t /*total*/) {
  auto& self = *static_cast<ReadProgress*>(context);
  self.last_ = std::chrono::steady_clock::now();
  self.bytes_ = done;
  const double seconds = std::chrono::duration<double>(self.last_ - self.start_).count();
  self.line_->set(done,
                  fmt::format("{:.1f} GB/s", static_cast<double>(done) / 1e9 / std::max(seconds, 1e-3)));
}

std::string ReadProgress::summary() const {
  const double seconds = std::max(std::chrono::duration<double>(last_ - start_).count(), 1e-3);
  const double bytes = static_cast<double>(bytes_);
  return fmt::format("read {}: {:.2f} GB in {:.1f} s, {:.1f} GB/s", name_, bytes / 1e9, seconds,
                     bytes / 1e9 / seconds);
}

Result<Loaded> load_model(const Options& options, const std::string& path, std::string_view command,
                          bool quiet) {
  FL_ASSIGN(const bool cuda, choose_cuda(options));
  if (options.threads_batch != 0 && options.threads_batch != options.threads) {
    return fail(ErrorCode::unsupported,
                fmt::format("--threads-batch {}: prompts and answers share their steps, so it can only be "
                            "--threads ({})",
                            options.threads_batch, options.threads));
  }
  FL_ASSIGN(const gguf::File file, gguf::File::open(path));
  FL_ASSIGN(const model::Weights weights, bind_model(file));
  if (cuda && options.n_gpu_layers > 0 && options.n_gpu_layers < weights.config.n_layers) {
    return fail(
        ErrorCode::unsupported,
        fmt::format("--n-gpu-layers {}: the model has {} layers, and a part of them on the GPU is not "
                    "built; 0 is the CPU, {} or more the GPU",
                    options.n_gpu_layers, weights.config.n_layers, weights.config.n_layers));
  }
  if (!options.mmproj.empty()) {
    FL_TRY(check_projector(options.mmproj, weights.config.n_embd));
    spdlog::info("vision file {}: fits the model; a request with an image is refused until images are built",
                 fs::path(options.mmproj).filename().string());
  }
  FL_ASSIGN(tokenizer::Tokenizer tokenizer, tokenizer::Tokenizer::from_gguf(file));
  if (tokenizer.n_vocab() > weights.config.n_vocab) {
    return fail(ErrorCode::bad_file, fmt::format("{}: the tokenizer has {} tokens, the model {}", path,
                                                 tokenizer.n_vocab(), weights.config.n_vocab));
  }
  FL_ASSIGN(std::optional<chat::Template> compiled, chat_template(options, tokenizer));
  FL_ASSIGN(const ContextPlan context,
            choose_context(options, weights, cuda, memory_available(options, cuda)));
  const model::RunnerOptions runner_opts = runner_options(options, context, cuda);
  ReadProgress progress(command, path, weights.bytes(), quiet);
  FL_ASSIGN(std::unique_ptr<model::Runner> runner,
            cuda ? model::make_cuda_runner(weights, runner_opts, ReadProgress::on_read, &progress)
                 : model::make_cpu_runner(weights, runner_opts, ReadProgress::on_read, &progress));
  std::string reading = progress.summary();
  if (options.warmup) {
    warm_up(*runner);
  }
  if (options.load_mode.find("mlock") != std::string::npos) {
    lock_memory();
  }
  uint64_t n_params = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    n_params += static_cast<uint64_t>(tensor.view.cols() * tensor.view.rows());
  }
  model::DeviceLimits limits;
  if (options.measure_limits) {
    limits = runner->measure_limits();
  }
  std::string device = runner->describe();
  std::vector<model::MemoryItem> memory = runner->memory();
  auto engine = std::make_unique<engine::Engine>(std::move(runner), engine_options(options, context, cuda));
  server::LoadedModel loaded{std::move(engine),
                             std::move(tokenizer),
                             std::move(compiled),
                             n_params,
                             file.file_bytes(),
                             file_type_name(file.get_int("general.file_type").value_or(-1)),
                             limits,
                             !options.mmproj.empty()};
  return Loaded{std::move(loaded), context, std::move(device), std::move(memory), std::move(reading)};
}

}  // namespace fl::apps
