// Expressions.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "chat/jinja/depth.h"
#include "chat/jinja/filters.h"
#include "chat/jinja/interpreter.h"
#include "chat/jinja/tests.h"

namespace fl::chat::jinja {

using Kind = Expr::Kind;

Value Interpreter::evaluate(const Expr& expr, const Scope& scope) {
  const Depth guard(*this);
  context_.budget.step();
  switch (expr.kind) {
    case Kind::constant:
      return expr.value;
    case Kind::name:
      return evaluate_name(expr, scope);
    case Kind::list:
    case Kind::tuple: {
      std::vector<Value> items;
      for (const ExprPtr& arg : expr.args) {
        items.push_back(evaluate(*arg, scope));
      }
      return make_sequence(std::move(items), expr.kind == Kind::list ? Sequence::list : Sequence::tuple);
    }
    case Kind::dict:
      return evaluate_dict(expr, scope);
    case Kind::attribute:
      return get_attribute(evaluate(*expr.args[0], scope), expr.text, context_);
    case Kind::item: {
      const Value base = evaluate(*expr.args[0], scope);
      return get_item(base, evaluate(*expr.args[1], scope), context_);
    }
    case Kind::slice:
      return evaluate_slice(expr, scope);
    case Kind::call:
      return evaluate_call(expr, scope);
    case Kind::filter:
      return evaluate_filter(expr, evaluate(*expr.args[0], scope), scope);
    case Kind::test: {
      const Value input = evaluate(*expr.args[0], scope);
      return find_test(expr.text)(input, arguments(expr, scope), context_);
    }
    case Kind::negate:
      return binary_operation("-", Int{0}, evaluate(*expr.args[0], scope), context_);
    case Kind::plus:
      return binary_operation("+", Int{0}, evaluate(*expr.args[0], scope), context_);
    case Kind::logical_not:
      return !truthy(evaluate(*expr.args[0], scope));
    case Kind::logical_and: {
      Value left = evaluate(*expr.args[0], scope);
      return truthy(left) ? evaluate(*expr.args[1], scope) : left;
    }
    case Kind::logical_or: {
      Value left = evaluate(*expr.args[0], scope);
      return truthy(left) ? left : evaluate(*expr.args[1], scope);
    }
    case Kind::binary:
      return evaluate_binary(expr, scope);
    case Kind::concat:
      return evaluate_concat(expr, scope);
    case Kind::compare:
      return evaluate_compare(expr, scope);
    case Kind::choice:
      if (truthy(evaluate(*expr.args[0], scope))) {
        return evaluate(*expr.args[1], scope);
      }
      return expr.args[2] == nullptr ? Value::undefined("the condition does not hold and there is no else")
                                     : evaluate(*expr.args[2], scope);
  }
  throw TemplateError("unknown expression");
}

Value Interpreter::evaluate_name(const Expr& expr, const Scope& scope) {
  const Value* found = scope.find(expr.text);
  return found != nullptr ? *found : find_global(expr.text, context_);
}

Value Interpreter::evaluate_dict(const Expr& expr, const Scope& scope) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
    Value key = evaluate(*expr.args[i], scope);
    if (key.dict() != nullptr || (key.sequence() != nullptr && key.sequence()->type == Sequence::list)) {
      throw TemplateError(fmt::format("'{}' cannot be the key of a dict", type_name(key)));
    }
    Value value = evaluate(*expr.args[i + 1], scope);
    const auto old = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) {
      return equals(entry.first, key, context_.budget);
    });
    if (old != entries.end()) {
      old->second = std::move(value);
    } else {
      entries.emplace_back(std::move(key), std::move(value));
    }
  }
  return make_dict(std::move(entries));
}

Value Interpreter::evaluate_binary(const Expr& expr, const Scope& scope) {
  const Value left = evaluate(*expr.args[0], scope);
  return binary_operation(expr.text, left, evaluate(*expr.args[1], scope), context_);
}

Value Interpreter::evaluate_concat(const Expr& expr, const Scope& scope) {
  Text out;
  for (const ExprPtr& arg : expr.args) {
    out.append(to_text(evaluate(*arg, scope), context_.budget));
  }
  return out;
}

Value Interpreter::evaluate_compare(const Expr& expr, const Scope& scope) {
  Value left = evaluate(*expr.args[0], scope);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    Value right = evaluate(*expr.args[i + 1], scope);
    const std::string& op = expr.ops[i];
    bool holds = false;
    if (op == "==" || op == "!=") {
      holds = equals(left, right, context_.budget) == (op == "==");
    } else if (op == "in" || op == "not in") {
      holds = contains(right, left, context_.budget) == (op == "in");
    } else {
      const int order = compare(left, right, context_.budget);
      holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    }
    if (!holds) {
      return false;
    }
    left = std::move(right);
  }
  return true;
}

Value Interpreter::evaluate_slice(const Expr& expr, const Scope& scope) {
  const Value base = evaluate(*expr.args[0], scope);
  std::optional<Int> bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (expr.args[i + 1] != nullptr) {
      const Value bound = evaluate(*expr.args[i + 1], scope);
      if (!bound.is_none()) {
        bounds[i] = std::clamp<Int>(need_integer(bound, "slice"), INT64_MIN, INT64_MAX);
      }
    }
  }
  if (base.is_undefined()) {
    return get_attribute(base, "[:]", context_);
  }
  const Text* text = base.text();
  if (text == nullptr && (base.sequence() == nullptr || base.sequence()->type == Sequence::generator) &&
      base.range() == nullptr) {
    throw TemplateError(fmt::format("'{}' cannot be sliced", type_name(base)));
  }
  const Int step = bounds[2].value_or(1);
  if (step == 0) {
    throw TemplateError("slice step cannot be zero");
  }
  context_.budget.bytes(text != nullptr ? text->size() : 0);
  const std::vector<size_t> starts = text != nullptr ? character_starts(text->str()) : std::vector<size_t>();
  const std::vector<Value> items = text != nullptr ? std::vector<Value>() : iterate(base, context_.budget);
  const Int n = text != nullptr ? static_cast<Int>(starts.size()) - 1 : static_cast<Int>(items.size());
  // As PySlice_AdjustIndices.
  const auto adjust = [&](std::optional<Int> bound, Int absent) {
    if (!bound) {
      return absent;
    }
    const Int at = *bound < 0 ? *bound + n : *bound;
    return std::clamp<Int>(at, step < 0 ? -1 : 0, step < 0 ? n - 1 : n);
  };
  const Int begin = adjust(bounds[0], step < 0 ? n - 1 : 0);
  const Int end = adjust(bounds[1], step < 0 ? -1 : n);
  if (text != nullptr && step == 1) {
    return begin >= end
               ? Value(Text())
               : Value(text->substr(starts[static_cast<size_t>(begin)],
                                    starts[static_cast<size_t>(end)] - starts[static_cast<size_t>(begin)]));
  }
  Text piece;
  std::vector<Value> chosen;
  for (Int i = begin; step > 0 ? i < end : i > end; i += step) {
    const auto at = static_cast<size_t>(i);
    if (text != nullptr) {
      piece.append(*text, starts[at], starts[at + 1] - starts[at]);
    } else {
      chosen.push_back(items[at]);
    }
  }
  const int type = base.sequence() != nullptr ? static_cast<int>(base.sequence()->type) : Sequence::list;
  return text != nullptr ? Value(std::move(piece)) : make_sequence(std::move(chosen), type);
}

Args Interpreter::arguments(const Expr& expr, const Scope& scope) {
  Args args;
  for (size_t i = 1; i < expr.args.size(); ++i) {
    args.positional.push_back(evaluate(*expr.args[i], scope));
  }
  if (expr.spread != nullptr) {
    for (Value& value : iterate(evaluate(*expr.spread, scope), context_.budget)) {
      args.positional.push_back(std::move(value));
    }
  }
  for (const auto& [name, value] : expr.kwargs) {
    args.named.emplace_back(name, evaluate(*value, scope));
  }
  if (expr.kwspread != nullptr) {
    const Value spread = evaluate(*expr.kwspread, scope);
    if (spread.dict() == nullptr) {
      throw TemplateError(
          fmt::format("the argument after ** must be a mapping, not '{}'", type_name(spread)));
    }
    context_.budget.step(spread.dict()->entries.size());
    for (const auto& [key, value] : spread.dict()->entries) {
      args.named.emplace_back(need_text(key, "**").str(), value);
    }
  }
  return args;
}

Value Interpreter::evaluate_filter(const Expr& expr, const Value& input, const Scope& scope) {
  return find_filter(expr.text)(input, arguments(expr, scope), context_);
}

Value Interpreter::apply_filters(const Expr& expr, Text body, const Scope& scope) {
  const Depth guard(*this);
  const Value input =
      expr.args[0] == nullptr ? Value(std::move(body)) : apply_filters(*expr.args[0], std::move(body), scope);
  return evaluate_filter(expr, input, scope);
}

Value Interpreter::evaluate_call(const Expr& expr, const Scope& scope, Macro* caller) {
  const Expr& callee = *expr.args[0];
  if (callee.kind != Kind::attribute) {
    const Value function = evaluate(callee, scope);
    return call(function, arguments(expr, scope), caller);
  }
  const Value base = evaluate(*callee.args[0], scope);
  if (has_method(base, callee.text)) {
    return call_method(base, callee.text, arguments(expr, scope), context_);
  }
  if (auto* loop = dynamic_cast<Loop*>(base.object())) {
    return call_loop_method(*loop, callee.text, arguments(expr, scope));
  }
  if (auto* cycler = dynamic_cast<Cycler*>(base.object()); cycler != nullptr) {
    if (callee.text == "next") {
      return cycler->next();
    }
    if (callee.text == "reset") {
      cycler->reset();
      return None{};
    }
  }
  const Value function = get_attribute(base, callee.text, context_);
  return call(function, arguments(expr, scope), caller);
}

Value Interpreter::call(const Value& callee, Args args, Macro* caller) {
  Object* object = callee.object();
  if (const auto* function = dynamic_cast<GlobalFunction*>(object)) {
    return call_global(function->name(), args, context_);
  }
  if (const auto* macro = dynamic_cast<Macro*>(object)) {
    return call_macro(*macro, std::move(args), caller);
  }
  if (auto* joiner = dynamic_cast<Joiner*>(object)) {
    return joiner->next();
  }
  if (auto* loop = dynamic_cast<Loop*>(object); loop != nullptr && loop->callable()) {
    const auto bound = args.bind("loop", {"items"});
    Text out;
    execute_loop(*loop->statement, bound[0] == nullptr ? Value() : *bound[0], *loop->scope, loop->depth + 1,
                 out);
    return out;
  }
  if (callee.is_undefined()) {
    const auto& what = std::get<Undefined>(callee.storage()).what;
    throw TemplateError(what ? *what : "an undefined value is called");
  }
  throw TemplateError(fmt::format("'{}' object is not callable", type_name(callee)));
}

Value Interpreter::call_macro(const Macro& macro, Args args, Macro* caller) {
  const Depth guard(*this);
  Scope scope(&macro.closure);
  const size_t n = macro.params.size();
  for (size_t i = 0; i < n; ++i) {
    const Param& param = macro.params[i];
    const auto named = std::find_if(args.named.begin(), args.named.end(),
                                    [&](const auto& entry) { return entry.first == param.name; });
    if (i < args.positional.size()) {
      scope.set(param.name, args.positional[i]);
    } else if (named != args.named.end()) {
      scope.set(param.name, named->second);
      args.named.erase(named);
    } else if (param.fallback != nullptr) {
      scope.set(param.name, evaluate(*param.fallback, scope));
    } else {
      scope.set(param.name, Value::undefined(fmt::format("parameter '{}' was not provided", param.name)));
    }
  }
  std::vector<Value> rest;
  for (size_t i = n; i < args.positional.size(); ++i) {
    rest.push_back(args.positional[i]);
  }
  scope.set("varargs", make_sequence(std::move(rest), Sequence::tuple));
  std::vector<std::pair<Value, Value>> named;
  for (auto& [name, value] : args.named) {
    named.emplace_back(Value::trusted(name), std::move(value));
  }
  scope.set("kwargs", make_dict(std::move(named)));
  scope.set("caller", caller == nullptr ? Value::undefined("'caller' is undefined") : Value(caller));
  const int line = line_;
  Text out;
  execute(macro.body, scope, out);
  line_ = line;
  return out;
}

Value Interpreter::call_loop_method(Loop& loop, const std::string& name, Args args) {
  if (name == "cycle") {
    if (args.positional.empty()) {
      throw TemplateError("no items for cycling given");
    }
    return args.positional[loop.index % args.positional.size()];
  }
  if (name == "changed") {
    Value now = make_sequence(std::move(args.positional), Sequence::tuple);
    const bool changed = !loop.has_changed_value || !equals(now, loop.changed_value, context_.budget);
    loop.has_changed_value = true;
    loop.changed_value = std::move(now);
    return changed;
  }
  throw TemplateError(fmt::format("the loop has no method '{}'", name));
}

}  // namespace fl::chat::jinja
