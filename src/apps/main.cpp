// `freelunch <command> ...`. Called through a link named llama-server it behaves as `freelunch serve`.
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "apps/command.h"

namespace {

using fl::apps::Command;

// A command is listed here once its file exists.
constexpr auto kCommands = std::to_array<Command>({
    {"serve", "answer over HTTP: the OpenAI API and llama-server's routes", fl::apps::run_serve},
    {"run", "one prompt in, text out", fl::apps::run_prompt},
    {"chat", "talk in the terminal", fl::apps::run_chat},
    {"inspect", "what is in a GGUF file", fl::apps::run_inspect},
    {"plan", "where every MiB goes, and what fits", fl::apps::run_plan},
    {"bench", "how fast a model's steps are, and how far from the machine's limit", fl::apps::run_bench},
    {"report", "how well this machine runs a model: the measured matrix", fl::apps::run_report},
    {"eval", "how good a model's answers are: coding tasks", fl::apps::run_eval},
    {"tokenize", "the token ids of a text", fl::apps::run_tokenize},
    {"convert", "a Hugging Face checkpoint to GGUF", fl::apps::run_convert},
    {"quantize", "a GGUF file to another type", fl::apps::run_quantize},
    {"synth", "a model of a published size with random weights", fl::apps::run_synth},
});

void print_help(std::FILE* out) {
  fmt::print(out, "freelunch: Qwen3.5 on one GPU or on the CPU\n\nusage: freelunch <command> [options]\n\n");
  for (const Command& command : kCommands) {
    fmt::print(out, "  {:<10} {}\n", command.name, command.summary);
  }
  fmt::print(out, "\n`freelunch <command> --help` shows the options and examples of a command.\n");
}

// What a command leaves to the end: its exceptions (of a library, or no memory), and whether its results
// arrived.
int run(const Command& command, int argc, char** argv) {
  int code = fl::apps::kFailure;
  try {
    code = command.run(argc, argv);
  } catch (const std::exception& error) {
    return fl::apps::report_error(command.name, {fl::ErrorCode::internal, error.what()});
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return fl::apps::report_error(
        command.name, {fl::ErrorCode::io, fmt::format("cannot write the results: {}", std::strerror(errno))});
  }
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 0 && std::filesystem::path(argv[0]).filename() == "llama-server") {
    return run({"serve", "", fl::apps::run_serve}, argc, argv);
  }
  if (argc < 2) {
    print_help(stderr);
    return fl::apps::kUsage;
  }
  const std::string_view word = argv[1];
  if (word == "--help" || word == "-h" || word == "help") {
    print_help(stdout);
    return fl::apps::kOk;
  }
  if (word == "--version" || word == "version") {
    fmt::print("freelunch {}\n", FREELUNCH_VERSION);
    return fl::apps::kOk;
  }
  for (const Command& command : kCommands) {
    if (command.name == word) {
      return run(command, argc - 1, argv + 1);
    }
  }
  fmt::print(stderr, "freelunch: unknown command '{}'\n\n", word);
  print_help(stderr);
  return fl::apps::kUsage;
}
