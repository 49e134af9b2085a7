#include "chat/jinja/tests.h"

#include <utf8proc.h>

#include <algorithm>

#include <fmt/format.h>

#include "chat/jinja/filters.h"
#include "tokenizer/utf8.h"

namespace fl::chat::jinja {
namespace {

const Value& operand(const Args& args, std::string_view test) {
  if (args.positional.size() != 1 || !args.named.empty()) {
    throw TemplateError(fmt::format("the test '{}' takes one argument", test));
  }
  return args.positional[0];
}

Int integer(const Value& value, std::string_view test) {
  return need_integer(value, test);
}

Int modulo(Int a, Int b) {
  const Int r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

// At least one cased character, and all of them as wanted.
bool cased(const Value& value, bool upper, Context& context) {
  const Text text = to_text(value, context.budget);
  bool any = false;
  for (size_t pos = 0; pos < text.size();) {
    const auto c = tokenizer::decode_utf8(text.str(), pos);
    const auto code = static_cast<utf8proc_int32_t>(c.code_point);
    const bool is_upper = utf8proc_isupper(code) != 0;
    const bool is_lower = utf8proc_islower(code) != 0;
    if (upper ? is_lower : is_upper) {
      return false;
    }
    any = any || (upper ? is_upper : is_lower);
    pos += c.bytes;
  }
  return any;
}

bool same(const Value& a, const Value& b, Context& context) {
  // Identity of immutable values is equality of kind and value.
  return a.storage().index() == b.storage().index() && equals(a, b, context.budget);
}

struct Named {
  std::string_view name;
  Test test;
};

constexpr Named kTests[] = {
    {"defined", [](const Value& v, const Args&, Context&) { return !v.is_undefined(); }},
    {"undefined", [](const Value& v, const Args&, Context&) { return v.is_undefined(); }},
    {"none", [](const Value& v, const Args&, Context&) { return v.is_none(); }},
    {"boolean", [](const Value& v, const Args&, Context&) { return v.is<bool>(); }},
    {"true", [](const Value& v, const Args&, Context&) { return v.is<bool>() && truthy(v); }},
    {"false", [](const Value& v, const Args&, Context&) { return v.is<bool>() && !truthy(v); }},
    {"integer", [](const Value& v, const Args&, Context&) { return v.is<Int>(); }},
    {"float", [](const Value& v, const Args&, Context&) { return v.is<double>(); }},
    {"number",
     [](const Value& v, const Args&, Context&) { return v.is<Int>() || v.is<double>() || v.is<bool>(); }},
    {"string", [](const Value& v, const Args&, Context&) { return v.text() != nullptr; }},
    {"mapping", [](const Value& v, const Args&, Context&) { return v.dict() != nullptr; }},
    {"iterable", [](const Value& v, const Args&, Context&) { return is_iterable(v); }},
    {"sequence",
     [](const Value& v, const Args&, Context&) {
       return is_iterable(v) && (v.sequence() == nullptr || v.sequence()->type != Sequence::generator);
     }},
    {"callable",
     [](const Value& v, const Args&, Context&) { return v.object() != nullptr && v.object()->callable(); }},
    {"sameas", [](const Value& v, const Args& a, Context& c) { return same(v, operand(a, "sameas"), c); }},
    {"escaped", [](const Value&, const Args&, Context&) { return false; }},
    {"odd", [](const Value& v, const Args&, Context&) { return modulo(integer(v, "odd"), 2) == 1; }},
    {"even", [](const Value& v, const Args&, Context&) { return modulo(integer(v, "even"), 2) == 0; }},
    {"divisibleby",
     [](const Value& v, const Args& a, Context&) {
       const Int by = integer(operand(a, "divisibleby"), "divisibleby");
       if (by == 0) {
         throw TemplateError("division by zero");
       }
       return modulo(integer(v, "divisibleby"), by) == 0;
     }},
    {"lower", [](const Value& v, const Args&, Context& c) { return cased(v, false, c); }},
    {"upper", [](const Value& v, const Args&, Context& c) { return cased(v, true, c); }},
    {"in", [](const Value& v, const Args& a, Context& c) { return contains(operand(a, "in"), v, c.budget); }},
    {"filter", [](const Value& v, const Args&,
                  Context&) { return find_filter(need_text(v, "filter").str()) != nullptr; }},
    {"test",
     [](const Value& v, const Args&, Context&) { return find_test(need_text(v, "test").str()) != nullptr; }},
    {"eq", [](const Value& v, const Args& a, Context& c) { return equals(v, operand(a, "eq"), c.budget); }},
    {"ne", [](const Value& v, const Args& a, Context& c) { return !equals(v, operand(a, "ne"), c.budget); }},
    {"lt",
     [](const Value& v, const Args& a, Context& c) { return compare(v, operand(a, "lt"), c.budget) < 0; }},
    {"le",
     [](const Value& v, const Args& a, Context& c) { return compare(v, operand(a, "le"), c.budget) <= 0; }},
    {"gt",
     [](const Value& v, const Args& a, Context& c) { return compare(v, operand(a, "gt"), c.budget) > 0; }},
    {"ge",
     [](const Value& v, const Args& a, Context& c) { return compare(v, operand(a, "ge"), c.budget) >= 0; }},
};

constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"==", "eq"}, {"equalto", "eq"}, {"!=", "ne"},          {"<", "lt"}, {"lessthan", "lt"},
    {"<=", "le"}, {">", "gt"},       {"greaterthan", "gt"}, {">=", "ge"}};

}  // namespace

Test find_test(std::string_view name) {
  for (const auto& [alias, target] : kAliases) {
    if (alias == name) {
      name = target;
      break;
    }
  }
  const auto* found =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const Named& t) { return t.name == name; });
  return found == std::end(kTests) ? nullptr : found->test;
}

}  // namespace fl::chat::jinja
