// Attributes, items, arguments.
#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>

#include "chat/jinja/context.h"

namespace fl::chat::jinja {
namespace {

constexpr std::array<std::string_view, 35> kTextMethods{
    "capitalize", "casefold",   "center",     "count",   "endswith",   "find",         "format",
    "index",      "isalnum",    "isalpha",    "isdigit", "islower",    "isspace",      "isupper",
    "join",       "ljust",      "lower",      "lstrip",  "partition",  "removeprefix", "removesuffix",
    "replace",    "rfind",      "rindex",     "rjust",   "rpartition", "rsplit",       "rstrip",
    "split",      "splitlines", "startswith", "strip",   "swapcase",   "title",        "upper"};
constexpr std::array<std::string_view, 5> kDictMethods{"get", "items", "keys", "values", "copy"};
constexpr std::array<std::string_view, 2> kListMethods{"count", "index"};

template <size_t N>
bool among(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Stands for a method that is looked at and not called: it is there, and true.
class Method : public Object {
 public:
  std::string_view type_name() const override { return "method"; }
  bool callable() const override { return true; }
  Value attribute(const std::string&) const override { return {}; }
};

// Position in a container of n, from its end if negative; false if outside.
bool resolve(Int index, size_t n, size_t& out) {
  const Int size = static_cast<Int>(n);
  if (index < -size || index >= size) {
    return false;
  }
  out = static_cast<size_t>(index < 0 ? index + size : index);
  return true;
}

Value missing(const Value& value, std::string_view name) {
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", type_name(value), name.substr(0, 80)));
}

}  // namespace

std::vector<const Value*> Args::bind(std::string_view function,
                                     std::initializer_list<std::string_view> names) const {
  std::vector<const Value*> bound(names.size(), nullptr);
  if (positional.size() > names.size()) {
    throw TemplateError(fmt::format("{}: expected at most {} arguments, found {}", function, names.size(),
                                    positional.size()));
  }
  for (size_t i = 0; i < positional.size(); ++i) {
    bound[i] = &positional[i];
  }
  for (const auto& [name, value] : named) {
    const auto found = std::find(names.begin(), names.end(), name);
    const auto i = static_cast<size_t>(found - names.begin());
    if (found == names.end() || bound[i] != nullptr) {
      throw TemplateError(fmt::format("{}: unexpected argument '{}'", function, name));
    }
    bound[i] = &value;
  }
  return bound;
}

const Text& need_text(const Value& value, std::string_view function) {
  if (value.text() == nullptr) {
    throw TemplateError(fmt::format("{}: expected a string, found '{}'", function, type_name(value)));
  }
  return *value.text();
}

Int need_integer(const Value& value, std::string_view function) {
  Int out = 0;
  if (!is_integer(value, out)) {
    throw TemplateError(fmt::format("{}: expected an integer, found '{}'", function, type_name(value)));
  }
  return out;
}

bool flag_or(const Value* value, bool fallback) {
  return value == nullptr ? fallback : truthy(*value);
}

Int integer_or(const Value* value, Int fallback, std::string_view function) {
  return value == nullptr ? fallback : need_integer(*value, function);
}

Text text_or(const Value* value, std::string_view fallback, std::string_view function) {
  return value == nullptr ? Text(std::string(fallback), true) : need_text(*value, function);
}

bool has_method(const Value& value, std::string_view name) {
  return (value.text() != nullptr && among(kTextMethods, name)) ||
         (value.dict() != nullptr && among(kDictMethods, name)) ||
         (value.sequence() != nullptr && among(kListMethods, name));
}

Value get_attribute(const Value& value, const std::string& name, Context& context) {
  context.budget.step();
  if (value.is_undefined()) {
    const auto& what = std::get<Undefined>(value.storage()).what;
    throw TemplateError(
        fmt::format("{} (looking for '{}')", what ? *what : "an undefined value is used", name));
  }
  if (has_method(value, name)) {
    return context.make<Method>();
  }
  if (const Object* object = value.object()) {
    return object->attribute(name);
  }
  if (const Dict* dict = value.dict()) {
    context.budget.step(dict->entries.size() / 8);
    const Value* found = dict->find(name);
    return found == nullptr ? missing(value, name) : *found;
  }
  if (const Sequence* s = value.sequence(); s != nullptr && s->type == Sequence::group) {
    if (name == "grouper" || name == "list") {
      return s->items[name == "list" ? 1 : 0];
    }
  }
  return missing(value, name);
}

Value get_item(const Value& value, const Value& key, Context& context) {
  context.budget.step();
  if (value.is_undefined()) {
    return get_attribute(value, "[...]", context);
  }
  if (const Dict* dict = value.dict()) {
    for (const auto& [k, v] : dict->entries) {
      if (equals(k, key, context.budget)) {
        return v;
      }
    }
  }
  Int index = 0;
  if (is_integer(key, index)) {
    size_t at = 0;
    if (const Sequence* s = value.sequence(); s != nullptr && s->type != Sequence::generator) {
      return resolve(index, s->items.size(), at) ? s->items[at] : missing(value, format_integer(index));
    }
    if (const Text* text = value.text()) {
      context.budget.bytes(text->size());
      const std::vector<size_t> starts = character_starts(text->str());
      return resolve(index, starts.size() - 1, at)
                 ? Value(text->substr(starts[at], starts[at + 1] - starts[at]))
                 : missing(value, format_integer(index));
    }
    if (const Range* range = value.range()) {
      const Int n = range->size();
      if (index >= -n && index < n) {
        return range->start + (index < 0 ? index + n : index) * range->step;
      }
    }
    return missing(value, format_integer(index));
  }
  if (key.text() != nullptr && (value.dict() == nullptr || has_method(value, key.text()->str()))) {
    return get_attribute(value, key.text()->str(), context);
  }
  return missing(value, key.text() != nullptr ? key.text()->str() : type_name(key));
}

Value get_path(const Value& value, const Value& path, Context& context, const Value* fallback) {
  const auto or_fallback = [fallback](const Value& found) {
    return found.is_undefined() && fallback != nullptr ? *fallback : found;
  };
  Int index = 0;
  if (is_integer(path, index)) {
    return or_fallback(get_item(value, path, context));
  }
  const std::string& names = need_text(path, "attribute").str();
  Value at = value;
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find('.', begin), names.size());
    const std::string name = names.substr(begin, end - begin);
    int64_t number = 0;
    const auto result = std::from_chars(name.data(), name.data() + name.size(), number);
    const bool is_number =
        !name.empty() && result.ec == std::errc() && result.ptr == name.data() + name.size();
    at = or_fallback(get_item(at, is_number ? Value(Int{number}) : Value::trusted(name), context));
    begin = end + 1;
  }
  return at;
}

}  // namespace fl::chat::jinja
