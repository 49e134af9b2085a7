// `freelunch run`: one prompt in, text out.
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/flags/flags.h"
#include "apps/load/load.h"
#include "apps/talk/session.h"
#include "apps/talk/terminal.h"

namespace fl::apps {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kUsageLine = "freelunch run [--model FILE] -p TEXT [flags]";
constexpr std::string_view kAbout =
    "Continues a text, or with --chat answers it, and prints what the model writes.";
constexpr std::string_view kExamples =
    "examples:\n"
    "  freelunch run -p 'def fibonacci(n):' -n 64 --temp 0\n"
    "  freelunch run -m model.gguf --chat -p 'Why is the sky blue?' --reasoning off\n"
    "  freelunch run -m model.gguf --chat --json < question.txt > answer.json";
constexpr int64_t kQuietLog = 2;  // warnings; a program in a pipe says no more

void interrupt(int) {
  if (Session::interrupted.exchange(true)) {
    std::_Exit(kInterrupted);
  }
}

Result<SpokenAnswer> speak(const Options& options, Session& session, const std::string& prompt,
                           const Session::OnText& on_text) {
  if (!options.use_template) {
    return session.complete(prompt, on_text);
  }
  ordered_json messages = ordered_json::array();
  if (!options.system_prompt.empty()) {
    messages.push_back({{"role", "system"}, {"content", options.system_prompt}});
  }
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return session.chat(messages, on_text);
}

ordered_json to_json(const Options& options, const Session& session, const SpokenAnswer& answer) {
  ordered_json out{{"model", session.model_id()}, {"device", session.device()}, {"content", answer.content}};
  if (options.use_template) {
    out["reasoning_content"] = answer.reasoning;
  }
  out["finish_reason"] = answer.finish;
  out["timings"] = {{"prompt_n", answer.prompt_n},
                    {"cache_n", answer.cached_n},
                    {"predicted_n", answer.predicted_n},
                    {"prompt_per_second", answer.prompt_per_second},
                    {"predicted_per_second", answer.predicted_per_second}};
  return out;
}

Result<int> run(const Options& options) {
  std::string prompt = options.prompt;
  if (!options.prompt_given || prompt == "-") {
    prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  if (prompt.empty()) {
    return fail(ErrorCode::invalid_argument, "expected a prompt (-p TEXT or standard input), found none");
  }
  FL_ASSIGN(const std::unique_ptr<Session> session, Session::open(options, "run", options.json));
  std::signal(SIGINT, interrupt);
  AnswerPrinter printer(stdout, wants_colour(stdout));
  FL_ASSIGN(const SpokenAnswer answer,
            speak(options, *session, prompt, [&](std::string_view text, bool thinking) {
              if (!options.json) {
                printer.print(text, thinking);
              }
            }));
  if (options.json) {
    fmt::print(
        "{}\n",
        to_json(options, *session, answer).dump(2, ' ', false, ordered_json::error_handler_t::replace));
  } else {
    printer.finish();
    fmt::print(stderr, "\n{} prompt tokens at {:.1f}/s, {} tokens at {:.1f}/s ({})\n", answer.prompt_n,
               answer.prompt_per_second, answer.predicted_n, answer.predicted_per_second, session->device());
  }
  return answer.interrupted ? static_cast<int>(kInterrupted) : static_cast<int>(kOk);
}

}  // namespace

int run_prompt(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (wants_help(arguments)) {
    fmt::print("{}", flags_help(kRun, kUsageLine, kAbout, kExamples));
    return kOk;
  }
  const auto options = parse_flags(
      arguments, kRun, [](const char* name) { return std::getenv(name); },
      [](const std::string& text) { fmt::print(stderr, "run: {}\n", text); });
  if (!options) {
    return report_error("run", options.error());
  }
  if (options->list_devices) {
    fmt::print("{}", list_devices());
    return kOk;
  }
  set_up_log(options->given.contains("--verbosity") || options->verbosity > 3 ? options->verbosity
                                                                              : kQuietLog);
  try {
    const Result<int> code = run(*options);
    return code ? *code : report_error("run", code.error());
  } catch (const model::DeviceError& error) {
    return report_error("run", {ErrorCode::device, error.what()});
  } catch (const std::exception& error) {
    return report_error("run", {ErrorCode::internal, error.what()});
  }
}

}  // namespace fl::apps
