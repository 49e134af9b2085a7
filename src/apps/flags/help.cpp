// The table as text: --help of a command and docs/flags.md.
#include <fmt/format.h>

#include "apps/flags/flags.h"

namespace fl::apps {
namespace {

constexpr size_t kNameWidth = 34;
constexpr size_t kLineWidth = 110;

struct GroupName {
  Group group;
  std::string_view name;
};
constexpr GroupName kGroups[] = {{Group::output, "Input and output"},
                                 {Group::model, "Model and devices"},
                                 {Group::context, "Context, slots and caches"},
                                 {Group::chat, "Chat and reasoning"},
                                 {Group::sampling, "Sampling"},
                                 {Group::speculation, "Speculative decoding"},
                                 {Group::http, "HTTP"},
                                 {Group::log, "Log"}};

std::string value_text(const Flag& flag) {
  if (flag.kind == Kind::choice) {
    return std::string(flag.words);
  }
  return std::string(flag.value);
}

std::string joined(const Flag& flag, std::string_view separator) {
  std::string text;
  for (std::string_view list : {flag.names, flag.negatives}) {
    for (std::string_view name : split_names(list)) {
      text += text.empty() ? "" : separator;
      text += name;
    }
  }
  return text;
}

// Words of `text` from column `indent` on, at most kLineWidth columns.
std::string wrapped(std::string_view text, size_t indent) {
  std::string out;
  size_t column = indent;
  while (!text.empty()) {
    const size_t end = text.find(' ');
    const std::string_view word = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (column > indent && column + 1 + word.size() > kLineWidth) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  }
  return out;
}

std::string range_text(const Flag& flag) {
  switch (flag.kind) {
    case Kind::toggle:
    case Kind::text:
      return "";
    case Kind::on_off:
      return "on, off";
    case Kind::on_auto:
      return "on, off, auto";
    case Kind::choice: {
      std::string words;
      for (const char c : flag.words) {
        words += c == '|' ? std::string(", ") : std::string(1, c);
      }
      return words;
    }
    case Kind::integer:
    case Kind::real: {
      std::string text = fmt::format("{} to {}", flag.least, flag.most);
      for (size_t at = 0; at < flag.words.size();) {
        const size_t end = std::min(flag.words.find('|', at), flag.words.size());
        text += fmt::format(", {}", flag.words.substr(at, flag.words.substr(at).find('=')));
        at = end + 1;
      }
      return text;
    }
  }
  return "";
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') {
      out += '\\';
    }
    out += c;
  }
  return out;
}

std::string commands_text(const Flag& flag) {
  std::string text;
  for (const auto& [bit, name] :
       {std::pair{kServe, "serve"}, {kRun, "run"}, {kChat, "chat"}, {kPlan, "plan"}}) {
    if ((flag.commands & bit) != 0) {
      text += text.empty() ? "" : ", ";
      text += name;
    }
  }
  return text;
}

}  // namespace

std::string flags_help(uint32_t command, std::string_view usage, std::string_view about,
                       std::string_view examples) {
  std::string text = fmt::format("{}\n\nusage: {}\n\n{}\n", about, usage, examples);
  for (const GroupName& group : kGroups) {
    std::string lines;
    for (const Flag& flag : all_flags()) {
      if (flag.group != group.group || (flag.commands & command) == 0 || flag.support != Support::built) {
        continue;
      }
      std::string head = joined(flag, ", ");
      if (flag.kind != Kind::toggle) {
        head += ' ' + value_text(flag);
      }
      std::string doc(flag.doc);
      if (!flag.fallback.empty()) {
        doc += fmt::format(" (default: {})", flag.fallback);
      }
      if (!flag.env.empty()) {
        doc += fmt::format(" [{}]", flag.env);
      }
      const std::string gap = head.size() + 4 <= kNameWidth ? std::string(kNameWidth - head.size() - 2, ' ')
                                                            : '\n' + std::string(kNameWidth, ' ');
      lines += fmt::format("  {}{}{}\n", head, gap, wrapped(doc, kNameWidth));
    }
    if (!lines.empty()) {
      text += fmt::format("\n{}:\n{}", group.name, lines);
    }
  }
  return text;
}

std::string flags_markdown() {
  std::string text =
      "# Flags\n\n"
      "Made from the table in `src/apps/flags` by `freelunch serve --help-markdown`; a test keeps the two "
      "equal.\n\n"
      "Names, variables and defaults are llama-server's. The command line goes over the environment; of a "
      "flag "
      "given twice the last one counts, except where values add up. A value is the next word (`--ctx-size "
      "4096`) "
      "or follows an equals sign (`--ctx-size=4096`); in long names `_` is `-`. A variable is read as its "
      "flag's "
      "value; for a flag without a value it counts when it is on, enabled, true or 1, and where there is a "
      "negative form, `LLAMA_ARG_NO_...` means off by being set.\n\n"
      "`freelunch chat`, `run` and `plan` take the flags whose row says so; every command has `--help`.\n";
  for (const GroupName& group : kGroups) {
    std::string rows;
    for (const Flag& flag : all_flags()) {
      if (flag.group != group.group || flag.support != Support::built) {
        continue;
      }
      rows += fmt::format("| `{}` | {} | {} | {} | {} | {} |\n", joined(flag, "`, `"),
                          flag.env.empty() ? std::string() : fmt::format("`{}`", flag.env),
                          escaped(range_text(flag)), escaped(flag.fallback), commands_text(flag),
                          escaped(flag.doc));
    }
    if (!rows.empty()) {
      text += fmt::format(
          "\n## {}\n\n| flag | variable | values | default | commands | what it does "
          "|\n|---|---|---|---|---|---|\n{}",
          group.name, rows);
    }
  }
  for (const auto& [support, title] :
       {std::pair{Support::refused, "Known and not built: refused by name (exit code 2)"},
        {Support::no_effect, "Accepted with a warning: nothing would change here"}}) {
    text += fmt::format("\n## {}\n\n| flag | variable | why |\n|---|---|---|\n", title);
    for (const Flag& flag : all_flags()) {
      if (flag.support == support) {
        text +=
            fmt::format("| `{}` | {} | {} |\n", joined(flag, "`, `"),
                        flag.env.empty() ? std::string() : fmt::format("`{}`", flag.env), escaped(flag.doc));
      }
    }
  }
  return text;
}

}  // namespace fl::apps
