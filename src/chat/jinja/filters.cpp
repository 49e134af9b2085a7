// Filters on sequences, mappings and numbers.
#include "chat/jinja/filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "chat/jinja/tests.h"
#include "chat/jinja/text_methods.h"

namespace fl::chat::jinja {
namespace {

Value default_filter(const Value& input, const Args& args, Context&) {
  const auto bound = args.bind("default", {"default_value", "boolean"});
  if (input.is_undefined() || (flag_or(bound[1], false) && !truthy(input))) {
    return bound[0] == nullptr ? Value(Text()) : *bound[0];
  }
  return input;
}

Value length_filter(const Value& input, const Args& args, Context& context) {
  args.bind("length", {});
  if (input.text() != nullptr) {
    context.budget.bytes(input.text()->size());
  }
  return length(input);
}

Value items_filter(const Value& input, const Args& args, Context& context) {
  args.bind("items", {});
  std::vector<Value> items;
  if (const Dict* dict = input.dict()) {
    context.budget.step(dict->entries.size());
    for (const auto& [key, value] : dict->entries) {
      items.push_back(make_sequence({key, value}, Sequence::tuple));
    }
  } else if (!input.is_undefined()) {
    throw TemplateError("Can only get item pairs from a mapping.");
  }
  return make_sequence(std::move(items), Sequence::generator);
}

Value list_filter(const Value& input, const Args& args, Context& context) {
  args.bind("list", {});
  return make_sequence(iterate(input, context.budget));
}

Value edge(const Value& input, const Args& args, Context& context, bool last) {
  args.bind(last ? "last" : "first", {});
  const std::vector<Value> items = iterate(input, context.budget);
  if (items.empty()) {
    return Value::undefined("the sequence is empty");
  }
  return last ? items.back() : items.front();
}
Value first(const Value& input, const Args& args, Context& context) {
  return edge(input, args, context, false);
}
Value last(const Value& input, const Args& args, Context& context) {
  return edge(input, args, context, true);
}

Value join(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("join", {"d", "attribute"});
  const Text separator = bound[0] == nullptr ? Text() : to_text(*bound[0], context.budget);
  Text out;
  bool first_one = true;
  for (const Value& item : iterate(input, context.budget)) {
    context.budget.bytes(separator.size());
    if (!first_one) {
      out.append(separator);
    }
    first_one = false;
    const bool whole = bound[1] == nullptr || bound[1]->is_none();
    out.append(to_text(whole ? item : get_path(item, *bound[1], context), context.budget));
  }
  return out;
}

Value reverse(const Value& input, const Args& args, Context& context) {
  args.bind("reverse", {});
  std::vector<Value> items = iterate(input, context.budget);
  std::reverse(items.begin(), items.end());
  if (input.text() == nullptr) {
    return make_sequence(std::move(items), Sequence::generator);
  }
  Text out;
  for (const Value& item : items) {
    out.append(*item.text());
  }
  return out;
}

// What is compared: a part of the item, small letters unless case counts.
Value sort_key(const Value& item, const Value* attribute, bool case_sensitive, Context& context) {
  const Value key = attribute == nullptr || attribute->is_none() ? item : get_path(item, *attribute, context);
  return key.text() != nullptr && !case_sensitive ? Value(lower(*key.text())) : key;
}

std::vector<Value> sorted(std::vector<Value> items, const Value* attribute, bool case_sensitive,
                          bool reversed, Context& context) {
  struct Keyed {
    Value key, item;
  };
  std::vector<Keyed> keyed;
  keyed.reserve(items.size());
  for (Value& item : items) {
    keyed.push_back({sort_key(item, attribute, case_sensitive, context), item});
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    const int order = compare(a.key, b.key, context.budget);
    return reversed ? order > 0 : order < 0;
  });
  items.clear();
  for (Keyed& one : keyed) {
    items.push_back(std::move(one.item));
  }
  return items;
}

Value sort(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("sort", {"reverse", "case_sensitive", "attribute"});
  return make_sequence(sorted(iterate(input, context.budget), bound[2], flag_or(bound[1], false),
                              flag_or(bound[0], false), context));
}

Value dictsort(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("dictsort", {"case_sensitive", "by", "reverse"});
  if (input.dict() == nullptr) {
    throw TemplateError(fmt::format("dictsort: expected a mapping, found '{}'", type_name(input)));
  }
  std::vector<Value> items;
  for (const auto& [key, value] : input.dict()->entries) {
    items.push_back(make_sequence({key, value}, Sequence::tuple));
  }
  const Value part = text_or(bound[1], "key", "dictsort").str() == "value" ? Int{1} : Int{0};
  return make_sequence(
      sorted(std::move(items), &part, flag_or(bound[0], false), flag_or(bound[2], false), context));
}

Value extreme(const Value& input, const Args& args, Context& context, bool largest) {
  const auto bound = args.bind(largest ? "max" : "min", {"case_sensitive", "attribute"});
  const std::vector<Value> items =
      sorted(iterate(input, context.budget), bound[1], flag_or(bound[0], false), largest, context);
  return items.empty() ? Value::undefined("the sequence is empty") : items.front();
}
Value min(const Value& input, const Args& args, Context& context) {
  return extreme(input, args, context, false);
}
Value max(const Value& input, const Args& args, Context& context) {
  return extreme(input, args, context, true);
}

Value unique(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("unique", {"case_sensitive", "attribute"});
  std::vector<Value> keys;
  std::vector<Value> items;
  for (const Value& item : iterate(input, context.budget)) {
    Value key = sort_key(item, bound[1], flag_or(bound[0], false), context);
    if (std::none_of(keys.begin(), keys.end(),
                     [&](const Value& k) { return equals(k, key, context.budget); })) {
      keys.push_back(std::move(key));
      items.push_back(item);
    }
  }
  return make_sequence(std::move(items), Sequence::generator);
}

Value groupby(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("groupby", {"attribute", "default", "case_sensitive"});
  if (bound[0] == nullptr) {
    throw TemplateError("groupby: expected an attribute");
  }
  struct Keyed {
    Value key, item;
  };
  std::vector<Keyed> keyed;
  for (const Value& item : iterate(input, context.budget)) {
    keyed.push_back({get_path(item, *bound[0], context, bound[1]), item});
  }
  const bool case_sensitive = flag_or(bound[2], false);
  const auto order = [&](const Keyed& a, const Keyed& b) {
    return compare(sort_key(a.key, nullptr, case_sensitive, context),
                   sort_key(b.key, nullptr, case_sensitive, context), context.budget);
  };
  std::stable_sort(keyed.begin(), keyed.end(),
                   [&](const Keyed& a, const Keyed& b) { return order(a, b) < 0; });
  std::vector<Value> groups;
  for (size_t begin = 0; begin < keyed.size();) {
    size_t end = begin;
    std::vector<Value> members;
    for (; end < keyed.size() && order(keyed[begin], keyed[end]) == 0; ++end) {
      members.push_back(keyed[end].item);
    }
    groups.push_back(make_sequence({keyed[begin].key, make_sequence(std::move(members))}, Sequence::group));
    begin = end;
  }
  return make_sequence(std::move(groups));
}

Value map(const Value& input, const Args& args, Context& context) {
  std::vector<Value> items = iterate(input, context.budget);
  if (args.positional.empty()) {
    const auto bound = args.bind("map", {"attribute", "default"});
    if (bound[0] == nullptr) {
      throw TemplateError("map: expected a filter or an attribute");
    }
    for (Value& item : items) {
      item = get_path(item, *bound[0], context, bound[1]);
    }
  } else {
    const std::string& name = need_text(args.positional[0], "map").str();
    const Filter filter = find_filter(name);
    if (filter == nullptr) {
      throw TemplateError(fmt::format("map: there is no filter '{}'", name.substr(0, 40)));
    }
    Args rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
    for (Value& item : items) {
      context.budget.step();
      item = filter(item, rest, context);
    }
  }
  return make_sequence(std::move(items), Sequence::generator);
}

// select, reject, selectattr, rejectattr.
Value choose(const Value& input, const Args& args, Context& context, bool by_attribute, bool wanted) {
  Args rest = args;
  Value attribute;
  if (by_attribute) {
    if (rest.positional.empty()) {
      throw TemplateError("selectattr: expected an attribute");
    }
    attribute = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
  }
  Test test = nullptr;
  if (!rest.positional.empty()) {
    const std::string& name = need_text(rest.positional.front(), "select").str();
    test = find_test(name);
    if (test == nullptr) {
      throw TemplateError(fmt::format("select: there is no test '{}'", name.substr(0, 40)));
    }
    rest.positional.erase(rest.positional.begin());
  }
  std::vector<Value> chosen;
  for (const Value& item : iterate(input, context.budget)) {
    context.budget.step();
    const Value subject = by_attribute ? get_path(item, attribute, context) : item;
    if ((test == nullptr ? truthy(subject) : test(subject, rest, context)) == wanted) {
      chosen.push_back(item);
    }
  }
  return make_sequence(std::move(chosen), Sequence::generator);
}
Value select(const Value& v, const Args& a, Context& c) {
  return choose(v, a, c, false, true);
}
Value reject(const Value& v, const Args& a, Context& c) {
  return choose(v, a, c, false, false);
}
Value selectattr(const Value& v, const Args& a, Context& c) {
  return choose(v, a, c, true, true);
}
Value rejectattr(const Value& v, const Args& a, Context& c) {
  return choose(v, a, c, true, false);
}

Value attr(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("attr", {"name"});
  const std::string name = text_or(bound[0], "", "attr").str();
  // Attributes only, never members of a mapping.
  return input.dict() != nullptr && !has_method(input, name)
             ? Value::undefined("no attribute " + name.substr(0, 80))
             : get_attribute(input, name, context);
}

Value sum(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("sum", {"attribute", "start"});
  Int whole = 0;
  double real = 0;
  bool is_real = false;
  const auto add = [&](const Value& value) {
    Int i = 0;
    double d = 0;
    if (is_integer(value, i)) {
      if (__builtin_add_overflow(whole, i, &whole)) {
        throw TemplateError("sum: the result is too large");
      }
      real += static_cast<double>(i);
    } else if (is_number(value, d)) {
      is_real = true;
      real += d;
    } else {
      throw TemplateError(fmt::format("sum: expected numbers, found '{}'", type_name(value)));
    }
  };
  if (bound[1] != nullptr) {
    add(*bound[1]);
  }
  for (const Value& item : iterate(input, context.budget)) {
    add(bound[0] == nullptr || bound[0]->is_none() ? item : get_path(item, *bound[0], context));
  }
  return is_real ? Value(real) : Value(whole);
}

Value abs_filter(const Value& input, const Args& args, Context&) {
  args.bind("abs", {});
  if (const double* d = std::get_if<double>(&input.storage())) {
    return std::fabs(*d);
  }
  const Int i = need_integer(input, "abs");
  return i < 0 && i != -i ? -i : i;
}

// To a multiple of 10^-places, halves to even.
Int round_integer(Int value, Int places) {
  constexpr Int kDigits = 38;  // of the largest Int
  if (places < -kDigits) {
    return 0;
  }
  Int unit = 1;
  for (Int i = 0; i < -places; ++i) {
    if (__builtin_mul_overflow(unit, Int{10}, &unit)) {
      return 0;
    }
  }
  const Int rest = (value % unit + unit) % unit;
  const Int below = value - rest;
  const bool up = rest > unit - rest || (rest == unit - rest && (below / unit) % 2 != 0);
  return up ? below + unit : below;
}

Value round_filter(const Value& input, const Args& args, Context&) {
  constexpr Int kMaxPlaces = 300;
  const auto bound = args.bind("round", {"precision", "method"});
  double value = 0;
  if (!is_number(input, value)) {
    throw TemplateError(fmt::format("round: expected a number, found '{}'", type_name(input)));
  }
  const Int places = std::clamp<Int>(integer_or(bound[0], 0, "round"), -kMaxPlaces, kMaxPlaces);
  const std::string method = text_or(bound[1], "common", "round").str();
  const double scale = std::pow(10.0, static_cast<double>(places));
  if (method == "ceil" || method == "floor") {
    return (method == "ceil" ? std::ceil(value * scale) : std::floor(value * scale)) / scale;
  }
  if (method != "common") {
    throw TemplateError("round: expected common, ceil or floor");
  }
  if (Int whole = 0; is_integer(input, whole)) {
    return round_integer(whole, places);
  }
  if (places < 0) {
    return std::nearbyint(value * scale) / scale;
  }
  // Correctly rounded from the exact binary value, ties to even, as Python's round is.
  const std::string digits = fmt::format("{:.{}f}", value, static_cast<int>(places));
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

Value int_filter(const Value& input, const Args& args, Context&) {
  const auto bound = args.bind("int", {"default", "base"});
  Value fallback = bound[0] == nullptr ? Value(Int{0}) : *bound[0];
  Int integer = 0;
  if (is_integer(input, integer)) {
    return integer;
  }
  double real = 0;
  constexpr double kLimit = 1e37;  // below 2^127
  if (const Text* text = input.text()) {
    const Span span = strip(text->str(), true, true, nullptr);
    std::string_view s = std::string_view(text->str()).substr(span.begin, span.end - span.begin);
    s.remove_prefix(s.starts_with('+') ? 1 : 0);
    const auto base = static_cast<int>(std::clamp<Int>(integer_or(bound[1], 10, "int"), 2, 36));
    int64_t value = 0;
    const auto result = std::from_chars(s.data(), s.data() + s.size(), value, base);
    if (!s.empty() && result.ec == std::errc() && result.ptr == s.data() + s.size()) {
      return Int{value};
    }
    const auto real_result = std::from_chars(s.data(), s.data() + s.size(), real);
    if (s.empty() || real_result.ec != std::errc() || real_result.ptr != s.data() + s.size()) {
      return fallback;
    }
  } else if (!is_number(input, real)) {
    return fallback;
  }
  return std::fabs(real) < kLimit ? Value(static_cast<Int>(real)) : fallback;
}

Value float_filter(const Value& input, const Args& args, Context&) {
  const auto bound = args.bind("float", {"default"});
  double real = 0;
  if (is_number(input, real)) {
    return real;
  }
  if (const Text* text = input.text()) {
    const Span span = strip(text->str(), true, true, nullptr);
    std::string_view s = std::string_view(text->str()).substr(span.begin, span.end - span.begin);
    s.remove_prefix(s.starts_with('+') ? 1 : 0);
    const auto result = std::from_chars(s.data(), s.data() + s.size(), real);
    if (!s.empty() && result.ec == std::errc() && result.ptr == s.data() + s.size()) {
      return real;
    }
  }
  return bound[0] == nullptr ? Value(0.0) : *bound[0];
}

Value batch(const Value& input, const Args& args, Context& context) {
  const auto bound = args.bind("batch", {"linecount", "fill_with"});
  const Int size = integer_or(bound[0], 0, "batch");
  if (size < 1) {
    throw TemplateError("batch: expected a count of at least 1");
  }
  std::vector<Value> rows;
  std::vector<Value> row;
  for (Value& item : iterate(input, context.budget)) {
    row.push_back(std::move(item));
    if (static_cast<Int>(row.size()) == size) {
      rows.push_back(make_sequence(std::exchange(row, {})));
    }
  }
  if (!row.empty()) {
    while (bound[1] != nullptr && !bound[1]->is_none() && static_cast<Int>(row.size()) < size) {
      context.budget.step();
      row.push_back(*bound[1]);
    }
    rows.push_back(make_sequence(std::move(row)));
  }
  return make_sequence(std::move(rows), Sequence::generator);
}

constexpr NamedFilter kFilters[] = {
    {"abs", abs_filter},
    {"attr", attr},
    {"batch", batch},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"first", first},
    {"float", float_filter},
    {"groupby", groupby},
    {"int", int_filter},
    {"items", items_filter},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", list_filter},
    {"map", map},
    {"max", max},
    {"min", min},
    {"reject", reject},
    {"rejectattr", rejectattr},
    {"reverse", reverse},
    {"round", round_filter},
    {"select", select},
    {"selectattr", selectattr},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [&](const NamedFilter& f) { return f.name == name; });
  return found == std::end(kFilters) ? find_text_filter(name) : found->filter;
}

}  // namespace fl::chat::jinja
