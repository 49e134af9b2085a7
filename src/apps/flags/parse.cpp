// The command line and the environment, read by the table.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include <fmt/format.h>

#include "apps/flags/flags.h"

namespace fl::apps {
namespace {

constexpr size_t kSuggestionDistance = 3;

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

bool is_true(std::string_view text) {
  return is_one_of(text, {"on", "enabled", "true", "1"});
}
bool is_false(std::string_view text) {
  return is_one_of(text, {"off", "disabled", "false", "0"});
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    text = at == std::string_view::npos ? std::string_view() : text.substr(at + 1);
  }
  return parts;
}

std::string number_text(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? fmt::format("{}", static_cast<int64_t>(value))
                                                              : fmt::format("{}", value);
}

std::string expectation(const Flag& flag) {
  switch (flag.kind) {
    case Kind::toggle:
      return "no value";
    case Kind::on_off:
      return "on or off";
    case Kind::on_auto:
      return "on, off or auto";
    case Kind::choice: {
      return fmt::format("one of {}", fmt::join(split(flag.words, '|'), ", "));
    }
    case Kind::integer:
    case Kind::real: {
      std::string text =
          fmt::format("{} from {} to {}", flag.kind == Kind::integer ? "an integer" : "a number",
                      number_text(flag.least), number_text(flag.most));
      for (std::string_view word : split(flag.words, '|')) {
        text += fmt::format(", or {}", word.substr(0, word.find('=')));
      }
      return text;
    }
    case Kind::text:
      return "a value";
  }
  return "a value";
}

tl::unexpected<Error> bad_value(const Flag& flag, std::string_view where, std::string_view found) {
  return fail(ErrorCode::invalid_argument,
              fmt::format("{}: expected {}, found '{}'", where, expectation(flag), found));
}

// A number without anything behind it; from_chars knows no leading '+'.
template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  if (text.starts_with('+')) {
    text.remove_prefix(1);
  }
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

Result<FlagValue> parse_value(const Flag& flag, std::string_view where, std::string_view text) {
  FlagValue value;
  value.text = text;
  switch (flag.kind) {
    case Kind::toggle:
    case Kind::text:
      return value;
    case Kind::on_off:
    case Kind::on_auto:
      if (is_true(text)) {
        value.integer = 1;
      } else if (is_false(text)) {
        value.integer = 0;
      } else if (flag.kind == Kind::on_auto && is_one_of(text, {"auto", "-1"})) {
        value.integer = -1;
      } else {
        return bad_value(flag, where, text);
      }
      return value;
    case Kind::choice:
      for (std::string_view word : split(flag.words, '|')) {
        if (word == text) {
          return value;
        }
      }
      return bad_value(flag, where, text);
    case Kind::integer: {
      for (std::string_view word : split(flag.words, '|')) {
        const size_t equals = word.find('=');
        if (word.substr(0, equals) == text) {
          value.integer = parse_number<int64_t>(word.substr(equals + 1)).value_or(0);
          return value;
        }
      }
      const std::optional<int64_t> number = parse_number<int64_t>(text);
      if (!number || static_cast<double>(*number) < flag.least || static_cast<double>(*number) > flag.most) {
        return bad_value(flag, where, text);
      }
      value.integer = *number;
      return value;
    }
    case Kind::real: {
      const std::optional<double> number = parse_number<double>(text);
      // Written so that NaN fails.
      if (!number || !(*number >= flag.least && *number <= flag.most)) {
        return bad_value(flag, where, text);
      }
      value.real = *number;
      return value;
    }
  }
  return value;
}

Status apply(Options& options, const Flag& flag, const FlagValue& value, std::string_view where,
             const Warn& warn) {
  switch (flag.support) {
    case Support::refused:
      return fail(ErrorCode::unsupported, fmt::format("{}: {}", where, flag.doc));
    case Support::no_effect:
      warn(fmt::format("{} has no effect: {}", where, flag.doc));
      return {};
    case Support::built:
      if (flag.read != nullptr) {
        if (const Status status = flag.read(options, value); !status) {
          return fail(status.error(), std::string(where));
        }
      } else {
        flag.set(options, value);
      }
      options.given.insert(flag_name(flag));
      return {};
  }
  return {};
}

Status read_environment(Options& options, uint32_t command, const Environment& environment,
                        const Warn& warn) {
  for (const Flag& flag : all_flags()) {
    if ((flag.commands & command) == 0 || flag.env.empty()) {
      continue;
    }
    const std::string name(flag.env);
    if (!flag.negatives.empty() && name.starts_with("LLAMA_ARG_")) {
      // A variable of the negative form counts by being there.
      const std::string negative = "LLAMA_ARG_NO_" + name.substr(std::string_view("LLAMA_ARG_").size());
      if (environment(negative.c_str()) != nullptr) {
        FL_TRY(apply(options, flag, {"0", 0, 0}, negative, warn));
        continue;
      }
    }
    const char* text = environment(name.c_str());
    if (text == nullptr) {
      continue;
    }
    if (flag.kind == Kind::toggle) {
      if (is_true(text)) {
        FL_TRY(apply(options, flag, {"1", 1, 0}, name, warn));
      } else if (!is_false(text)) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("{}: expected on or off, found '{}'", name, text));
      } else if (!flag.negatives.empty()) {
        FL_TRY(apply(options, flag, {"0", 0, 0}, name, warn));
      }
      continue;
    }
    FL_ASSIGN(const FlagValue value, parse_value(flag, name, text));
    FL_TRY(apply(options, flag, value, name, warn));
  }
  return {};
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) {
    row[j] = j;
  }
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view name, uint32_t command) {
  std::string_view best;
  size_t distance = kSuggestionDistance + 1;
  for (const Flag& flag : all_flags()) {
    if ((flag.commands & command) == 0 || flag.support == Support::refused) {
      continue;
    }
    for (std::string_view list : {flag.names, flag.negatives}) {
      for (std::string_view candidate : split_names(list)) {
        if (const size_t d = edit_distance(name, candidate); d < distance) {
          distance = d;
          best = candidate;
        }
      }
    }
  }
  return best.empty() ? std::string() : fmt::format("; did you mean {}?", best);
}

// Long names: underscores are dashes.
std::string normal_name(std::string_view argument) {
  std::string name(argument);
  if (name.starts_with("--")) {
    std::replace(name.begin(), name.end(), '_', '-');
  }
  return name;
}

}  // namespace

std::vector<std::string_view> split_names(std::string_view names) {
  return split(names, ',');
}

std::string_view flag_name(const Flag& flag) {
  return flag.names.substr(flag.names.rfind(',') == std::string_view::npos ? 0 : flag.names.rfind(',') + 1);
}

const Flag* find_flag(std::string_view name, uint32_t command, bool& negative) {
  for (const Flag& flag : all_flags()) {
    if ((flag.commands & command) == 0) {
      continue;
    }
    for (std::string_view candidate : split_names(flag.names)) {
      if (candidate == name) {
        negative = false;
        return &flag;
      }
    }
    for (std::string_view candidate : split_names(flag.negatives)) {
      if (candidate == name) {
        negative = true;
        return &flag;
      }
    }
  }
  return nullptr;
}

bool wants_help(std::span<const std::string> arguments) {
  return std::any_of(arguments.begin(), arguments.end(), [](const std::string& argument) {
    return argument == "-h" || argument == "--help" || argument == "--usage";
  });
}

Result<Options> parse_flags(std::span<const std::string> arguments, uint32_t command,
                            const Environment& environment, const Warn& warn) {
  Options options;
  FL_TRY(read_environment(options, command, environment, warn));
  const std::set<std::string_view> from_environment = options.given;
  std::set<std::string_view> from_line;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string name = normal_name(arguments[i]);
    bool negative = false;
    const Flag* flag = find_flag(name, command, negative);
    std::optional<std::string_view> attached;  // --flag=value
    if (flag == nullptr && name.starts_with("--") && name.find('=') != std::string::npos) {
      const size_t equals = name.find('=');
      attached = std::string_view(arguments[i]).substr(equals + 1);
      name.resize(equals);
      flag = find_flag(name, command, negative);
    }
    if (flag == nullptr) {
      return fail(ErrorCode::invalid_argument,
                  fmt::format("unknown argument '{}'{}", name, nearest(name, command)));
    }
    if (flag->support == Support::refused) {
      return fail(ErrorCode::unsupported, fmt::format("{}: {}", name, flag->doc));
    }
    const std::string_view key = flag_name(*flag);
    if (!flag->repeats && from_line.contains(key)) {
      warn(fmt::format("{} was given twice; the last one counts", name));
    } else if (from_environment.contains(key) && !from_line.contains(key)) {
      warn(fmt::format("{} overrides the environment's {}", name, flag->env));
    }
    from_line.insert(key);
    if (flag->kind == Kind::toggle || negative) {
      if (attached) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("{}: expected no value, found '{}'", name, *attached));
      }
      FL_TRY(apply(options, *flag, {negative ? "0" : "1", negative ? 0 : 1, 0}, name, warn));
      continue;
    }
    if (!attached) {
      if (i + 1 == arguments.size()) {
        return fail(
            ErrorCode::invalid_argument,
            fmt::format("{}: expected {}, found the end of the command line", name, expectation(*flag)));
      }
      attached = arguments[++i];
    }
    FL_ASSIGN(const FlagValue value, parse_value(*flag, name, *attached));
    FL_TRY(apply(options, *flag, value, name, warn));
  }
  return options;
}

Result<uint64_t> parse_bytes(std::string_view text) {
  const auto refuse = [&] {
    return fail(ErrorCode::invalid_argument,
                fmt::format("expected a size such as 24GiB, 512MiB or 16.5GB, found '{}'", text));
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (unit.starts_with(' ')) {
    unit.remove_prefix(1);
  }
  double factor = 0;
  for (const auto& [name, bytes] : std::initializer_list<std::pair<std::string_view, double>>{{"", 1},
                                                                                              {"B", 1},
                                                                                              {"KiB", 0x1p10},
                                                                                              {"MiB", 0x1p20},
                                                                                              {"GiB", 0x1p30},
                                                                                              {"TiB", 0x1p40},
                                                                                              {"K", 0x1p10},
                                                                                              {"M", 0x1p20},
                                                                                              {"G", 0x1p30},
                                                                                              {"KB", 1e3},
                                                                                              {"MB", 1e6},
                                                                                              {"GB", 1e9}}) {
    if (unit == name) {
      factor = bytes;
    }
  }
  if (error != std::errc() || factor == 0 || !(number > 0 && number * factor < 0x1p62)) {
    return refuse();
  }
  return static_cast<uint64_t>(number * factor);
}

std::vector<std::string> parse_csv(std::string_view text) {
  std::vector<std::string> values(1);
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') {
      if (quoted && i + 1 < text.size() && text[i + 1] == '"') {
        values.back() += '"';
        ++i;
      } else {
        quoted = !quoted;
      }
    } else if (text[i] == ',' && !quoted) {
      values.emplace_back();
    } else {
      values.back() += text[i];
    }
  }
  std::erase(values, std::string());
  return values;
}

}  // namespace fl::apps
