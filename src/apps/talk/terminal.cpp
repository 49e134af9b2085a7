#include "apps/talk/terminal.h"

#include <unistd.h>

#include <cstdlib>

namespace fl::apps {
namespace {

constexpr std::string_view kFaint = "\033[2m";
constexpr std::string_view kPlain = "\033[0m";

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

void put(std::FILE* out, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), out);
}

}  // namespace

bool wants_colour(std::FILE* out) {
  if (is_set("NO_COLOR")) {
    return false;
  }
  if (is_set("CLICOLOR_FORCE")) {
    return true;
  }
  const char* terminal = std::getenv("TERM");
  return ::isatty(::fileno(out)) == 1 && terminal != nullptr && std::string_view(terminal) != "dumb";
}

void AnswerPrinter::print(std::string_view text, bool thinking) {
  if (text.empty()) {
    return;
  }
  if (thinking && !thinking_) {
    put(out_, colour_ ? kFaint : "<think>\n");
    thinking_ = true;
  } else if (!thinking && thinking_) {
    leave_thought();
  }
  put(out_, text);
  last_ = text.back();
  std::fflush(out_);
}

void AnswerPrinter::leave_thought() {
  if (last_ != '\n') {
    put(out_, "\n");
  }
  put(out_, colour_ ? kPlain : "</think>\n");
  put(out_, "\n");
  thinking_ = false;
  last_ = '\n';
}

void AnswerPrinter::finish() {
  if (thinking_) {
    leave_thought();
  }
  if (last_ != '\n') {
    put(out_, "\n");
    last_ = '\n';
  }
  std::fflush(out_);
}

}  // namespace fl::apps
