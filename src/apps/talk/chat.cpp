// `freelunch chat`: a conversation in the terminal. Ctrl-C ends the answer, not the program.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include <editline/readline.h>
#include <fmt/format.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/flags/flags.h"
#include "apps/load/load.h"
#include "apps/talk/session.h"
#include "apps/talk/terminal.h"

namespace fl::apps {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kUsageLine = "freelunch chat [--model FILE] [flags]";
constexpr std::string_view kAbout = "Talks in the terminal. Ctrl-C ends an answer, Ctrl-D the conversation.";
constexpr std::string_view kExamples =
    "examples:\n"
    "  freelunch chat                                  with the demo model\n"
    "  freelunch chat -m model.gguf --temp 0.6 -sys 'Answer in one sentence.'\n"
    "  echo 'What is 7 + 5?' | freelunch chat --reasoning off";
constexpr std::string_view kHelp =
    "  /reset   forget the conversation\n"
    "  /stats   speed and size of the last answer\n"
    "  /quit    leave (also Ctrl-D)\n"
    "  Ctrl-C   end an answer\n"
    "A line that ends with \\ goes on in the next.\n";
constexpr int64_t kQuietLog = 2;

void interrupt(int) {
  Session::interrupted = true;
}

// Lines from a terminal with editing and history, from a pipe as they are.
class Input {
 public:
  explicit Input(bool terminal) : terminal_(terminal) {
    if (terminal_) {
      rl_initialize();
      using_history();
    }
  }

  std::optional<std::string> message() {
    std::string text;
    while (true) {
      std::optional<std::string> line = next(text.empty() ? "> " : "  ");
      if (!line) {
        return text.empty() ? std::nullopt : std::optional(text);
      }
      const bool more = line->ends_with('\\');
      if (more) {
        line->back() = '\n';
      }
      text += *line;
      if (!more) {
        return text;
      }
    }
  }

 private:
  std::optional<std::string> next(const char* prompt) {
    if (terminal_) {
      char* line = ::readline(prompt);
      if (line == nullptr) {
        return std::nullopt;
      }
      std::string text(line);
      std::free(line);
      if (!text.empty()) {
        add_history(text.c_str());
      }
      return text;
    }
    std::string text;
    for (int c = std::getchar(); c != EOF; c = std::getchar()) {
      if (c == '\n') {
        return text;
      }
      text += static_cast<char>(c);
    }
    return text.empty() ? std::nullopt : std::optional(text);
  }

  bool terminal_;
};

class Conversation {
 public:
  Conversation(const Options& options, Session& session) : options_(options), session_(session) { reset(); }

  void reset() {
    messages_ = ordered_json::array();
    if (!options_.system_prompt.empty()) {
      messages_.push_back({{"role", "system"}, {"content", options_.system_prompt}});
    }
  }

  Status answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    AnswerPrinter printer(stdout, wants_colour(stdout));
    auto spoken = session_.chat(
        messages_, [&](std::string_view piece, bool thinking) { printer.print(piece, thinking); });
    if (!spoken) {
      messages_.erase(messages_.size() - 1);  // it was not answered: it may be asked again
      return tl::unexpected<Error>(spoken.error());
    }
    printer.finish();
    last_ = *spoken;
    ordered_json message{{"role", "assistant"}, {"content", spoken->content}};
    if (!spoken->reasoning.empty()) {
      message["reasoning_content"] = spoken->reasoning;
    }
    messages_.push_back(std::move(message));
    if (spoken->interrupted) {
      fmt::print(stderr, "(stopped)\n");
    } else if (spoken->finish == "length") {
      fmt::print(stderr, "(cut: {})\n",
                 options_.server.defaults.n_predict >= 0 ? "--n-predict is reached"
                                                         : "the context is full; /reset begins anew");
    }
    return {};
  }

  void print_stats() const {
    fmt::print("{} tokens at {:.1f}/s; prompt: {} read at {:.1f}/s, {} from the cache; {}, context {}\n",
               last_.predicted_n, last_.predicted_per_second, last_.prompt_n, last_.prompt_per_second,
               last_.cached_n, session_.device(), session_.n_ctx());
  }

 private:
  const Options& options_;
  Session& session_;
  ordered_json messages_;
  SpokenAnswer last_;
};

Status chat(const Options& options) {
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  FL_ASSIGN(const std::unique_ptr<Session> session, Session::open(options, "chat", false));
  struct sigaction action {};
  action.sa_handler = interrupt;  // without SA_RESTART: a waiting readline comes back
  ::sigaction(SIGINT, &action, nullptr);
  if (terminal) {
    fmt::print("{} on {}. /help shows the commands.\n", session->model_id(), session->device());
  }
  Input input(terminal);
  Conversation conversation(options, *session);
  while (true) {
    const std::optional<std::string> text = input.message();
    if (!text) {
      if (terminal && Session::interrupted.exchange(false)) {
        fmt::print("\n");
        continue;  // Ctrl-C at the prompt: a new line
      }
      return {};
    }
    if (text->empty()) {
      continue;
    }
    if (*text == "/quit" || *text == "/exit") {
      return {};
    }
    if (*text == "/help") {
      fmt::print("{}", kHelp);
    } else if (*text == "/reset") {
      conversation.reset();
      fmt::print("forgotten\n");
    } else if (*text == "/stats") {
      conversation.print_stats();
    } else if (text->starts_with('/')) {
      fmt::print("unknown command {}; /help shows them\n", text->substr(0, text->find(' ')));
    } else if (const Status status = conversation.answer(*text); !status) {
      if (!terminal) {
        return tl::unexpected<Error>(status.error());
      }
      fmt::print(stderr, "{}\n", status.error().message);
    }
  }
}

}  // namespace

int run_chat(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (wants_help(arguments)) {
    fmt::print("{}", flags_help(kChat, kUsageLine, kAbout, kExamples));
    return kOk;
  }
  const auto options = parse_flags(
      arguments, kChat, [](const char* name) { return std::getenv(name); },
      [](const std::string& text) { fmt::print(stderr, "chat: {}\n", text); });
  if (!options) {
    return report_error("chat", options.error());
  }
  if (options->list_devices) {
    fmt::print("{}", list_devices());
    return kOk;
  }
  set_up_log(options->given.contains("--verbosity") ? options->verbosity : kQuietLog);
  try {
    const Status status = chat(*options);
    return status ? kOk : report_error("chat", status.error());
  } catch (const model::DeviceError& error) {
    return report_error("chat", {ErrorCode::device, error.what()});
  } catch (const std::exception& error) {
    return report_error("chat", {ErrorCode::internal, error.what()});
  }
}

}  // namespace fl::apps
