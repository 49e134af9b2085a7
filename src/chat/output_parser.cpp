#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "chat/argument_types.h"
#include "chat/chat.h"

namespace fl::chat {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kThinkEnd = "</think>";
constexpr std::string_view kCall = "<tool_call>";
constexpr std::string_view kCallEnd = "</tool_call>";
constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=";
constexpr std::string_view kParameterEnd = "</parameter>";
constexpr std::string_view kAssistantHeader = "<|im_start|>assistant\n";

// Bounds of what is held back inside the markup, so that the parser stays linear whatever a model writes.
constexpr size_t kMaxBlank = 64;
constexpr size_t kMaxName = 256;

bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

size_t count_blank(std::string_view text) {
  return static_cast<size_t>(std::find_if_not(text.begin(), text.end(), is_blank) - text.begin());
}

// Blanks inside markup; more than kMaxBlank are no markup.
size_t count_few_blank(std::string_view text) {
  return count_blank(text.substr(0, kMaxBlank + 1));
}

// Length of the longest end of `text` that is the start of `tag`, and not all of it.
size_t partial(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n) {
    if (text.ends_with(tag.substr(0, n))) {
      return n;
    }
  }
  return 0;
}

enum class Match { yes, no, more };

// Whether `text` begins with `tag`; `more` if it could, with more text.
Match begins_with(std::string_view text, std::string_view tag) {
  if (text.starts_with(tag)) {
    return Match::yes;
  }
  return tag.starts_with(text) ? Match::more : Match::no;
}

struct Tag {
  Match match = Match::no;
  std::string name;   // between '=' and '>'
  size_t length = 0;  // with the blanks in front
};

// Blanks, then an opening tag with a name, as `<function=NAME>`.
Tag named_tag(std::string_view text, std::string_view opening) {
  const size_t blank = count_few_blank(text);
  if (blank > kMaxBlank) {
    return {};
  }
  const Match match = begins_with(text.substr(blank), opening);
  if (match != Match::yes) {
    return {match, {}, 0};
  }
  const std::string_view rest = text.substr(blank + opening.size(), kMaxName + 1);
  const size_t end = rest.find_first_of("<>\n");
  if (end == std::string_view::npos) {
    return {rest.size() > kMaxName ? Match::no : Match::more, {}, 0};
  }
  if (rest[end] != '>' || end == 0 || end > kMaxName) {
    return {};
  }
  return {Match::yes, std::string(rest.substr(0, end)), blank + opening.size() + end + 1};
}

// Blanks, then exactly this tag.
Tag plain_tag(std::string_view text, std::string_view tag) {
  const size_t blank = count_few_blank(text);
  if (blank > kMaxBlank) {
    return {};
  }
  return {begins_with(text.substr(blank), tag), {}, blank + tag.size()};
}

}  // namespace

struct OutputParser::Impl {
  enum class State {
    start,            // of an answer: perhaps blanks and <think>
    reasoning_start,  // blanks, perhaps one more <think>
    reasoning,
    content_start,  // blanks that belong to no one
    content,
    call,         // behind <tool_call>
    arguments,    // behind <function=...> or </parameter>
    value_start,  // behind <parameter=...>
    value,
    call_end,    // behind </function>
    after_call,  // blanks between calls
  };

  explicit Impl(const ParseOptions& options) : tools(options.tools) {
    if (options.tools && options.tool_schemas != nullptr) {
      types = ToolTypes(*options.tool_schemas);
    }
    const bool thinking = ends_in_reasoning(options.prefilled);
    if (options.reasoning == ReasoningFormat::none) {
      state = State::content;
      unsaid = options.prefilled;
      thinking_in_content = thinking;
    } else {
      state = thinking ? State::reasoning_start : State::start;
    }
  }

  // -- what comes out

  void say(std::string_view text) {
    if (text.empty()) {
      return;
    }
    if (home == State::reasoning) {
      delta.reasoning += text;
      return;
    }
    delta.content += std::exchange(unsaid, {});
    delta.content += text;
    if (thinking_in_content) {
      tail += text;
      thinking_in_content = tail.find(kThinkEnd) == std::string::npos;
      tail.erase(0, tail.size() - std::min(tail.size(), kThinkEnd.size() - 1));
    }
  }

  Delta::Call& call_delta() {
    if (delta.calls.empty() || delta.calls.back().index != n_calls - 1) {
      delta.calls.push_back({n_calls - 1, {}, {}, {}});
    }
    return delta.calls.back();
  }

  void say_arguments(std::string_view json) { call_delta().arguments += json; }

  std::string_view pending() const { return std::string_view(buffer).substr(used); }
  void drop(size_t n) { used += n; }

  // -- states; each returns false when it needs more text

  bool text(bool in_thought) {
    home = in_thought ? State::reasoning : State::content;
    const std::string_view all = pending();
    size_t hold = 0;
    for (size_t at = all.find('<'); at != std::string_view::npos; at = all.find('<', at + 1)) {
      const Match end = in_thought ? begins_with(all.substr(at), kThinkEnd) : Match::no;
      const Match tool = tools ? begins_with(all.substr(at), kCall) : Match::no;
      if (end == Match::yes || tool == Match::yes) {
        say(all.substr(0, at));
        drop(at + (end == Match::yes ? kThinkEnd : kCall).size());
        state = end == Match::yes ? State::content_start : State::call;
        return true;
      }
      if (!ending && (end == Match::more || tool == Match::more)) {
        hold = all.size() - at;  // reaches to the end of the text
        break;
      }
    }
    say(all.substr(0, all.size() - hold));
    drop(all.size() - hold);
    return false;
  }

  // Blanks are dropped; then <think> may follow.
  bool maybe_think(State otherwise) {
    drop(count_blank(pending()));
    const Match match = begins_with(pending(), kThink);
    if (match == Match::more && !ending) {
      return false;
    }
    if (match == Match::yes) {
      drop(kThink.size());
      drop(count_blank(pending()));
      // Blanks may still come; another <think> would be text.
      state = State::reasoning;
      skip_blank = true;
      return true;
    }
    state = otherwise;
    return !pending().empty();
  }

  bool skip_to(State next) {
    drop(count_blank(pending()));
    if (pending().empty()) {
      return false;
    }
    state = next;
    return true;
  }

  // What looked like a call is text where it stood.
  bool no_call() {
    state = home;
    say(kCall);
    say(std::exchange(call_header, {}));
    return true;
  }

  bool call() {
    const Tag tag = named_tag(pending(), kFunction);
    if (tag.match == Match::more && !ending) {
      return false;
    }
    if (tag.match != Match::yes) {
      return no_call();
    }
    call_header = pending().substr(0, tag.length);
    function = tag.name;
    begun = false;
    n_arguments = 0;
    drop(tag.length);
    state = State::arguments;
    return true;
  }

  void begin_call() {
    if (!begun) {
      begun = true;
      call_header.clear();
      ++n_calls;
      call_delta().name = function;
    }
  }

  void end_call() {
    begin_call();
    say_arguments(n_arguments == 0 ? "{}" : "}");
    home = State::content;
  }

  bool arguments() {
    const Tag parameter = named_tag(pending(), kParameter);
    if (parameter.match == Match::yes) {
      begin_call();
      say_arguments((n_arguments++ == 0 ? "{\"" : ",\"") + json_escape(parameter.name) + "\":");
      type = types.find(function, parameter.name);
      drop(parameter.length);
      value.clear();
      state = State::value_start;
      return true;
    }
    const Tag end = plain_tag(pending(), kFunctionEnd);
    if (end.match == Match::yes) {
      drop(end.length);
      end_call();
      state = State::call_end;
      return true;
    }
    // </function> was forgotten, or the output ends behind whole arguments.
    if (begun && (plain_tag(pending(), kCallEnd).match == Match::yes ||
                  (ending && count_blank(pending()) == pending().size()))) {
      end_call();
      state = State::call_end;
      return true;
    }
    if (ending && begun && parameter.match == Match::more) {
      drop(pending().size());  // the start of a tag that names nothing
      if (end.match == Match::more) {
        end_call();
      }
      return false;
    }
    if (!ending && (parameter.match == Match::more || end.match == Match::more ||
                    (begun && plain_tag(pending(), kCallEnd).match == Match::more))) {
      return false;
    }
    if (!begun) {
      return no_call();
    }
    end_call();
    state = State::content;
    return true;
  }

  bool value_start() {
    if (pending().empty() && !ending) {
      return false;
    }
    if (!pending().empty() && pending().front() == '\n') {
      drop(1);
    }
    if (type == ArgumentType::text) {
      say_arguments("\"");
    }
    state = State::value;
    return true;
  }

  // Where the value ends: at a close tag that more markup follows, so that a close tag inside a text is text.
  struct End {
    Match match = Match::no;
    size_t begin = 0;  // of the close tag, with the line break in front
    size_t after = 0;
  };
  End find_value_end() const {
    const std::string_view all = pending();
    for (size_t from = 0; from < all.size();) {
      const size_t at = all.find(kParameterEnd, from);
      if (at == std::string_view::npos) {
        const size_t hold = partial(all, kParameterEnd);
        const size_t cut = all.size() - hold;
        const bool line_break = cut > 0 && all[cut - 1] == '\n';
        return {Match::more, cut - (line_break ? 1 : 0), all.size()};
      }
      const size_t begin = at > 0 && all[at - 1] == '\n' ? at - 1 : at;
      const size_t after = at + kParameterEnd.size();
      const std::string_view rest = all.substr(after);
      const size_t blank = count_few_blank(rest);
      const std::array<Match, 3> follows{begins_with(rest.substr(blank), kParameter),
                                         begins_with(rest.substr(blank), kFunctionEnd),
                                         begins_with(rest.substr(blank), kCallEnd)};
      const auto any = [&follows](Match m) {
        return std::find(follows.begin(), follows.end(), m) != follows.end();
      };
      if (blank <= kMaxBlank && (any(Match::yes) || (ending && any(Match::more)))) {
        return {Match::yes, begin, after};
      }
      if (blank <= kMaxBlank && any(Match::more)) {
        return {Match::more, begin, after};
      }
      from = after;
    }
    return {Match::more, all.size(), all.size()};
  }

  bool value_text() {
    const End end = find_value_end();
    const size_t n = end.match == Match::more && ending ? pending().size() : end.begin;
    if (type == ArgumentType::text) {
      say_arguments(json_escape(pending().substr(0, n)));
    } else {
      value.append(pending().substr(0, n));
    }
    if (end.match != Match::yes) {
      drop(n);
      if (ending && type != ArgumentType::text) {
        say_arguments(type == ArgumentType::any ? "\"" + json_escape(value) : value);
      }
      return false;
    }
    drop(end.after);
    if (type == ArgumentType::text) {
      say_arguments("\"");
    } else {
      const std::string json = json_of_value(value, type == ArgumentType::value);
      say_arguments(json.empty() ? "\"" + json_escape(value) + "\"" : json);
    }
    state = State::arguments;
    return true;
  }

  bool call_end() {
    const Tag tag = plain_tag(pending(), kCallEnd);
    if (tag.match == Match::more && !ending) {
      return false;
    }
    if (tag.match == Match::yes) {
      drop(tag.length);
    } else if (tag.match == Match::more) {
      drop(pending().size());
    }
    state = State::after_call;
    return true;
  }

  // Blanks before the next call or the end are markup, before anything else they are text.
  bool after_call() {
    const size_t blank = count_blank(pending());
    blanks.append(pending().substr(0, blank));
    drop(blank);
    const Match match = begins_with(pending(), kCall);
    if (pending().empty() || (match == Match::more && !ending)) {
      return false;
    }
    if (match != Match::yes) {
      home = State::content;
      say(blanks);
    }
    blanks.clear();
    state = State::content;
    return true;
  }

  bool step() {
    switch (state) {
      case State::start:
        return maybe_think(State::content_start);
      case State::reasoning_start:
        return maybe_think(State::reasoning);
      case State::reasoning:
        if (skip_blank) {
          drop(count_blank(pending()));
          skip_blank = pending().empty();
        }
        return text(true);
      case State::content_start:
        return skip_to(State::content);
      case State::content:
        return text(false);
      case State::call:
        return call();
      case State::arguments:
        return arguments();
      case State::value_start:
        return value_start();
      case State::value:
        return value_text();
      case State::call_end:
        return call_end();
      case State::after_call:
        return after_call();
    }
    return false;
  }

  Delta run(std::string_view more) {
    buffer.erase(0, std::exchange(used, 0));
    buffer += more;
    while (step()) {
    }
    return std::exchange(delta, {});
  }

  bool tools;
  ToolTypes types;
  State state = State::start;
  State home = State::content;  // where the text around a call belongs
  bool ending = false;
  bool skip_blank = false;
  std::string buffer;  // from `used` on not yet understood
  size_t used = 0;
  Delta delta;

  std::string unsaid;  // the prefilled text, said with the first content
  bool thinking_in_content = false;
  std::string tail;

  std::string call_header;
  std::string function;
  bool begun = false;
  int n_calls = 0;
  int n_arguments = 0;
  ArgumentType type = ArgumentType::any;
  std::string value;
  std::string blanks;
};

OutputParser::OutputParser(const ParseOptions& options) : impl_(std::make_unique<Impl>(options)) {}
OutputParser::OutputParser(OutputParser&&) noexcept = default;
OutputParser& OutputParser::operator=(OutputParser&&) noexcept = default;
OutputParser::~OutputParser() = default;

Delta OutputParser::push(std::string_view text) {
  return impl_->run(text);
}

Delta OutputParser::finish() {
  impl_->ending = true;
  Delta delta = impl_->run("");
  delta.content += std::exchange(impl_->unsaid, {});
  return delta;
}

bool OutputParser::in_reasoning() const {
  return impl_->thinking_in_content || impl_->state == Impl::State::reasoning ||
         impl_->state == Impl::State::reasoning_start;
}

int OutputParser::n_calls() const {
  return impl_->n_calls;
}

bool ends_in_reasoning(std::string_view text) {
  const size_t open = text.rfind(kThink);
  return open != std::string_view::npos && text.find(kThinkEnd, open) == std::string_view::npos;
}

std::string generation_prefix(const std::vector<Segment>& segments) {
  const std::string prompt = join(segments);
  const size_t at = prompt.rfind(kAssistantHeader);
  // Only what the template wrote: a header inside a message is text.
  size_t trusted_from = prompt.size();
  for (auto it = segments.rbegin(); it != segments.rend() && it->trusted; ++it) {
    trusted_from -= it->text.size();
  }
  return at == std::string::npos || at < trusted_from ? "" : prompt.substr(at + kAssistantHeader.size());
}

}  // namespace fl::chat
