// `freelunch tokenize`: the ids of a text.
#include <cstdio>
#include <iostream>
#include <iterator>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "gguf/gguf.h"
#include "tokenizer/tokenizer.h"

namespace fl::apps {
namespace {

constexpr const char* kExamples = R"(
Examples:
  freelunch tokenize --model model.gguf "Hello world"
  freelunch tokenize --model vocab.gguf --stdin --json < text.txt
  freelunch tokenize --model model.gguf --no-parse-special "<|im_end|>"   as ordinary characters)";

struct Options {
  std::string model;
  std::string text;
  bool from_stdin = false;
  bool json = false;
  bool ids = false;
  bool parse_special = true;
  bool count = false;
};

Status run(const Options& options) {
  FL_ASSIGN(const gguf::File file, gguf::File::open(options.model));
  FL_ASSIGN(const tokenizer::Tokenizer tokenizer, tokenizer::Tokenizer::from_gguf(file));
  std::string text = options.text;
  if (options.from_stdin) {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  const auto special = options.parse_special ? tokenizer::Special::parse : tokenizer::Special::plain;
  const std::vector<int32_t> ids = tokenizer.encode(text, special);
  if (options.json || options.ids) {
    fmt::print("[{}]\n", fmt::join(ids, options.json ? "," : ", "));
  } else {
    for (int32_t id : ids) {
      const nlohmann::json piece = std::string(tokenizer.piece(id));
      fmt::print("{:>7} -> {}\n", id, piece.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
  }
  if (options.count) {
    fmt::print("Total number of tokens: {}\n", ids.size());
  }
  return {};
}

}  // namespace

int run_tokenize(int argc, char** argv) {
  Options options;
  CLI::App app{"Shows the tokens of a text", "freelunch tokenize"};
  app.footer(kExamples);
  app.add_option("-m,--model", options.model, "GGUF file with a vocabulary (vocabulary-only files too)")
      ->required();
  CLI::Option* text = app.add_option("-p,--prompt,TEXT", options.text, "The text");
  app.add_flag("--stdin", options.from_stdin, "Read the text from standard input")->excludes(text);
  app.add_flag("--json", options.json, "Only the ids, as a JSON list");
  app.add_flag("--ids", options.ids, "Only the ids");
  app.add_flag("--parse-special,!--no-parse-special", options.parse_special,
               "Take special tokens in the text as such (default)");
  app.add_flag("--show-count", options.count, "The number of tokens, too");
  try {
    app.parse(argc, argv);
    if (!options.from_stdin && text->count() == 0) {
      throw CLI::RequiredError("TEXT or --stdin");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  const Status status = run(options);
  return status ? kOk : report_error("tokenize", status.error());
}

}  // namespace fl::apps
