// The result of `freelunch eval code` as JSON and as text.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/eval/code.h"

namespace fl::apps::eval_code {
namespace {

using Json = nlohmann::ordered_json;

Json score_json(const eval::Score& score) {
  return {
      {"n_tasks", score.n_tasks},       {"n_samples", score.n_samples}, {"n_solved", score.solved},
      {"pass_at_1", score.pass_at_1},   {"low", score.interval.low},    {"high", score.interval.high},
      {"valid", score.valid()},         {"n_wrong", score.wrong},       {"n_raised", score.raised},
      {"n_timeout", score.timeouts},    {"n_other", score.other},       {"n_no_code", score.no_code},
      {"n_truncated", score.truncated}, {"n_failed", score.failed},     {"n_sandbox_failed", score.harness},
      {"n_not_run", score.not_run}};
}

Json self_check_json(const eval::SelfCheck& check) {
  return {{"n_tasks", check.n_tasks},
          {"solutions_passed", check.solutions_passed},
          {"broken_passed", check.broken_passed},
          {"ok", check.ok()},
          {"surprises", check.surprises}};
}

// Why an answer did not count, in a few words; empty: it passed.
std::string fate(const eval::Answer& answer) {
  if (answer.outcome == client::Outcome::truncated) {
    return "truncated: the token limit came first";
  }
  if (answer.outcome != client::Outcome::ok) {
    return fmt::format("no answer ({}): {}", client::outcome_name(answer.outcome), answer.error);
  }
  if (!answer.extracted) {
    return "no code in the answer";
  }
  if (answer.passed()) {
    return {};
  }
  return answer.detail.empty() ? std::string(eval::verdict_name(answer.verdict))
                               : fmt::format("{}: {}", eval::verdict_name(answer.verdict), answer.detail);
}

// What generated code said goes to a terminal: control characters do not.
std::string printable(std::string_view text, size_t limit) {
  std::string out;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  return out;
}

std::string self_check_text(const eval::SelfCheck& check) {
  std::string text =
      fmt::format("self-check: {} of {} published solutions pass, {} of {} broken ones pass: {}\n",
                  check.solutions_passed, check.n_tasks, check.broken_passed, check.n_tasks,
                  check.ok() ? "as it must be" : "WRONG");
  for (const std::string& surprise : check.surprises) {
    text += "  " + printable(surprise, 200) + "\n";
  }
  return text;
}

}  // namespace

std::string to_json(const Outcome& outcome, const Options& options) {
  Json json{
      {"tasks", {{"name", outcome.tasks}, {"sha256", outcome.tasks_sha256}, {"n_tasks", outcome.n_tasks}}}};
  if (outcome.self_check) {
    json["self_check"] = self_check_json(*outcome.self_check);
  }
  if (!options.self_check) {
    json["endpoint"] = {{"url", outcome.url}, {"model", outcome.model_name}, {"server", outcome.server}};
    json["settings"] = {{"mode", options.mode},
                        {"thinking", options.thinking.empty() ? "server" : options.thinking},
                        {"samples", options.n_samples},
                        {"temperature", options.temperature},
                        {"top_p", options.top_p},
                        {"seed", options.seed},
                        {"max_tokens", options.max_tokens},
                        {"parallel", options.n_parallel}};
    json["complete"] = outcome.complete;
    if (!outcome.stop_reason.empty()) {
      json["stop_reason"] = outcome.stop_reason;
    }
    json["score"] = score_json(outcome.score);
    Json& list = json["answers"] = Json::array();
    for (const eval::Answer& answer : outcome.answers) {
      list.push_back({{"task", answer.task},
                      {"sample", answer.sample},
                      {"passed", answer.passed()},
                      {"outcome", client::outcome_name(answer.outcome)},
                      {"extracted", answer.extracted},
                      {"verdict", eval::verdict_name(answer.verdict)},
                      {"detail", answer.outcome == client::Outcome::ok ? answer.detail : answer.error},
                      {"tokens", answer.n_tokens},
                      {"seconds", answer.seconds}});
    }
  }
  json["sandbox"] = outcome.sandbox;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string to_text(const Outcome& outcome, const Options& options) {
  std::string text = outcome.self_check ? self_check_text(*outcome.self_check) : "";
  if (options.self_check) {
    return text;
  }
  const eval::Score& score = outcome.score;
  text += fmt::format("{}, {} tasks, {} sample{} each, {} mode, {}\n", outcome.tasks, outcome.n_tasks,
                      options.n_samples, options.n_samples == 1 ? "" : "s", options.mode,
                      printable(outcome.model_name, 80));
  if (outcome.sandbox.empty()) {
    return text + fmt::format(
                      "{} answers kept, nothing was executed: `freelunch eval code --score --out {}` "
                      "scores them\n",
                      outcome.answers.size(), options.out);
  }
  text += fmt::format("solved {} of {}: pass@1 {:.1f} %, 95 % interval {:.1f} to {:.1f} %\n", score.solved,
                      score.n_samples, 100 * score.pass_at_1, 100 * score.interval.low,
                      100 * score.interval.high);
  for (const auto& [n, what] :
       {std::pair{score.wrong, "wrong"}, std::pair{score.raised, "raised an error, or no such function"},
        std::pair{score.timeouts, "ran out of CPU time"},
        std::pair{score.other, "killed or printed too much"}, std::pair{score.no_code, "answer without code"},
        std::pair{score.truncated, "answer cut at the token limit"},
        std::pair{score.failed, "request failed"}, std::pair{score.harness, "the sandbox failed"},
        std::pair{score.not_run, "not run"}}) {
    if (n > 0) {
      text += fmt::format("  {:>4}  {}\n", n, what);
    }
  }
  for (const eval::Answer& answer : outcome.answers) {
    if (const std::string why = fate(answer); !why.empty()) {
      text += fmt::format("  {}{}: {}\n", printable(answer.task, 60),
                          answer.sample > 0 ? fmt::format(" (sample {})", answer.sample) : "",
                          printable(why, 160));
    }
  }
  if (!outcome.complete) {
    text += fmt::format("not complete: {}\n", outcome.stop_reason);
  } else if (!score.valid()) {
    text += "not valid: more than 1 % of the samples have no verdict for reasons that are not the answer's\n";
  }
  return text;
}

}  // namespace fl::apps::eval_code
