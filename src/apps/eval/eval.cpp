// `freelunch eval`: how good a model's answers are.
#include <cstdio>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/eval/code.h"

namespace fl::apps {
namespace {

constexpr const char* kCodeExamples = R"(
Examples:
  freelunch eval code                                   the demo model on the 20 built-in tasks
  freelunch eval code --model model.gguf --tasks humaneval=HumanEval.jsonl.gz --limit 20
  freelunch eval code --url http://127.0.0.1:8080 --tasks humaneval=HumanEval.jsonl.gz --out answers --json
  freelunch eval code --tasks humaneval=HumanEval.jsonl.gz --self-check
  freelunch eval code --url http://127.0.0.1:8080 --answers-only --out answers     where no sandbox is possible
  freelunch eval code --score --out answers                                        and later where it is

HumanEval: HumanEval.jsonl.gz from the data folder of the repository openai/human-eval on GitHub; its hash is checked.
Generated code runs in a sandbox (bubblewrap, seccomp) or not at all: exit 8. More than 1 % of samples without a
verdict: exit 9. An interrupted run goes on where it stopped when it is started again with the same --out.)";

void add_code_options(CLI::App& app, eval_code::Options& options) {
  using CLI::PositiveNumber;
  app.footer(kCodeExamples);
  app.add_option("--tasks", options.tasks, "builtin, humaneval=FILE, or file=FILE in HumanEval's form")
      ->capture_default_str();
  app.add_option("--limit", options.limit, "Only the first N tasks")->check(PositiveNumber);
  CLI::Option* url = app.add_option("--url", options.url, "A running OpenAI-compatible server");
  app.add_option("-m,--model", options.model, "GGUF file: our server is started for it")->excludes(url);
  app.add_option("--api-key", options.api_key, "Key of the server")->envname("FREELUNCH_API_KEY");
  app.add_option("--model-name", options.model_name,
                 "Name sent with each request (default: the first listed)");
  app.add_option("--mode", options.mode, "chat: a question; completion: the stub to be continued")
      ->check(CLI::IsMember({"chat", "completion"}))
      ->capture_default_str();
  app.add_option("--thinking", options.thinking, "Reasoning before the answer (default: the server's)")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--samples", options.n_samples, "Answers for each task")->check(CLI::Range(1, 1000));
  app.add_option("--temp,--temperature", options.temperature, "Sampling temperature (0: greedy)")
      ->check(CLI::Range(0.0, 10.0));
  app.add_option("--top-p", options.top_p, "Nucleus")->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", options.seed, "Of the first sample; the next ones count up");
  app.add_option("--max-tokens", options.max_tokens, "Of one answer, reasoning included")
      ->check(PositiveNumber);
  app.add_option("--parallel", options.n_parallel, "Questions at once")->check(CLI::Range(1, 256));
  app.add_option("--ctx-size", options.ctx_size, "Tokens of one chat of a server that we start")
      ->check(PositiveNumber);
  app.add_option("--timeout", options.timeout_seconds, "Seconds for one answer")->check(PositiveNumber);
  CLI::Option* out =
      app.add_option("--out", options.out, "Folder for answers and result; a run that stopped resumes there");
  CLI::Option* check = app.add_flag("--self-check", options.self_check,
                                    "Only: every published solution passes, every broken one fails");
  CLI::Option* only = app.add_flag("--answers-only", options.answers_only,
                                   "Keep the answers and execute nothing: needs no sandbox")
                          ->needs(out)
                          ->excludes(check);
  app.add_flag("--score", options.score, "Execute the answers kept in --out; asks no server")
      ->needs(out)
      ->excludes(only)
      ->excludes(check)
      ->excludes(url);
  app.add_flag("--json", options.json, "One JSON document");
  app.add_flag("-q,--quiet", options.quiet, "No progress");
}

}  // namespace

int run_eval(int argc, char** argv) {
  CLI::App app{"How good a model's answers are", "freelunch eval"};
  app.require_subcommand(1);
  app.footer(kCodeExamples);
  eval_code::Options options;
  CLI::App* code = app.add_subcommand("code", "Coding tasks: pass@1 with its uncertainty");
  add_code_options(*code, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  const Result<int> exit_code = eval_code::run(options);
  return exit_code ? *exit_code : report_error("eval code", exit_code.error());
}

}  // namespace fl::apps
