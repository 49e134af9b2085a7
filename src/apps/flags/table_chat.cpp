// Flags of chat templates, reasoning and what a request gets when it does not say.
#include <array>

#include "apps/flags/flags.h"

namespace fl::apps {
namespace {

constexpr double kMaxTokens = 1 << 26;

const std::array kChatFlags{
    Flag{.names = "--jinja",
         .negatives = "--no-jinja",
         .env = "LLAMA_ARG_JINJA",
         .fallback = "on",
         .priority = 'A',
         .group = Group::chat,
         .commands = kLoad,
         .doc = "render the model's own chat template; off: the built-in ChatML frame, without tools",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.jinja = v.integer != 0; }},
    Flag{.names = "-rea,--reasoning",
         .env = "LLAMA_ARG_REASONING",
         .value = "on|off|auto",
         .kind = Kind::on_auto,
         .fallback = "auto",
         .priority = 'A',
         .group = Group::chat,
         .commands = kLoad,
         .doc =
             "whether the model thinks before it answers (the template's enable_thinking); auto is on where "
             "the template can",
         .set =
             [](Options& o, const FlagValue& v) {
               o.server.defaults.reasoning = v.integer < 0    ? server::Reasoning::automatic
                                             : v.integer == 1 ? server::Reasoning::on
                                                              : server::Reasoning::off;
             }},
    Flag{.names = "--reasoning-format",
         .env = "LLAMA_ARG_THINK",
         .value = "FORMAT",
         .kind = Kind::choice,
         .words = "none|deepseek|deepseek-legacy|auto",
         .fallback = "deepseek",
         .priority = 'A',
         .group = Group::chat,
         .doc = "none: the thought stays in the content with its tags; the others put it into "
                "reasoning_content",
         .set =
             [](Options& o, const FlagValue& v) {
               o.server.defaults.reasoning_format = v.text == "none"   ? chat::ReasoningFormat::none
                                                    : v.text == "auto" ? chat::ReasoningFormat::automatic
                                                                       : chat::ReasoningFormat::deepseek;
             }},
    Flag{.names = "--reasoning-budget",
         .env = "LLAMA_ARG_THINK_BUDGET",
         .value = "N",
         .kind = Kind::integer,
         .least = -1,
         .most = kMaxTokens,
         .fallback = "-1",
         .group = Group::chat,
         .doc = "most tokens of a thought, after which it is closed; -1: no limit",
         .set =
             [](Options& o, const FlagValue& v) {
               o.server.defaults.reasoning_budget = static_cast<int32_t>(v.integer);
             }},
    Flag{.names = "--reasoning-budget-message",
         .env = "LLAMA_ARG_THINK_BUDGET_MESSAGE",
         .value = "TEXT",
         .kind = Kind::text,
         .group = Group::chat,
         .doc = "written before a thought is closed by the budget",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.reasoning_budget_message = v.text; }},
    Flag{.names = "--reasoning-effort",
         .env = "LLAMA_ARG_REASONING_EFFORT",
         .value = "LEVEL",
         .kind = Kind::text,
         .priority = 'C',
         .group = Group::chat,
         .doc = "the template variable reasoning_effort",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.reasoning_effort = v.text; }},
    Flag{
        .names = "--reasoning-preserve",
        .negatives = "--no-reasoning-preserve",
        .env = "LLAMA_ARG_REASONING_PRESERVE",
        .fallback = "on",
        .group = Group::chat,
        .doc = "the template variable preserve_thinking: earlier thoughts stay in the prompt, where the "
               "template obeys it",
        .set = [](Options& o, const FlagValue& v) { o.server.defaults.reasoning_preserve = v.integer != 0; }},
    Flag{.names = "--chat-template",
         .env = "LLAMA_ARG_CHAT_TEMPLATE",
         .value = "TEXT",
         .kind = Kind::text,
         .group = Group::chat,
         .commands = kLoad,
         .doc = "a template in place of the model's, or the word chatml",
         .set = [](Options& o, const FlagValue& v) { o.chat_template = v.text; }},
    Flag{.names = "--chat-template-file",
         .env = "LLAMA_ARG_CHAT_TEMPLATE_FILE",
         .value = "PATH",
         .kind = Kind::text,
         .group = Group::chat,
         .commands = kLoad,
         .doc = "the same from a file",
         .set = [](Options& o, const FlagValue& v) { o.chat_template_file = v.text; }},
    Flag{.names = "--chat-template-kwargs",
         .env = "LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
         .value = "JSON",
         .kind = Kind::text,
         .group = Group::chat,
         .doc = "an object of template variables; a request's object overrides it key by key",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.chat_template_kwargs = v.text; }},
    Flag{.names = "--prefill-assistant",
         .negatives = "--no-prefill-assistant",
         .env = "LLAMA_ARG_PREFILL_ASSISTANT",
         .fallback = "on",
         .group = Group::chat,
         .doc = "a last message of the assistant is continued instead of closed",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.prefill_assistant = v.integer != 0; }},
    Flag{.names = "--skip-chat-parsing",
         .negatives = "--no-skip-chat-parsing",
         .env = "LLAMA_ARG_SKIP_CHAT_PARSING",
         .priority = 'C',
         .group = Group::chat,
         .doc = "all that the model writes is content: no thought, no tool call is taken out",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.skip_chat_parsing = v.integer != 0; }},
    Flag{.names = "-n,--predict,--n-predict",
         .env = "LLAMA_ARG_N_PREDICT",
         .value = "N",
         .kind = Kind::integer,
         .least = -1,
         .most = kMaxTokens,
         .fallback = "-1",
         .group = Group::chat,
         .commands = kLoad,
         .doc = "most tokens of an answer that does not say; -1: until it ends or the context is full",
         .set = [](Options& o,
                   const FlagValue& v) { o.server.defaults.n_predict = static_cast<int32_t>(v.integer); }},
    Flag{.names = "-r,--reverse-prompt",
         .value = "TEXT",
         .kind = Kind::text,
         .priority = 'C',
         .group = Group::chat,
         .commands = kLoad,
         .repeats = true,
         .doc = "text at which an answer ends, when a request names none",
         .set = [](Options& o, const FlagValue& v) { o.server.defaults.stop.emplace_back(v.text); }},
    Flag{.names = "-sp,--special",
         .priority = 'C',
         .group = Group::chat,
         .commands = kServe | kRun,
         .doc = "show control tokens in the text",
         .set = [](Options& o, const FlagValue&) { o.server.defaults.special = true; }},
    Flag{.names = "--ignore-eos",
         .priority = 'C',
         .group = Group::chat,
         .commands = kServe | kRun,
         .doc = "an end-of-text token does not end the answer",
         .set = [](Options& o, const FlagValue&) { o.server.defaults.ignore_eos = true; }},
};

const std::array kCommand{
    Flag{.names = "-p,--prompt",
         .value = "TEXT",
         .kind = Kind::text,
         .priority = 'A',
         .group = Group::output,
         .commands = kRun,
         .doc = "the prompt; - or nothing: standard input",
         .set =
             [](Options& o, const FlagValue& v) {
               o.prompt = v.text;
               o.prompt_given = true;
             }},
    Flag{
        .names = "--chat",
        .priority = 'A',
        .group = Group::output,
        .commands = kRun,
        .doc = "the prompt is a message of a user: use the chat template. Otherwise it is continued as it is",
        .set = [](Options& o, const FlagValue&) { o.use_template = true; }},
    Flag{.names = "-sys,--system-prompt",
         .value = "TEXT",
         .kind = Kind::text,
         .group = Group::output,
         .commands = kTalk,
         .doc = "a system message in front",
         .set = [](Options& o, const FlagValue& v) { o.system_prompt = v.text; }},
    Flag{.names = "--json",
         .priority = 'A',
         .group = Group::output,
         .commands = kRun | kPlan,
         .doc = "one JSON document on standard output, nothing else",
         .set = [](Options& o, const FlagValue&) { o.json = true; }},
    Flag{.names = "--size",
         .value = "NAME",
         .kind = Kind::choice,
         .words = "0.8B|2B|4B|9B|27B|tiny",
         .priority = 'A',
         .group = Group::model,
         .commands = kPlan,
         .doc = "a published size, instead of a file",
         .set = [](Options& o, const FlagValue& v) { o.size = v.text; }},
    Flag{.names = "--type",
         .value = "TYPE",
         .kind = Kind::text,
         .fallback = "Q4_K_M",
         .priority = 'A',
         .group = Group::model,
         .commands = kPlan,
         .doc = "mix or type of its matrices",
         .set = [](Options& o, const FlagValue& v) { o.type = v.text; }},
    Flag{.names = "--vram",
         .value = "SIZE",
         .kind = Kind::text,
         .priority = 'A',
         .group = Group::model,
         .commands = kPlan,
         .doc = "memory of a GPU to plan for, such as 24GiB. Without it: this machine",
         .read = [](Options& o, const FlagValue& v) -> Status {
           FL_TRY(parse_bytes(v.text));
           o.vram = v.text;
           return {};
         }},
};

}  // namespace

std::span<const Flag> chat_flags() {
  return kChatFlags;
}

std::span<const Flag> command_flags() {
  return kCommand;
}

}  // namespace fl::apps
