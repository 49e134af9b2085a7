// Arithmetic as Python has it.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "chat/jinja/interpreter.h"

namespace fl::chat::jinja {
namespace {

[[noreturn]] void too_large() {
  throw TemplateError("an integer is too large");
}
[[noreturn]] void by_zero() {
  throw TemplateError("division by zero");
}

Int floor_divide(Int a, Int b) {
  const Int q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

double float_modulo(double a, double b) {
  const double r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

Value integer_power(Int base, Int exponent) {
  if (exponent < 0) {
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  Int result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) {
      too_large();
    }
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) {
      too_large();
    }
  }
  return result;
}

Value integer_operation(const std::string& op, Int a, Int b) {
  Int out = 0;
  if (op == "+"   ? __builtin_add_overflow(a, b, &out)
      : op == "-" ? __builtin_sub_overflow(a, b, &out)
      : op == "*" ? __builtin_mul_overflow(a, b, &out)
                  : false) {
    too_large();
  }
  if (op == "+" || op == "-" || op == "*") {
    return out;
  }
  if (op == "**") {
    return integer_power(a, b);
  }
  if (b == 0) {
    by_zero();
  }
  if (op == "/") {
    return static_cast<double>(a) / static_cast<double>(b);
  }
  if (b == -1) {  // the one quotient that can overflow
    if (op == "%") {
      return Int{0};
    }
    if (__builtin_sub_overflow(Int{0}, a, &out)) {
      too_large();
    }
    return out;
  }
  const Int q = floor_divide(a, b);
  return op == "//" ? q : a - q * b;
}

Value real_operation(const std::string& op, double a, double b) {
  if (op == "+") {
    return a + b;
  }
  if (op == "-") {
    return a - b;
  }
  if (op == "*") {
    return a * b;
  }
  if (op == "**") {
    return std::pow(a, b);
  }
  if (b == 0) {
    by_zero();
  }
  return op == "/" ? a / b : op == "//" ? std::floor(a / b) : float_modulo(a, b);
}

Value repeat(const Value& value, Int times, Context& context) {
  times = std::max<Int>(times, 0);
  const auto cost = [&](size_t n) {
    const Int total = times > INT64_MAX ? INT64_MAX : times * static_cast<Int>(n);
    return total > INT64_MAX ? UINT64_MAX : static_cast<uint64_t>(total);
  };
  if (const Text* text = value.text()) {
    context.budget.bytes(cost(text->size()));
    Text out;
    for (Int i = 0; i < times && !text->empty(); ++i) {
      out.append(*text);
    }
    return out;
  }
  const Sequence* sequence = value.sequence();
  context.budget.step(cost(sequence->items.size()));
  std::vector<Value> items;
  for (Int i = 0; i < times && !sequence->items.empty(); ++i) {
    items.insert(items.end(), sequence->items.begin(), sequence->items.end());
  }
  return make_sequence(std::move(items), sequence->type);
}

}  // namespace

Value binary_operation(const std::string& op, const Value& a, const Value& b, Context& context) {
  Int ia = 0;
  Int ib = 0;
  double da = 0;
  double db = 0;
  if (is_integer(a, ia) && is_integer(b, ib)) {
    return integer_operation(op, ia, ib);
  }
  if (is_number(a, da) && is_number(b, db)) {
    return real_operation(op, da, db);
  }
  if (op == "+" && a.text() != nullptr && b.text() != nullptr) {
    context.budget.bytes(a.text()->size() + b.text()->size());
    Text out = *a.text();
    out.append(*b.text());
    return out;
  }
  const Sequence *sa = a.sequence(), *sb = b.sequence();
  if (op == "+" && sa != nullptr && sb != nullptr && sa->type == sb->type &&
      sa->type != Sequence::generator) {
    context.budget.step(sa->items.size() + sb->items.size());
    std::vector<Value> items = sa->items;
    items.insert(items.end(), sb->items.begin(), sb->items.end());
    return make_sequence(std::move(items), sa->type);
  }
  if (op == "%" && a.text() != nullptr) {
    return format_percent(*a.text(), b, context);
  }
  const auto repeats = [](const Value& v) {
    return v.text() != nullptr || (v.sequence() != nullptr && v.sequence()->type != Sequence::generator);
  };
  if (op == "*" && repeats(a) && is_integer(b, ib)) {
    return repeat(a, ib, context);
  }
  if (op == "*" && repeats(b) && is_integer(a, ia)) {
    return repeat(b, ia, context);
  }
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined()) {
      const auto& what = std::get<Undefined>(v->storage()).what;
      throw TemplateError(what ? *what : "an undefined value is used");
    }
  }
  throw TemplateError(fmt::format("'{}' cannot join '{}' and '{}'", op, type_name(a), type_name(b)));
}

}  // namespace fl::chat::jinja
