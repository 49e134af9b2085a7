// One table of flags for the commands that load a model. A row is everything there is to know of a flag: the
// parser, the help, the environment, docs/flags.md and the tests all read it. Names, variables and defaults
// are llama-server's (ggml-org/llama.cpp, common/arg.cpp), so that its command lines work unchanged.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/flags/options.h"
#include "base/result.h"

namespace fl::apps {

enum class Kind : uint8_t {
  toggle,   ///< no value; a negative name turns it off
  on_off,   ///< on|enabled|true|1, off|disabled|false|0
  on_auto,  ///< the same, and auto|-1
  integer,
  real,
  text,
  choice,  ///< one of `words`
};

enum class Support : uint8_t {
  built,
  no_effect,  ///< accepted with a warning, because scripts pass it and leaving it out changes nothing here
  refused,    ///< known and not built: an error that says so
};

enum class Group : uint8_t { model, context, speculation, http, chat, sampling, output, log };

/// Commands that take a flag.
enum CommandSet : uint32_t {
  kServe = 1,
  kRun = 2,
  kChat = 4,
  kPlan = 8,
  kTalk = kRun | kChat,
  kLoad = kServe | kRun | kChat,
  kAll = kServe | kRun | kChat | kPlan,
};

struct FlagValue {
  std::string_view text;
  int64_t integer = 0;  ///< also 1, 0, -1 of the on/off kinds, and the number that a word stands for
  double real = 0;
};

struct Flag {
  std::string_view names;      ///< "-c,--ctx-size": the last one is what messages call it
  std::string_view negatives;  ///< "--no-warmup"
  std::string_view env;
  std::string_view value;  ///< how the help writes the value: "N", "PATH"
  Kind kind = Kind::toggle;
  double least = 0;
  double most = 0;
  /// choice: "auto|cpu|cuda". integer: words that stand for numbers, "auto=-1|all=-2".
  std::string_view words;
  std::string_view fallback;  ///< the default, written as a value; empty: none
  char priority = 'B';        ///< A: the user's own command line; B: common; C: the rest
  Group group = Group::model;
  uint32_t commands = kServe;
  Support support = Support::built;
  bool repeats = false;  ///< values add up; otherwise the last one counts
  std::string_view doc;  ///< for no_effect and refused: why
  void (*set)(Options&, const FlagValue&) = nullptr;
  /// Instead of `set`, for values with an inner form; the error is the value's, without the flag's name.
  Status (*read)(Options&, const FlagValue&) = nullptr;
};

/// All flags, by group.
const std::vector<Flag>& all_flags();

// The parts of the table.
std::span<const Flag> model_flags();
std::span<const Flag> context_flags();
std::span<const Flag> http_flags();
std::span<const Flag> chat_flags();
std::span<const Flag> sampling_flags();
std::span<const Flag> command_flags();  ///< of `run`, `chat` and `plan` alone
std::span<const Flag> unbuilt_flags();  ///< refused or without effect

/// The name that messages use: the last of `names`.
std::string_view flag_name(const Flag& flag);
std::vector<std::string_view> split_names(std::string_view names);

/// Looks a name up among the flags of a command; nullptr if there is none. `negative` tells which form it is.
const Flag* find_flag(std::string_view name, uint32_t command, bool& negative);

using Environment = std::function<const char*(const char* name)>;
using Warn = std::function<void(const std::string&)>;

/// The environment first, the command line over it. `arguments` has no argv[0]. Errors name the flag (or
/// variable), what it takes and what was found.
Result<Options> parse_flags(std::span<const std::string> arguments, uint32_t command,
                            const Environment& environment, const Warn& warn);

/// Help of a command: usage, examples, flags by group.
std::string flags_help(uint32_t command, std::string_view usage, std::string_view about,
                       std::string_view examples);

/// The text of docs/flags.md.
std::string flags_markdown();

/// "--help" and the like among the arguments.
bool wants_help(std::span<const std::string> arguments);

/// "24GiB", "512 MiB", "16.5GB", "1073741824".
Result<uint64_t> parse_bytes(std::string_view text);

/// "a,b,\"c,d\"": commas part, double quotes keep, a doubled quote is one.
std::vector<std::string> parse_csv(std::string_view text);

}  // namespace fl::apps
