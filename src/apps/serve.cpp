// `freelunch serve`: the HTTP server on one model. The port is bound before the model is read, so that a port
// in use is said at once and a proxy can ask /health from the first moment.
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include "apps/command.h"
#include "apps/flags/flags.h"
#include "apps/load/load.h"
#include "report/profiles.h"
#include "server/server.h"

namespace fl::apps {
namespace {

constexpr std::string_view kUsageLine = "freelunch serve [flags]";
constexpr std::string_view kAbout =
    "Serves a model over HTTP: the OpenAI API and llama-server's routes.\n"
    "Through a link named llama-server the program takes these flags directly.";
constexpr std::string_view kExamples =
    "examples:\n"
    "  freelunch serve                                     the demo model on 127.0.0.1:8080\n"
    "  freelunch serve -m model.gguf -c 32768 -np 4        four chats of 8192 tokens each\n"
    "  freelunch serve -m model.gguf -ctk q8_0 -ctv q8_0 --port 0 --metrics\n"
    "  LLAMA_ARG_MODEL=model.gguf freelunch serve --api-key secret --host 0.0.0.0";
constexpr double kMiB = 1024.0 * 1024.0;

bool has_flag(const std::vector<std::string>& arguments, std::string_view name) {
  return std::ranges::find(arguments, name) != arguments.end();
}

bool is_loopback(const std::string& host) {
  return host.starts_with("127.") || host == "localhost" || host == "::1" || host.ends_with(".sock");
}

void say_what_loaded(const Loaded& loaded) {
  std::string items;
  for (const model::MemoryItem& item : loaded.memory) {
    items += fmt::format("{}{} {:.1f}", items.empty() ? "" : ", ", item.name,
                         static_cast<double>(item.bytes) / kMiB);
  }
  spdlog::info("{}", loaded.reading);
  spdlog::info("device: {}", loaded.device);
  const double device = static_cast<double>(device_bytes(loaded.memory)) / kMiB;
  const double all = static_cast<double>(total_bytes(loaded.memory)) / kMiB;
  spdlog::info("memory: {}{:.1f} MiB of the machine ({})",
               device > 0 ? fmt::format("{:.1f} MiB of the device, ", device) : std::string(), all - device,
               items);
  const ContextPlan& context = loaded.context;
  spdlog::info("slots: {}, each with a context of {} tokens ({})", context.n_slots, context.n_ctx_slot,
               context.unified ? fmt::format("from one pool of {}", context.n_ctx)
                               : fmt::format("{} in all", context.n_ctx));
  if (context.capped) {
    spdlog::warn("--ctx-size asks for more than the model was trained on: a slot has {} tokens of context",
                 context.n_ctx_slot);
  }
  if (context.shrunk) {
    spdlog::warn(
        "the context was cut to what the free memory has room for; --ctx-size asks for more, "
        "--cache-type-k and -v q8_0 halve its size");
  }
}

Result<server::ServerOptions> server_options(const Options& options, const std::string& model_path) {
  server::ServerOptions out = options.server;
  if (!options.api_key_file.empty()) {
    FL_ASSIGN(const std::vector<std::string> keys, server::read_api_keys(options.api_key_file));
    out.api_keys.insert(out.api_keys.end(), keys.begin(), keys.end());
  }
  out.model_path = model_path;
  out.handle_signals = true;
  FL_TRY(server::check(out.defaults));
  return out;
}

int serve(Options& options) {
  const auto model_path = resolve_model(options);
  if (!model_path) {
    return report_error("serve", model_path.error());
  }
  if (const Status status = take_file_sampling(*model_path, options); !status) {
    return report_error("serve", status.error());
  }
  const auto http = server_options(options, *model_path);
  if (!http) {
    return report_error("serve", http.error());
  }
  auto listening = server::Server::listen(*http);
  if (!listening) {
    return report_error("serve", listening.error());
  }
  server::Server& server = **listening;
  spdlog::info("listening on {}", fmt::join(server.addresses(), ", "));
  if (http->api_keys.empty() && !std::ranges::all_of(http->hosts, is_loopback)) {
    spdlog::warn("other machines can reach this server and no --api-key is asked for");
  }
  // A signal before the model is there ends the process at once: there is nothing to finish.
  auto loaded = load_model(options, *model_path, "serve", false);
  if (!loaded) {
    return report_error("serve", loaded.error());
  }
  say_what_loaded(*loaded);
  if (const Status status = server.set_model(std::move(loaded->model)); !status) {
    return report_error("serve", status.error());
  }
  spdlog::info("ready: {}", std::filesystem::path(*model_path).filename().string());
  const int signal = server.wait();
  if (server.device_lost()) {
    return report_error("serve", {ErrorCode::device, "the device is lost"});
  }
  spdlog::info("stopped{}", signal != 0 ? fmt::format(" by signal {}", signal) : std::string());
  return kOk;
}

}  // namespace

int run_serve(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (wants_help(arguments)) {
    fmt::print("{}", flags_help(kServe, kUsageLine, kAbout, kExamples));
    return kOk;
  }
  if (has_flag(arguments, "--help-markdown")) {
    fmt::print("{}", flags_markdown());
    return kOk;
  }
  if (has_flag(arguments, "--version")) {
    fmt::print("freelunch {}\n", FREELUNCH_VERSION);
    return kOk;
  }
  const auto parse = [](const std::vector<std::string>& words) {
    return parse_flags(
        words, kServe, [](const char* name) { return std::getenv(name); },
        [](const std::string& text) { fmt::print(stderr, "serve: {}\n", text); });
  };
  auto options = parse(arguments);
  if (options && !options->profile.empty()) {
    const auto profile = report::read_profile(options->profile_from, options->profile);
    if (!profile) {
      return report_error("serve", profile.error());
    }
    std::vector<std::string> words = profile->args;
    words.insert(words.end(), arguments.begin(), arguments.end());
    options = parse(words);
  }
  if (!options) {
    return report_error("serve", options.error());
  }
  if (options->list_devices) {
    fmt::print("{}", list_devices());
    return kOk;
  }
  set_up_log(options->verbosity);
  try {
    return serve(*options);
  } catch (const model::DeviceError& error) {
    return report_error("serve", {ErrorCode::device, error.what()});
  } catch (const std::exception& error) {
    return report_error("serve", {ErrorCode::internal, error.what()});
  }
}

}  // namespace fl::apps
