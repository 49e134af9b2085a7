#include "apps/report/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include <fmt/format.h>

#include "client/server_process.h"

namespace fl::apps::report {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr int64_t kMaxChats = 256;

// Of a model trained for 128k tokens or more: 16k, 32k, 64k, 96k, 128k. A smaller one has the same parts, an
// eighth to the whole, of its own.
constexpr int64_t kUsualContext = 131072;
constexpr std::array<int64_t, 5> kEighths{1, 2, 4, 6, 8};
constexpr std::array<int64_t, 2> kQuickEighths{2, 8};
constexpr int64_t kQuickContext = 65536;
constexpr const char* kChats = "1,2,4";
constexpr const char* kDepths = "empty,half,full";
constexpr const char* kBudget = "20m";
constexpr int64_t kTokens = 128;
constexpr int64_t kPromptTokens = 512;
constexpr int64_t kTaskTokens = 2048;
// --quick: two minutes with the demo model on two cores.
constexpr const char* kQuickDepths = "empty,full";
constexpr const char* kQuickBudget = "100s";
constexpr int64_t kQuickTokens = 64;
constexpr int64_t kQuickPromptTokens = 256;
constexpr int64_t kQuickTaskTokens = 768;

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> out;
  size_t begin = 0;
  while (begin <= list.size()) {
    const size_t end = std::min(list.find(',', begin), list.size());
    out.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

Result<std::vector<int64_t>> default_contexts(int64_t ctx_train, bool quick) {
  const int64_t usual = quick ? kQuickContext : kUsualContext;
  const int64_t largest = ctx_train > 0 ? std::min(ctx_train, usual) : usual;
  std::set<int64_t> out;
  const auto add = [&](int64_t eighths) { out.insert(std::max<int64_t>(1, largest * eighths / 8)); };
  quick ? std::for_each(kQuickEighths.begin(), kQuickEighths.end(), add)
        : std::for_each(kEighths.begin(), kEighths.end(), add);
  return std::vector<int64_t>(out.begin(), out.end());
}

Result<std::vector<std::string>> parse_depths(const std::string& list) {
  const std::vector<std::string> words = split(list);
  std::vector<std::string> out;
  for (const char* known : {"empty", "half", "full"}) {
    if (std::find(words.begin(), words.end(), known) != words.end()) {
      out.emplace_back(known);
    }
  }
  for (const std::string& word : words) {
    if (std::find(out.begin(), out.end(), word) == out.end()) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("--depth: empty, half or full is expected, found '{}'", word));
    }
  }
  return out;
}

}  // namespace

Result<std::vector<int64_t>> parse_tokens(const std::string& list) {
  constexpr int64_t kKibi = 1024;
  std::set<int64_t> out;
  for (const std::string& word : split(list)) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    const std::string_view rest(end, static_cast<size_t>(word.data() + word.size() - end));
    const bool kibi = rest == "k" || rest == "K";
    if (error != std::errc() || (!rest.empty() && !kibi) || value <= 0 ||
        value > kMaxTokens / kKibi * (kibi ? 1 : kKibi)) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("a number like 32768 or 32k is expected, found '{}'", word));
    }
    out.insert(kibi ? value * kKibi : value);
  }
  return std::vector<int64_t>(out.begin(), out.end());
}

Result<double> parse_duration(const std::string& text) {
  if (text == "none" || text == "0") {
    return 0.0;
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  const double factor = unit.empty() || unit == "s"    ? 1
                        : unit == "m" || unit == "min" ? 60
                        : unit == "h"                  ? 3600
                                                       : 0;
  constexpr double kLongest = 30 * 24 * 3600.0;
  if (error != std::errc() || factor == 0 || !(value > 0) || value * factor > kLongest) {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format("--budget: a duration like 90s, 20m or 1h (or none) is expected, found '{}'", text));
  }
  return value * factor;
}

Result<fl::report::Options> run_options(const Flags& flags, const std::string& program, int64_t ctx_train) {
  fl::report::Options out;
  const auto or_else = [](const std::string& given, const char* fallback) {
    return given.empty() ? fallback : given;
  };
  const auto number = [](int64_t given, int64_t fallback) { return given > 0 ? given : fallback; };
  const bool quick = flags.quick;
  out.quick = quick;
  out.kind = !flags.url.empty() ? "url" : !flags.server_command.empty() ? "command" : "model";
  out.url = flags.url;
  out.model_name = flags.model_name;
  // A running server's context is its own, unless it is said.
  if (out.kind != "url" || !flags.ctx.empty()) {
    auto ctx = flags.ctx.empty() ? default_contexts(ctx_train, quick) : parse_tokens(flags.ctx);
    if (!ctx) {
      return fail(std::move(ctx.error()), "--ctx");
    }
    out.ctx = std::move(*ctx);
  }
  auto chats = parse_tokens(or_else(flags.chats, kChats));
  if (!chats || chats->back() > kMaxChats) {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format("--chats: numbers from 1 to {} are expected, found '{}'", kMaxChats, flags.chats));
  }
  out.chats = std::move(*chats);
  if (out.kind == "model" && ctx_train > 0 && out.ctx.front() / out.chats.back() > ctx_train) {
    return fail(
        ErrorCode::invalid_argument,
        fmt::format("--ctx: the model was trained for {} tokens; at most {} are expected for {} {}, found {}",
                    ctx_train, ctx_train * out.chats.back(), out.chats.back(),
                    out.chats.back() == 1 ? "chat" : "chats", out.ctx.front()));
  }
  FL_ASSIGN(out.depths, parse_depths(or_else(flags.depth, quick ? kQuickDepths : kDepths)));
  FL_ASSIGN(out.budget_seconds, parse_duration(or_else(flags.budget, quick ? kQuickBudget : kBudget)));
  out.repeats = flags.repeats;
  out.sample_seconds = flags.sample_seconds;
  out.tokens_per_request = number(flags.tokens, quick ? kQuickTokens : kTokens);
  out.prompt_tokens = number(flags.prompt_tokens, quick ? kQuickPromptTokens : kPromptTokens);
  out.tasks = flags.tasks;
  out.task_limit = flags.task_limit;
  out.task_tokens = number(flags.task_tokens, quick ? kQuickTaskTokens : kTaskTokens);
  out.thinking = flags.thinking;
  out.start_seconds = flags.start_timeout;
  out.request_seconds = flags.request_timeout;
  if (out.kind == "model") {
    out.command_template = client::join_command({program, "serve"}) +
                           " --model {model} --host 127.0.0.1 --port {port} " +
                           "--ctx-size {ctx} --parallel {chats}";
    if (!flags.server_args.empty()) {
      FL_ASSIGN(const std::vector<std::string> words, client::split_command(flags.server_args));
      out.command_template += " " + client::join_command(words);
    }
  } else if (out.kind == "command") {
    FL_ASSIGN(const std::vector<std::string> words, client::split_command(flags.server_command));
    out.command_template = client::join_command(words);
    for (const char* needed : {"{port}", "{chats}"}) {
      if (out.command_template.find(needed) == std::string::npos) {
        return fail(ErrorCode::invalid_argument, fmt::format("--server-cmd: {} is expected somewhere in '{}'",
                                                             needed, flags.server_command));
      }
    }
    if (out.command_template.find("{ctx}") == std::string::npos &&
        out.command_template.find("{window}") == std::string::npos) {
      return fail(
          ErrorCode::invalid_argument,
          fmt::format("--server-cmd: {{ctx}} (or {{window}}, of one chat) is expected somewhere in '{}'",
                      flags.server_command));
    }
  }
  return out;
}

}  // namespace fl::apps::report
