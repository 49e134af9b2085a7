#include "chat/jinja/text_methods.h"

#include <utf8proc.h>

#include <algorithm>

#include <fmt/format.h>

#include "tokenizer/utf8.h"

namespace fl::chat::jinja {
namespace {

uint32_t to_upper(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
uint32_t to_lower(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_letter(uint32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(uint32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
}

// Python's line boundaries of str.splitlines; the length of the one at pos, or 0.
size_t line_boundary(std::string_view text, size_t pos) {
  const auto c = tokenizer::decode_utf8(text, pos);
  switch (c.code_point) {
    case '\r':
      return pos + 1 < text.size() && text[pos + 1] == '\n' ? 2 : 1;
    case '\n':
    case 0x0B:
    case 0x0C:
    case 0x1C:
    case 0x1D:
    case 0x1E:
    case 0x85:
    case 0x2028:
    case 0x2029:
      return c.bytes;
    default:
      return 0;
  }
}

Value texts(std::vector<Text> parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (Text& part : parts) {
    items.emplace_back(std::move(part));
  }
  return make_sequence(std::move(items));
}

std::vector<Text> split_space(const Text& text, Int limit, bool from_right) {
  std::vector<Text> out;
  const std::string& s = text.str();
  Span rest = strip(s, true, true, nullptr);
  std::vector<std::pair<size_t, size_t>> words;
  for (size_t pos = rest.begin; pos < rest.end;) {
    size_t end = pos;
    while (end < rest.end) {
      const auto c = tokenizer::decode_utf8(s, end);
      if (is_space(c.code_point)) {
        break;
      }
      end += c.bytes;
    }
    words.emplace_back(pos, end);
    pos = end + strip(std::string_view(s).substr(end, rest.end - end), true, false, nullptr).begin;
  }
  // Beyond the limit the words stay together, with the white space between them.
  const size_t n = words.size();
  if (limit >= 0 && static_cast<Int>(n) > limit + 1) {
    const auto keep = static_cast<size_t>(limit);
    if (from_right) {
      words.erase(words.begin() + 1, words.begin() + static_cast<ptrdiff_t>(n - keep));
      words[0] = {
          0, strip(std::string_view(s).substr(0, keep > 0 ? words[1].first : s.size()), false, true, nullptr)
                 .end};
    } else {
      words.resize(keep + 1);
      words.back().second = s.size();
    }
  }
  out.reserve(words.size());
  for (const auto& [begin, end] : words) {
    out.push_back(text.substr(begin, end - begin));
  }
  return out;
}

std::vector<Text> split_on(const Text& text, const std::string& separator, Int limit, bool from_right) {
  if (separator.empty()) {
    throw TemplateError("split: empty separator");
  }
  const std::string& s = text.str();
  std::vector<size_t> cuts;
  if (from_right) {
    size_t end = s.size();
    while ((limit < 0 || static_cast<Int>(cuts.size()) < limit) && end >= separator.size()) {
      const size_t at = s.rfind(separator, end - separator.size());
      if (at == std::string::npos) {
        break;
      }
      cuts.push_back(at);
      end = at;
    }
    std::reverse(cuts.begin(), cuts.end());
  } else {
    for (size_t at = 0; (limit < 0 || static_cast<Int>(cuts.size()) < limit) &&
                        (at = s.find(separator, at)) != std::string::npos;
         at += separator.size()) {
      cuts.push_back(at);
    }
  }
  std::vector<Text> out;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    out.push_back(text.substr(begin, cut - begin));
    begin = cut + separator.size();
  }
  out.push_back(text.substr(begin));
  return out;
}

Value split(const Text& self, const std::string& name, const Args& args, Context& context) {
  const auto bound = args.bind(name, {"sep", "maxsplit"});
  const Int limit = integer_or(bound[1], -1, name);
  const bool from_right = name == "rsplit";
  std::vector<Text> out = bound[0] == nullptr || bound[0]->is_none()
                              ? split_space(self, limit, from_right)
                              : split_on(self, need_text(*bound[0], name).str(), limit, from_right);
  context.budget.step(out.size());
  return texts(std::move(out));
}

Value partition(const Text& self, const std::string& name, const Args& args) {
  const auto bound = args.bind(name, {"sep"});
  if (bound[0] == nullptr || need_text(*bound[0], name).empty()) {
    throw TemplateError(name + ": expected a separator");
  }
  const Text& separator = *bound[0]->text();
  const bool last = name == "rpartition";
  const size_t at = last ? self.str().rfind(separator.str()) : self.str().find(separator.str());
  if (at == std::string::npos) {
    return last ? make_sequence({Text(), Text(), self}, Sequence::tuple)
                : make_sequence({self, Text(), Text()}, Sequence::tuple);
  }
  return make_sequence(
      {self.substr(0, at), self.substr(at, separator.size()), self.substr(at + separator.size())},
      Sequence::tuple);
}

// startswith and endswith take one string or a tuple of them.
bool has_affix(const Text& self, const Value& affix, bool prefix, std::string_view name) {
  if (const Sequence* tuple = affix.sequence()) {
    return std::any_of(tuple->items.begin(), tuple->items.end(),
                       [&](const Value& one) { return has_affix(self, one, prefix, name); });
  }
  const std::string& s = need_text(affix, name).str();
  return prefix ? self.str().starts_with(s) : self.str().ends_with(s);
}

Value search(const Text& self, const std::string& name, const Args& args) {
  const auto bound = args.bind(name, {"sub"});
  if (bound[0] == nullptr) {
    throw TemplateError(name + ": expected a string");
  }
  const std::string& sub = need_text(*bound[0], name).str();
  if (name == "count") {
    if (sub.empty()) {
      return static_cast<Int>(count_characters(self.str())) + 1;
    }
    Int n = 0;
    for (size_t at = 0; (at = self.str().find(sub, at)) != std::string::npos; at += sub.size()) {
      ++n;
    }
    return n;
  }
  const bool last = name[0] == 'r';
  const size_t at = last ? self.str().rfind(sub) : self.str().find(sub);
  if (at == std::string::npos) {
    if (name.ends_with("index")) {
      throw TemplateError(name + ": substring not found");
    }
    return Int{-1};
  }
  return static_cast<Int>(count_characters(std::string_view(self.str()).substr(0, at)));
}

bool all_of_kind(const Text& self, const std::string& name) {
  bool any_cased = false;
  for (size_t pos = 0; pos < self.size();) {
    const auto c = tokenizer::decode_utf8(self.str(), pos);
    const auto code = static_cast<utf8proc_int32_t>(c.code_point);
    if (name == "islower" || name == "isupper") {
      const bool wrong = name == "islower" ? utf8proc_isupper(code) != 0 : utf8proc_islower(code) != 0;
      if (wrong) {
        return false;
      }
      any_cased = any_cased || utf8proc_isupper(code) != 0 || utf8proc_islower(code) != 0;
    } else if (!(name == "isspace"   ? is_space(c.code_point)
                 : name == "isdigit" ? is_digit(c.code_point)
                 : name == "isalpha" ? is_letter(c.code_point)
                                     : is_letter(c.code_point) || is_digit(c.code_point))) {
      return false;
    }
    pos += c.bytes;
  }
  return name == "islower" || name == "isupper" ? any_cased : !self.empty();
}

Text join(const Text& separator, const Value& items, Context& context) {
  Text out;
  bool first = true;
  for (const Value& item : iterate(items, context.budget)) {
    if (!first) {
      out.append(separator);
    }
    first = false;
    const Text& part = need_text(item, "join");
    context.budget.bytes(part.size() + separator.size());
    out.append(part);
  }
  return out;
}

// A new word begins after any character that is no letter.
Text title(const Text& text) {
  Text out;
  bool inside = false;
  for (size_t pos = 0; pos < text.size();) {
    const auto c = tokenizer::decode_utf8(text.str(), pos);
    std::string part;
    tokenizer::append_utf8(part, inside ? to_lower(c.code_point) : to_upper(c.code_point));
    out.append(part, text.trusted_at(pos));
    inside = is_letter(c.code_point);
    pos += c.bytes;
  }
  return out;
}

// str.format with {}, {0} and {name}; nothing behind a colon or a bang.
Text format_braces(const Text& self, const Args& args, Context& context) {
  const std::string& s = self.str();
  Text out;
  size_t next = 0;
  for (size_t pos = 0; pos < s.size();) {
    const char c = s[pos];
    if ((c == '{' || c == '}') && pos + 1 < s.size() && s[pos + 1] == c) {
      out.append(self, pos, 1);
      pos += 2;
      continue;
    }
    if (c != '{') {
      out.append(self, pos, 1);
      ++pos;
      continue;
    }
    const size_t close = s.find('}', pos);
    const std::string field = s.substr(pos + 1, close == std::string::npos ? close : close - pos - 1);
    const bool is_index =
        std::all_of(field.begin(), field.end(), [](char d) { return d >= '0' && d <= '9'; });
    const Value* value = nullptr;
    if (close != std::string::npos && is_index && field.size() < 4) {
      const size_t index = field.empty() ? next++ : std::stoul(field);
      value = index < args.positional.size() ? &args.positional[index] : nullptr;
    } else {
      for (const auto& [name, named] : args.named) {
        value = name == field ? &named : value;
      }
    }
    if (value == nullptr) {
      throw TemplateError(fmt::format("format: no value for the field '{}'", field.substr(0, 40)));
    }
    out.append(to_text(*value, context.budget));
    pos = close + 1;
  }
  return out;
}

}  // namespace

Text upper(const Text& text) {
  return map_characters(text, [](uint32_t c, bool) { return to_upper(c); });
}
Text lower(const Text& text) {
  return map_characters(text, [](uint32_t c, bool) { return to_lower(c); });
}
Text capitalize(const Text& text) {
  return map_characters(text, [](uint32_t c, bool first) { return first ? to_upper(c) : to_lower(c); });
}

Text strip_text(const Text& text, bool left, bool right, const Value* chars) {
  const bool by_space = chars == nullptr || chars->is_none();
  const std::string_view set =
      by_space ? std::string_view() : std::string_view(need_text(*chars, "strip").str());
  const Span span = strip(text.str(), left, right, by_space ? nullptr : &set);
  return text.substr(span.begin, span.end - span.begin);
}

Text replace(const Text& text, const Text& from, const Text& to, Int limit, Context& context) {
  const std::string& s = text.str();
  Text out;
  size_t begin = 0;
  Int n = 0;
  const auto insert = [&] {
    context.budget.bytes(to.size() + 1);
    out.append(to);
    ++n;
  };
  if (from.empty()) {  // between all characters, and at both ends
    for (const size_t start : character_starts(s)) {
      out.append(text, begin, start - begin);
      begin = start;
      if (limit < 0 || n < limit) {
        insert();
      }
    }
  }
  for (size_t at = 0;
       !from.empty() && (limit < 0 || n < limit) && (at = s.find(from.str(), at)) != std::string::npos;) {
    out.append(text, begin, at - begin);
    insert();
    at += from.size();
    begin = at;
  }
  out.append(text, begin, std::string::npos);
  return out;
}

Text justify(const Text& text, Int width, const Text& fill, int side, Context& context) {
  const Int missing = width - static_cast<Int>(count_characters(text.str()));
  if (missing <= 0) {
    return text;
  }
  context.budget.bytes(missing > INT64_MAX ? UINT64_MAX : static_cast<uint64_t>(missing) * fill.size());
  // Python's str.center puts the odd one left where width is odd.
  const Int left = side < 0 ? 0 : side > 0 ? missing : missing / 2 + (missing & width & 1);
  Text out;
  for (Int i = 0; i < left; ++i) {
    out.append(fill);
  }
  out.append(text);
  for (Int i = left; i < missing; ++i) {
    out.append(fill);
  }
  return out;
}

std::vector<Text> split_lines(const Text& text, bool keep_ends) {
  std::vector<Text> lines;
  const std::string& s = text.str();
  size_t begin = 0;
  for (size_t pos = 0; pos < s.size();) {
    const size_t boundary = line_boundary(s, pos);
    if (boundary == 0) {
      pos += tokenizer::decode_utf8(s, pos).bytes;
      continue;
    }
    lines.push_back(text.substr(begin, pos - begin + (keep_ends ? boundary : 0)));
    pos += boundary;
    begin = pos;
  }
  if (begin < s.size()) {
    lines.push_back(text.substr(begin));
  }
  return lines;
}

Value call_text_method(const Text& self, const std::string& name, const Args& args, Context& context) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const auto bound = args.bind(name, {"chars"});
    return strip_text(self, name[0] != 'r', name[0] != 'l', bound[0]);
  }
  if (name == "startswith" || name == "endswith") {
    const auto bound = args.bind(name, {"affix"});
    if (bound[0] == nullptr) {
      throw TemplateError(name + ": expected a string");
    }
    return has_affix(self, *bound[0], name[0] == 's', name);
  }
  if (name == "split" || name == "rsplit") {
    return split(self, name, args, context);
  }
  if (name == "splitlines") {
    const auto bound = args.bind(name, {"keepends"});
    std::vector<Text> lines = split_lines(self, flag_or(bound[0], false));
    context.budget.step(lines.size());
    return texts(std::move(lines));
  }
  if (name == "partition" || name == "rpartition") {
    return partition(self, name, args);
  }
  if (name == "replace") {
    const auto bound = args.bind(name, {"old", "new", "count"});
    if (bound[0] == nullptr || bound[1] == nullptr) {
      throw TemplateError("replace: expected two strings");
    }
    return replace(self, need_text(*bound[0], name), need_text(*bound[1], name),
                   integer_or(bound[2], -1, name), context);
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex" || name == "count") {
    return search(self, name, args);
  }
  if (name == "join") {
    const auto bound = args.bind(name, {"iterable"});
    if (bound[0] == nullptr) {
      throw TemplateError("join: expected a list");
    }
    return join(self, *bound[0], context);
  }
  if (name == "format") {
    return format_braces(self, args, context);
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const auto bound = args.bind(name, {"affix"});
    const Text affix = text_or(bound[0], "", name);
    const bool prefix = name == "removeprefix";
    if (!has_affix(self, affix, prefix, name)) {
      return self;
    }
    return prefix ? self.substr(affix.size()) : self.substr(0, self.size() - affix.size());
  }
  if (name == "center" || name == "ljust" || name == "rjust") {
    const auto bound = args.bind(name, {"width", "fillchar"});
    const int side = name == "center" ? 0 : name == "ljust" ? -1 : 1;
    return justify(self, integer_or(bound[0], 0, name), text_or(bound[1], " ", name), side, context);
  }
  args.bind(name, {});
  if (name == "upper") {
    return upper(self);
  }
  if (name == "lower" || name == "casefold") {
    return lower(self);
  }
  if (name == "capitalize") {
    return capitalize(self);
  }
  if (name == "title") {
    return title(self);
  }
  if (name == "swapcase") {
    return map_characters(self,
                          [](uint32_t c, bool) { return to_upper(c) != c ? to_upper(c) : to_lower(c); });
  }
  return all_of_kind(self, name);
}

}  // namespace fl::chat::jinja
