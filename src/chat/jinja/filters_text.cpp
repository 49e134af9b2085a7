// Filters that make texts.
#include <algorithm>

#include <fmt/format.h>

#include "chat/jinja/filters.h"
#include "chat/jinja/json.h"
#include "chat/jinja/text_methods.h"
#include "tokenizer/utf8.h"

namespace fl::chat::jinja {
namespace {

Text input_text(const Value& value, Context& context) {
  return to_text(value, context.budget);
}

Value trim(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("trim", {"chars"});
  return strip_text(input_text(input, context), true, true, bound[0]);
}

Value to_string(const Value& input, const Args& args, Context& context) {
  args.bind("string", {});
  return input_text(input, context);
}

Value upper_filter(const Value& input, const Args& args, Context& context) {
  args.bind("upper", {});
  return upper(input_text(input, context));
}

Value lower_filter(const Value& input, const Args& args, Context& context) {
  args.bind("lower", {});
  return lower(input_text(input, context));
}

Value capitalize_filter(const Value& input, const Args& args, Context& context) {
  args.bind("capitalize", {});
  return capitalize(input_text(input, context));
}

// Words begin at the start and after white space, '-', or an opening bracket.
Value title_filter(const Value& input, const Args& args, Context& context) {
  args.bind("title", {});
  const Text text = input_text(input, context);
  Text out;
  Text word;
  const auto flush = [&] {
    out.append(capitalize(word));
    word = Text();
  };
  for (size_t pos = 0; pos < text.size();) {
    const auto c = tokenizer::decode_utf8(text.str(), pos);
    const bool breaks =
        is_space(c.code_point) ||
        (c.bytes == 1 && std::string_view("-({[<").find(text.str()[pos]) != std::string_view::npos);
    if (breaks) {
      flush();
      out.append(text, pos, c.bytes);
    } else {
      word.append(text, pos, c.bytes);
    }
    pos += c.bytes;
  }
  flush();
  return out;
}

Value replace_filter(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("replace", {"old", "new", "count"});
  if (bound[0] == nullptr || bound[1] == nullptr) {
    throw TemplateError("replace: expected two strings");
  }
  const Int limit = bound[2] == nullptr || bound[2]->is_none() ? -1 : need_integer(*bound[2], "replace");
  return replace(input_text(input, context), input_text(*bound[0], context), input_text(*bound[1], context),
                 limit, context);
}

Value center_filter(const Value& input, const Args& args, Context& context) {
  constexpr Int kWidth = 80;
  const auto bound = args.bind("center", {"width"});
  return justify(input_text(input, context), integer_or(bound[0], kWidth, "center"), Text(" ", true), 0,
                 context);
}

Value indent(const Value& input, const Args& args, Context& context) {
  constexpr Int kWidth = 4;
  constexpr Int kMaxWidth = 1 << 16;
  const auto bound = args.bind("indent", {"width", "first", "blank"});
  Text margin;
  if (bound[0] != nullptr && bound[0]->text() != nullptr) {
    margin = *bound[0]->text();
  } else {
    const Int width = std::clamp<Int>(integer_or(bound[0], kWidth, "indent"), 0, kMaxWidth);
    margin = Text(std::string(static_cast<size_t>(width), ' '), true);
  }
  const bool first = flag_or(bound[1], false);
  const bool blank = flag_or(bound[2], false);
  Text text = input_text(input, context);
  text.append("\n", true);  // so that a last line break counts; it goes again with the last line
  const std::vector<Text> lines = split_lines(text, false);
  Text out;
  for (size_t i = 0; i < lines.size(); ++i) {
    context.budget.bytes(margin.size());
    out.append(i == 0 ? "" : "\n", true);
    if (i == 0 ? first : (blank || !lines[i].empty())) {
      out.append(margin);
    }
    out.append(lines[i]);
  }
  return out;
}

Value truncate(const Value& input, const Args& args, Context& context) {
  constexpr Int kLength = 255;
  constexpr Int kLeeway = 5;
  const auto bound = args.bind("truncate", {"length", "killwords", "end", "leeway"});
  const Int limit = integer_or(bound[0], kLength, "truncate");
  const bool kill_words = flag_or(bound[1], false);
  const Text end = text_or(bound[2], "...", "truncate");
  const Int leeway =
      bound[3] == nullptr || bound[3]->is_none() ? kLeeway : need_integer(*bound[3], "truncate");
  const Text text = input_text(input, context);
  const std::vector<size_t> starts = character_starts(text.str());
  const Int n = static_cast<Int>(starts.size()) - 1;
  const Int end_length = static_cast<Int>(count_characters(end.str()));
  if (limit < end_length || leeway < 0) {
    throw TemplateError("truncate: expected a length of at least that of the end");
  }
  if (n <= limit + leeway) {
    return text;
  }
  Text out = text.substr(0, starts[static_cast<size_t>(limit - end_length)]);
  if (!kill_words) {
    const size_t space = out.str().rfind(' ');
    out = space == std::string::npos ? out : out.substr(0, space);
  }
  out.append(end);
  return out;
}

Value escape(const Value& input, const Args& args, Context& context) {
  args.bind("escape", {});
  const Text text = input_text(input, context);
  Text out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text.str()[i];
    const std::string_view part = c == '&'    ? "&amp;"
                                  : c == '<'  ? "&lt;"
                                  : c == '>'  ? "&gt;"
                                  : c == '"'  ? "&#34;"
                                  : c == '\'' ? "&#39;"
                                              : std::string_view(&text.str()[i], 1);
    out.append(part, text.trusted_at(i));
  }
  return out;
}

Value format_filter(const Value& input, const Args& args, Context& context) {
  Value values = make_sequence(args.positional, Sequence::tuple);
  if (!args.named.empty()) {
    std::vector<std::pair<Value, Value>> entries;
    for (const auto& [name, value] : args.named) {
      entries.emplace_back(Value::trusted(name), value);
    }
    values = make_dict(std::move(entries));
  }
  return format_percent(input_text(input, context), values, context);
}

Value wordcount(const Value& input, const Args& args, Context& context) {
  args.bind("wordcount", {});
  const Args none;
  return length(call_text_method(input_text(input, context), "split", none, context));
}

Value tojson(const Value& input, const Args& args, Context& context) {
  constexpr Int kMaxIndent = 64;
  const auto bound = args.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag_or(bound[0], false);
  if (bound[1] != nullptr && !bound[1]->is_none()) {
    style.indent = static_cast<int>(std::clamp<Int>(need_integer(*bound[1], "tojson"), 0, kMaxIndent));
  }
  style.item_separator = Text(style.indent >= 0 ? "," : ", ", true);
  style.key_separator = Text(": ", true);
  if (bound[2] != nullptr && !bound[2]->is_none()) {
    const Sequence* pair = bound[2]->sequence();
    if (pair == nullptr || pair->items.size() != 2) {
      throw TemplateError("tojson: expected two separators");
    }
    style.item_separator = need_text(pair->items[0], "tojson");
    style.key_separator = need_text(pair->items[1], "tojson");
  }
  style.sort_keys = flag_or(bound[3], false);
  return to_json(input, style, context.budget);
}

constexpr NamedFilter kFilters[] = {
    {"capitalize", capitalize_filter},
    {"center", center_filter},
    {"e", escape},
    {"escape", escape},
    {"format", format_filter},
    {"indent", indent},
    {"lower", lower_filter},
    {"replace", replace_filter},
    {"safe", to_string},
    {"string", to_string},
    {"title", title_filter},
    {"tojson", tojson},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", upper_filter},
    {"wordcount", wordcount},
};

}  // namespace

Filter find_text_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [&](const NamedFilter& f) { return f.name == name; });
  return found == std::end(kFilters) ? nullptr : found->filter;
}

}  // namespace fl::chat::jinja
