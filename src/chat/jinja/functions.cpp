// Global functions, and the objects that they make.
#include <algorithm>
#include <cmath>
#include <ctime>

#include <fmt/format.h>

#include "chat/jinja/context.h"

namespace fl::chat::jinja {
namespace {

constexpr std::string_view kGlobals[] = {"range",           "dict",        "namespace", "cycler", "joiner",
                                         "raise_exception", "strftime_now"};

Value range(const Args& args) {
  args.bind("range", {"start", "stop", "step"});
  const size_t n = args.positional.size();
  if (n == 0 || !args.named.empty()) {
    throw TemplateError("range: expected 1 to 3 integers");
  }
  // Kept inside 64 bits, so that no sum of theirs can overflow.
  const auto number = [&](size_t i) {
    return std::clamp<Int>(need_integer(args.positional[i], "range"), INT64_MIN, INT64_MAX);
  };
  const Range out{n > 1 ? number(0) : 0, n > 1 ? number(1) : number(0), n > 2 ? number(2) : 1};
  if (out.step == 0) {
    throw TemplateError("range: the step is zero");
  }
  return out;
}

std::vector<std::pair<Value, Value>> dict_entries(const Args& args, std::string_view name, Context& context) {
  if (args.positional.size() > 1) {
    throw TemplateError(fmt::format("{}: expected at most one positional argument", name));
  }
  std::vector<std::pair<Value, Value>> entries;
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (const Dict* dict = source.dict()) {
      context.budget.step(dict->entries.size());
      entries = dict->entries;
    } else {
      for (const Value& item : iterate(source, context.budget)) {
        const Sequence* pair = item.sequence();
        if (pair == nullptr || pair->items.size() != 2) {
          throw TemplateError(fmt::format("{}: expected pairs", name));
        }
        entries.emplace_back(pair->items[0], pair->items[1]);
      }
    }
  }
  for (const auto& [key, value] : args.named) {
    const auto found =
        std::find_if(entries.begin(), entries.end(), [&, k = std::string_view(key)](const auto& entry) {
          return entry.first.text() != nullptr && entry.first.text()->str() == k;
        });
    if (found != entries.end()) {
      found->second = value;
    } else {
      entries.emplace_back(Value::trusted(key), value);
    }
  }
  return entries;
}

Value strftime_now(const Args& args) {
  constexpr size_t kMaxResult = 4096;
  const auto bound = args.bind("strftime_now", {"format"});
  if (bound[0] == nullptr) {
    throw TemplateError("strftime_now: expected a format");
  }
  const Text& format = need_text(*bound[0], "strftime_now");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(kMaxResult, '\0');
  // One character more than the format asks for tells an empty result from one that does not fit.
  const std::string with_mark = format.str() + " ";
  const size_t n = std::strftime(out.data(), out.size(), with_mark.c_str(), &local);
  if (n == 0) {
    throw TemplateError("strftime_now: the result is too long");
  }
  out.resize(n - 1);
  const bool trusted =
      std::all_of(format.runs().begin(), format.runs().end(), [](auto run) { return run.trusted; });
  return Text(std::move(out), trusted);
}

// One conversion of Python's % operator.
struct Conversion {
  bool left = false, zero = false, plus = false;
  Int width = 0;
  Int precision = -1;
};

Text convert(char type, const Conversion& how, const Value& value, Context& context) {
  if (type == 's' || type == 'r') {
    Text text;
    if (type == 's') {
      text = to_text(value, context.budget);
    } else {
      append_repr(text, value, context.budget);
    }
    return text;
  }
  double real = 0;
  Int integer = 0;
  if (!is_number(value, real)) {
    throw TemplateError(fmt::format("%{}: expected a number, found '{}'", type, type_name(value)));
  }
  const char* sign = how.plus && real >= 0 ? "+" : "";
  const auto precision = static_cast<int>(how.precision < 0 ? 6 : how.precision);
  switch (type) {
    case 'd':
    case 'i':
      if (!is_integer(value, integer)) {
        if (!(std::fabs(real) < 1e37)) {
          throw TemplateError("%d: the number is too large");
        }
        integer = static_cast<Int>(real);
      }
      return Text(sign + format_integer(integer), true);
    case 'f':
      return Text(sign + fmt::format("{:.{}f}", real, precision), true);
    case 'e':
      return Text(sign + fmt::format("{:.{}e}", real, precision), true);
    case 'g':
      return Text(sign + fmt::format("{:.{}g}", real, std::max(precision, 1)), true);
    case 'x':
      integer = need_integer(value, "%x");
      if (integer < 0 || integer > INT64_MAX) {
        throw TemplateError("%x: expected a positive integer of 63 bits");
      }
      return Text(fmt::format("{:x}", static_cast<int64_t>(integer)), true);
    default:
      throw TemplateError(fmt::format("unknown conversion '%{}'", type));
  }
}

}  // namespace

Text format_percent(const Text& format, const Value& values, Context& context) {
  constexpr Int kMaxWidth = 4096;
  const std::string& s = format.str();
  const Sequence* tuple = values.sequence();
  const bool many = tuple != nullptr && tuple->type == Sequence::tuple;
  size_t used = 0;
  Text out;
  for (size_t pos = 0; pos < s.size();) {
    const size_t percent = std::min(s.find('%', pos), s.size());
    out.append(format, pos, percent - pos);
    if (percent == s.size()) {
      break;
    }
    pos = percent + 1;
    const Value* value = nullptr;
    Value member;
    if (pos < s.size() && s[pos] == '(') {
      const size_t close = std::min(s.find(')', pos), s.size());
      member = get_item(values, Value::trusted(s.substr(pos + 1, close - pos - 1)), context);
      value = &member;
      pos = std::min(close + 1, s.size());
    }
    Conversion how;
    for (; pos < s.size() && std::string_view("-0+ #").find(s[pos]) != std::string_view::npos; ++pos) {
      how.left = how.left || s[pos] == '-';
      how.zero = how.zero || s[pos] == '0';
      how.plus = how.plus || s[pos] == '+';
    }
    const auto number = [&] {
      Int n = 0;
      for (; pos < s.size() && s[pos] >= '0' && s[pos] <= '9'; ++pos) {
        n = std::min<Int>(n * 10 + (s[pos] - '0'), kMaxWidth);
      }
      return n;
    };
    how.width = number();
    if (pos < s.size() && s[pos] == '.') {
      ++pos;
      how.precision = number();
    }
    if (pos >= s.size()) {
      throw TemplateError("a format ends inside a conversion");
    }
    const char type = s[pos++];
    if (type == '%') {
      out.append("%", true);
      continue;
    }
    if (value == nullptr) {
      if (many ? used >= tuple->items.size() : used > 0) {
        throw TemplateError("not enough arguments for format string");
      }
      value = many ? &tuple->items[used] : &values;
      ++used;
    }
    Text part = convert(type, how, *value, context);
    const Int missing = how.width - static_cast<Int>(count_characters(part.str()));
    const std::string fill(missing > 0 ? static_cast<size_t>(missing) : 0, how.zero && !how.left ? '0' : ' ');
    context.budget.bytes(part.size() + fill.size());
    const bool numeric_sign =
        how.zero && !how.left && !part.empty() && (part.str()[0] == '-' || part.str()[0] == '+');
    if (numeric_sign && type != 's' && type != 'r') {
      out.append(part, 0, 1);
      part = part.substr(1);
    }
    if (!how.left) {
      out.append(fill, true);
    }
    out.append(part);
    if (how.left) {
      out.append(fill, true);
    }
  }
  if (many && used < tuple->items.size()) {
    throw TemplateError("not all arguments converted during string formatting");
  }
  return out;
}

Value find_global(const std::string& name, Context& context) {
  if (std::find(std::begin(kGlobals), std::end(kGlobals), name) == std::end(kGlobals)) {
    return Value::undefined(fmt::format("'{}' is undefined", name));
  }
  return context.make<GlobalFunction>(name);
}

Value call_global(std::string_view name, const Args& args, Context& context) {
  if (name == "range") {
    return range(args);
  }
  if (name == "dict") {
    return make_dict(dict_entries(args, name, context));
  }
  if (name == "namespace") {
    auto* space = context.make<Namespace>();
    for (auto& [key, value] : dict_entries(args, name, context)) {
      space->set(need_text(key, name).str(), std::move(value));
    }
    return space;
  }
  if (name == "cycler") {
    if (args.positional.empty()) {
      throw TemplateError("cycler: expected items");
    }
    return context.make<Cycler>(args.positional);
  }
  if (name == "joiner") {
    const auto bound = args.bind("joiner", {"sep"});
    return context.make<Joiner>(text_or(bound[0], ", ", "joiner"));
  }
  if (name == "raise_exception") {
    const auto bound = args.bind("raise_exception", {"message"});
    throw TemplateError(bound[0] == nullptr ? "" : to_text(*bound[0], context.budget).str(), true);
  }
  return strftime_now(args);
}

Value Namespace::attribute(const std::string& name) const {
  for (const auto& [member, value] : members_) {
    if (member == name) {
      return value;
    }
  }
  return Value::undefined(fmt::format("the namespace has no member '{}'", name.substr(0, 80)));
}

void Namespace::set(const std::string& name, Value value) {
  for (auto& [member, old] : members_) {
    if (member == name) {
      old = std::move(value);
      return;
    }
  }
  members_.emplace_back(name, std::move(value));
}

Value Cycler::attribute(const std::string& name) const {
  return name == "current" ? items_[pos_] : Value::undefined("the cycler has no such attribute");
}

Value Cycler::next() {
  Value item = items_[pos_];
  pos_ = (pos_ + 1) % items_.size();
  return item;
}

Value Joiner::next() {
  if (!used_) {
    used_ = true;
    return Text();
  }
  return separator_;
}

}  // namespace fl::chat::jinja
