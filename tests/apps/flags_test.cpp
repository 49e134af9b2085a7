// The table of flags: what every row promises holds for every row.
#include <fstream>
#include <iterator>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/flags/flags.h"

namespace fl::apps {
namespace {

using testing::HasSubstr;

constexpr uint32_t kCommands[] = {kServe, kRun, kChat, kPlan};

struct Parsed {
  Result<Options> options;
  std::vector<std::string> warnings;
};

Parsed parse(const std::vector<std::string>& arguments, uint32_t command = kServe,
             const std::map<std::string, std::string>& environment = {}) {
  Parsed out{fail(ErrorCode::internal, "not parsed"), {}};
  out.options = parse_flags(
      arguments, command,
      [&](const char* name) -> const char* {
        const auto found = environment.find(name);
        return found == environment.end() ? nullptr : found->second.c_str();
      },
      [&](const std::string& text) { out.warnings.push_back(text); });
  return out;
}

/// A value that the row says is good.
std::string good_value(const Flag& flag) {
  switch (flag.kind) {
    case Kind::toggle:
      return "";
    case Kind::on_off:
    case Kind::on_auto:
      return "on";
    case Kind::choice:
      return std::string(flag.words.substr(0, flag.words.find('|')));
    case Kind::integer:
    case Kind::real:
      break;
    case Kind::text:
      if (flag.value == "SIZE") {
        return "24GiB";
      }
      return flag.fallback.empty() || flag.read == nullptr ? "text" : std::string(flag.fallback);
  }
  // The default where it is a number, else the least: some rows allow no other value.
  const std::string fallback(flag.fallback);
  return !fallback.empty() && fallback.find_first_not_of("-.0123456789") == std::string::npos
             ? fallback
             : std::to_string(static_cast<int64_t>(flag.least));
}

std::vector<std::string> line_of(std::string_view name, const Flag& flag, const std::string& value) {
  std::vector<std::string> line{std::string(name)};
  if (flag.kind != Kind::toggle) {
    line.push_back(value);
  }
  return line;
}

TEST(Flags, EveryNameIsUniqueInItsCommand) {
  for (const uint32_t command : kCommands) {
    std::map<std::string_view, int> names;
    std::map<std::string_view, int> variables;
    for (const Flag& flag : all_flags()) {
      if ((flag.commands & command) == 0) {
        continue;
      }
      for (std::string_view list : {flag.names, flag.negatives}) {
        for (std::string_view name : split_names(list)) {
          EXPECT_EQ(names[name]++, 0) << name;
          EXPECT_TRUE(name.starts_with("-")) << name;
        }
      }
      if (!flag.env.empty()) {
        EXPECT_EQ(variables[flag.env]++, 0) << flag.env;
      }
    }
  }
}

TEST(Flags, EveryRowIsWhole) {
  for (const Flag& flag : all_flags()) {
    SCOPED_TRACE(flag_name(flag));
    EXPECT_FALSE(flag.doc.empty());
    EXPECT_TRUE(flag.priority >= 'A' && flag.priority <= 'C');
    EXPECT_EQ(flag.support == Support::built, (flag.set != nullptr) != (flag.read != nullptr));
    EXPECT_EQ(flag.kind == Kind::toggle, flag.value.empty());
    if (flag.kind == Kind::integer || flag.kind == Kind::real) {
      EXPECT_LT(flag.least, flag.most);
    }
  }
}

TEST(Flags, EveryNameOfEveryBuiltFlagParses) {
  for (const uint32_t command : kCommands) {
    for (const Flag& flag : all_flags()) {
      if ((flag.commands & command) == 0 || flag.support != Support::built) {
        continue;
      }
      for (std::string_view name : split_names(flag.names)) {
        const Parsed parsed = parse(line_of(name, flag, good_value(flag)), command);
        ASSERT_TRUE(parsed.options) << name << ": " << parsed.options.error().message;
        EXPECT_TRUE(parsed.options->given.contains(flag_name(flag))) << name;
        EXPECT_TRUE(parsed.warnings.empty()) << name;
      }
      for (std::string_view name : split_names(flag.negatives)) {
        const Parsed parsed = parse({std::string(name)}, command);
        if (!parsed.options) {  // off is not built: said by name
          EXPECT_EQ(parsed.options.error().code, ErrorCode::unsupported) << name;
          EXPECT_THAT(parsed.options.error().message, HasSubstr(std::string(name)));
        }
      }
    }
  }
}

TEST(Flags, EveryVariableSaysWhatItsFlagSays) {
  for (const Flag& flag : all_flags()) {
    if ((flag.commands & kServe) == 0 || flag.support != Support::built || flag.env.empty()) {
      continue;
    }
    const std::string value = flag.kind == Kind::toggle ? "true" : good_value(flag);
    const Parsed parsed = parse({}, kServe, {{std::string(flag.env), value}});
    ASSERT_TRUE(parsed.options) << flag.env << ": " << parsed.options.error().message;
    EXPECT_TRUE(parsed.options->given.contains(flag_name(flag))) << flag.env;
    // Over a variable the line wins, and says so.
    const Parsed both =
        parse(line_of(flag_name(flag), flag, good_value(flag)), kServe, {{std::string(flag.env), value}});
    ASSERT_TRUE(both.options);
    ASSERT_EQ(both.warnings.size(), 1U) << flag.env;
    EXPECT_THAT(both.warnings[0], HasSubstr(std::string(flag.env)));
  }
}

TEST(Flags, NumbersOutOfRangeAreRefusedByName) {
  for (const Flag& flag : all_flags()) {
    if (flag.kind != Kind::integer && flag.kind != Kind::real) {
      continue;
    }
    std::vector<std::string> wrong{"nan", "", "1x", "seven", "1e400", "99999999999999999999"};
    wrong.push_back(std::to_string(static_cast<int64_t>(flag.most) + 1));
    wrong.push_back(std::to_string(static_cast<int64_t>(flag.least) - 1));
    for (const std::string& value : wrong) {
      const std::string name(flag_name(flag));
      const uint32_t command = (flag.commands & kServe) != 0 ? kServe : flag.commands;
      bool word = false;
      for (const std::string_view known : {"-1=", "-2="}) {
        word |= flag.words.find(std::string(known)) != std::string_view::npos && value + "=" == known;
      }
      if (word) {
        continue;
      }
      const Parsed parsed = parse({name, value}, command);
      ASSERT_FALSE(parsed.options) << name << " " << value;
      EXPECT_EQ(parsed.options.error().code, ErrorCode::invalid_argument) << name << " " << value;
      EXPECT_THAT(parsed.options.error().message, HasSubstr(name));
      EXPECT_THAT(parsed.options.error().message, HasSubstr("'" + value + "'"));
    }
  }
}

TEST(Flags, WordsOutsideAChoiceAreRefusedByName) {
  for (const Flag& flag : all_flags()) {
    if (flag.support != Support::built ||
        (flag.kind != Kind::choice && flag.kind != Kind::on_off && flag.kind != Kind::on_auto)) {
      continue;
    }
    const std::string name(flag_name(flag));
    const Parsed parsed = parse({name, "perhaps"}, flag.commands);
    ASSERT_FALSE(parsed.options) << name;
    EXPECT_THAT(parsed.options.error().message, HasSubstr(name));
    EXPECT_THAT(parsed.options.error().message, HasSubstr("'perhaps'"));
  }
}

TEST(Flags, WhatIsNotBuiltIsRefusedByNameOnTheLineAndInTheEnvironment) {
  int refused = 0;
  for (const Flag& flag : all_flags()) {
    if (flag.support != Support::refused) {
      continue;
    }
    ++refused;
    for (std::string_view list : {flag.names, flag.negatives}) {
      for (std::string_view name : split_names(list)) {
        const Parsed parsed = parse(line_of(name, flag, "1"), kServe);
        ASSERT_FALSE(parsed.options) << name;
        EXPECT_EQ(parsed.options.error().code, ErrorCode::unsupported);
        EXPECT_THAT(parsed.options.error().message, HasSubstr(std::string(name)));
      }
    }
    if (!flag.env.empty()) {
      const Parsed parsed = parse({}, kServe, {{std::string(flag.env), "1"}});
      ASSERT_FALSE(parsed.options) << flag.env;
      EXPECT_THAT(parsed.options.error().message, HasSubstr(std::string(flag.env)));
    }
  }
  EXPECT_GT(refused, 20);
}

TEST(Flags, FlagsWithoutEffectWarnAndSwallowTheirValue) {
  for (const Flag& flag : all_flags()) {
    if (flag.support != Support::no_effect) {
      continue;
    }
    std::vector<std::string> line = line_of(flag_name(flag), flag, "1");
    line.insert(line.end(), {"--port", "99"});
    const Parsed parsed = parse(line);
    ASSERT_TRUE(parsed.options) << flag_name(flag);
    EXPECT_EQ(parsed.options->server.port, 99);
    ASSERT_EQ(parsed.warnings.size(), 1U);
    EXPECT_THAT(parsed.warnings[0], HasSubstr(std::string(flag_name(flag))));
  }
}

// Every flag of priority A and B of llama-server, by one of its names.
TEST(Flags, EveryCommonFlagOfLlamaServerIsKnown) {
  for (const std::string_view name : {"-m",
                                      "-mm",
                                      "-ngl",
                                      "-c",
                                      "-fa",
                                      "-ctk",
                                      "-ctv",
                                      "-np",
                                      "--host",
                                      "--port",
                                      "-a",
                                      "--metrics",
                                      "--jinja",
                                      "-rea",
                                      "--reasoning-format",
                                      "--temp",
                                      "--top-k",
                                      "--top-p",
                                      "--min-p",
                                      "--repeat-penalty",
                                      "--mmproj-offload",
                                      "--image-min-tokens",
                                      "--image-max-tokens",
                                      "-b",
                                      "-ub",
                                      "-t",
                                      "-tb",
                                      "-lm",
                                      "--mmap",
                                      "--no-mmap",
                                      "--mlock",
                                      "-dio",
                                      "-fit",
                                      "-fitt",
                                      "-fitc",
                                      "-dev",
                                      "--list-devices",
                                      "--no-warmup",
                                      "-kvu",
                                      "-no-kvu",
                                      "--kv-unified-per-slot",
                                      "-cb",
                                      "-nocb",
                                      "--no-cache-prompt",
                                      "--cache-reuse",
                                      "-ctxcp",
                                      "-cms",
                                      "-cram",
                                      "--cache-idle-slots",
                                      "--context-shift",
                                      "-sps",
                                      "--slot-save-path",
                                      "--spec-type",
                                      "--spec-draft-n-max",
                                      "--spec-draft-n-min",
                                      "--spec-draft-p-min",
                                      "-ctkd",
                                      "-ctvd",
                                      "--no-slots",
                                      "--api-key",
                                      "--api-key-file",
                                      "-to",
                                      "--threads-http",
                                      "--sse-ping-interval",
                                      "--no-ui",
                                      "--no-webui",
                                      "--cors-origins",
                                      "--cors-methods",
                                      "--cors-headers",
                                      "--no-cors-credentials",
                                      "-v",
                                      "-lv",
                                      "--reasoning-budget",
                                      "--reasoning-budget-message",
                                      "--no-reasoning-preserve",
                                      "--chat-template",
                                      "--chat-template-file",
                                      "--chat-template-kwargs",
                                      "--no-prefill-assistant",
                                      "-n",
                                      "--repeat-last-n",
                                      "--presence-penalty",
                                      "--frequency-penalty",
                                      "-s"}) {
    bool negative = false;
    EXPECT_NE(find_flag(name, kServe, negative), nullptr) << name;
  }
}

TEST(Flags, TheUsersCommandLine) {
  const Parsed parsed = parse({"--model",
                               "X.gguf",
                               "--mmproj",
                               "M.gguf",
                               "--alias",
                               "qwen35",
                               "--host",
                               "0.0.0.0",
                               "--port",
                               "10003",
                               "--n-gpu-layers",
                               "999",
                               "--ctx-size",
                               "32768",
                               "--parallel",
                               "1",
                               "--jinja",
                               "--reasoning",
                               "on",
                               "--reasoning-format",
                               "none",
                               "--temp",
                               "0.6",
                               "--top-p",
                               "0.95",
                               "--top-k",
                               "20",
                               "--min-p",
                               "0.0",
                               "--repeat-penalty",
                               "1.0",
                               "--cache-type-k",
                               "q8_0",
                               "--cache-type-v",
                               "q8_0",
                               "--flash-attn",
                               "on",
                               "--metrics"});
  ASSERT_TRUE(parsed.options) << parsed.options.error().message;
  EXPECT_TRUE(parsed.warnings.empty());
  const Options& o = *parsed.options;
  EXPECT_EQ(o.model, "X.gguf");
  EXPECT_EQ(o.mmproj, "M.gguf");
  EXPECT_EQ(o.server.aliases, std::vector<std::string>{"qwen35"});
  EXPECT_EQ(o.server.hosts, std::vector<std::string>{"0.0.0.0"});
  EXPECT_EQ(o.server.port, 10003);
  EXPECT_EQ(o.n_gpu_layers, 999);
  EXPECT_EQ(o.ctx_size, 32768);
  EXPECT_EQ(o.parallel, 1);
  EXPECT_TRUE(o.server.defaults.jinja);
  EXPECT_EQ(o.server.defaults.reasoning, server::Reasoning::on);
  EXPECT_EQ(o.server.defaults.reasoning_format, chat::ReasoningFormat::none);
  EXPECT_FLOAT_EQ(o.server.defaults.sampling.temperature, 0.6F);
  EXPECT_FLOAT_EQ(o.server.defaults.sampling.top_p, 0.95F);
  EXPECT_EQ(o.server.defaults.sampling.top_k, 20);
  EXPECT_FLOAT_EQ(o.server.defaults.sampling.min_p, 0.0F);
  EXPECT_FLOAT_EQ(o.server.defaults.sampling.repeat_penalty, 1.0F);
  EXPECT_EQ(o.cache_type_k, DType::q8_0);
  EXPECT_EQ(o.cache_type_v, DType::q8_0);
  EXPECT_TRUE(o.server.metrics);
}

TEST(Flags, Spellings) {
  EXPECT_EQ(parse({"--top_k", "7"}).options->server.defaults.sampling.top_k, 7);
  EXPECT_EQ(parse({"--top-k=7"}).options->server.defaults.sampling.top_k, 7);
  EXPECT_EQ(parse({"-ngl", "all"}).options->n_gpu_layers, kAllLayers);
  EXPECT_EQ(parse({"-s", "-1"}).options->server.defaults.sampling.seed, 0xFFFFFFFFU);
  EXPECT_EQ(parse({"--temp", "-3"}).options->server.defaults.sampling.temperature, 0.0F);
  EXPECT_EQ(parse({"--no-jinja"}).options->server.defaults.jinja, false);
  EXPECT_EQ(parse({"--alias", "a,b", "--alias", "\"c,d\""}).options->server.aliases,
            (std::vector<std::string>{"a", "b", "c,d"}));
  EXPECT_EQ(parse({"-fa", "on"}).options.has_value(), true);
  EXPECT_EQ(parse({"-fa", "off"}).options.error().code, ErrorCode::unsupported);
}

TEST(Flags, EnvironmentForms) {
  EXPECT_FALSE(parse({}, kServe, {{"LLAMA_ARG_NO_JINJA", ""}}).options->server.defaults.jinja);
  EXPECT_FALSE(parse({}, kServe, {{"LLAMA_ARG_JINJA", "off"}}).options->server.defaults.jinja);
  EXPECT_TRUE(parse({}, kServe, {{"LLAMA_ARG_ENDPOINT_METRICS", "1"}}).options->server.metrics);
  EXPECT_FALSE(parse({}, kServe, {{"LLAMA_ARG_ENDPOINT_METRICS", "0"}}).options->server.metrics);
  const Parsed wrong = parse({}, kServe, {{"LLAMA_ARG_PORT", "http"}});
  ASSERT_FALSE(wrong.options);
  EXPECT_THAT(wrong.options.error().message, HasSubstr("LLAMA_ARG_PORT"));
}

TEST(Flags, MistakesOfTheLine) {
  const Parsed unknown = parse({"--ctx-sise", "5"});
  ASSERT_FALSE(unknown.options);
  EXPECT_THAT(unknown.options.error().message, HasSubstr("--ctx-size"));
  const Parsed missing = parse({"--port"});
  ASSERT_FALSE(missing.options);
  EXPECT_THAT(missing.options.error().message, HasSubstr("end of the command line"));
  EXPECT_FALSE(parse({"--metrics=yes"}).options);
  EXPECT_FALSE(parse({"hello"}).options);
  EXPECT_FALSE(parse({"--prompt", "x"}, kServe).options) << "a flag of `run`";
  const Parsed twice = parse({"--port", "1", "--port", "2"});
  ASSERT_TRUE(twice.options);
  EXPECT_EQ(twice.options->server.port, 2);
  EXPECT_EQ(twice.warnings.size(), 1U);
}

TEST(Flags, Sizes) {
  EXPECT_EQ(parse_bytes("24GiB").value(), 24ULL << 30);
  EXPECT_EQ(parse_bytes("1.5 MiB").value(), 1572864U);
  EXPECT_EQ(parse_bytes("16GB").value(), 16000000000U);
  for (const char* wrong : {"", "GiB", "-1GiB", "24 parsecs", "1e40", "0"}) {
    EXPECT_FALSE(parse_bytes(wrong)) << wrong;
  }
}

TEST(Flags, TheDocumentIsTheTable) {
  std::ifstream file(FL_SOURCE_DIR "/docs/flags.md");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(text, flags_markdown()) << "run: freelunch serve --help-markdown > docs/flags.md";
}

TEST(Flags, HelpNamesEveryBuiltFlag) {
  for (const uint32_t command : kCommands) {
    const std::string help = flags_help(command, "usage", "about", "examples");
    for (const Flag& flag : all_flags()) {
      if ((flag.commands & command) != 0 && flag.support == Support::built) {
        EXPECT_THAT(help, HasSubstr(std::string(flag_name(flag))));
      }
    }
  }
}

}  // namespace
}  // namespace fl::apps
