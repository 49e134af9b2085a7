#include "chat/jinja/interpreter.h"

#include <algorithm>

#include <fmt/format.h>

#include "chat/jinja/depth.h"

namespace fl::chat::jinja {

using Kind = Stmt::Kind;

void Scope::set(const std::string& name, Value value) {
  for (auto& [own, old] : names_) {
    if (own == name) {
      old = std::move(value);
      return;
    }
  }
  names_.emplace_back(name, std::move(value));
}

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent_) {
    for (const auto& [own, value] : scope->names_) {
      if (own == name) {
        return &value;
      }
    }
  }
  return nullptr;
}

Value Macro::attribute(const std::string& attribute_name) const {
  return attribute_name == "name" ? Value::trusted(name)
                                  : Value::undefined("the macro has no such attribute");
}

Value Loop::attribute(const std::string& name) const {
  const auto i = static_cast<Int>(index);
  const auto n = static_cast<Int>(items.size());
  if (name == "index") {
    return i + 1;
  }
  if (name == "index0") {
    return i;
  }
  if (name == "first") {
    return i == 0;
  }
  if (name == "last") {
    return i + 1 == n;
  }
  if (name == "length") {
    return n;
  }
  if (name == "revindex") {
    return n - i;
  }
  if (name == "revindex0") {
    return n - i - 1;
  }
  if (name == "previtem") {
    return i > 0 ? items[index - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return i + 1 < n ? items[index + 1] : Value::undefined("there is no next item");
  }
  if (name == "depth") {
    return Int{depth} + 1;
  }
  if (name == "depth0") {
    return Int{depth};
  }
  return Value::undefined(fmt::format("the loop has no attribute '{}'", name.substr(0, 80)));
}

Text Interpreter::run(const Body& body) {
  Scope scope(&globals_);
  Text out;
  execute(body, scope, out);
  return out;
}

void Interpreter::emit(Text& out, const Text& text) {
  context_.budget.bytes(text.size());
  out.append(text);
}

Interpreter::Flow Interpreter::execute(const Body& body, Scope& scope, Text& out) {
  for (const auto& stmt : body) {
    line_ = stmt->line;
    if (const Flow flow = execute(*stmt, scope, out); flow != Flow::next) {
      return flow;
    }
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::execute(const Stmt& stmt, Scope& scope, Text& out) {
  const Depth guard(*this);
  context_.budget.step();
  switch (stmt.kind) {
    case Kind::data:
      emit(out, stmt.text);
      return Flow::next;
    case Kind::output: {
      const Value value = evaluate(*stmt.expr, scope);
      if (value.text() != nullptr) {
        emit(out, *value.text());
      } else {
        emit(out, to_text(value, context_.budget));
      }
      return Flow::next;
    }
    case Kind::set:
      assign(stmt.target, evaluate(*stmt.expr, scope), scope);
      return Flow::next;
    case Kind::set_block:
    case Kind::filter_block: {
      Scope inner(&scope);
      Text body;
      const Flow flow = execute(stmt.body, inner, body);
      const Value value =
          stmt.expr == nullptr ? Value(std::move(body)) : apply_filters(*stmt.expr, std::move(body), scope);
      if (stmt.kind == Kind::set_block) {
        assign(stmt.target, value, scope);
      } else {
        emit(out, to_text(value, context_.budget));
      }
      return flow;
    }
    case Kind::if_chain:
      for (size_t i = 0; i < stmt.conditions.size(); ++i) {
        if (truthy(evaluate(*stmt.conditions[i], scope))) {
          return execute(stmt.bodies[i], scope, out);
        }
      }
      return stmt.bodies.size() > stmt.conditions.size() ? execute(stmt.bodies.back(), scope, out)
                                                         : Flow::next;
    case Kind::loop:
      return execute_loop(stmt, evaluate(*stmt.expr, scope), scope, 0, out);
    case Kind::macro:
      scope.set(stmt.name, make_macro(stmt, scope));
      return Flow::next;
    case Kind::call_block: {
      Macro* caller = make_macro(stmt, scope);
      emit(out, to_text(evaluate_call(*stmt.expr, scope, caller), context_.budget));
      return Flow::next;
    }
    case Kind::with: {
      Scope inner(&scope);
      for (const auto& [target, expr] : stmt.assignments) {
        assign(target, evaluate(*expr, scope), inner);
      }
      return execute(stmt.body, inner, out);
    }
    case Kind::group:
      return execute(stmt.body, scope, out);
    case Kind::stop_loop:
      return Flow::stop_loop;
    case Kind::next_round:
      return Flow::next_round;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::execute_loop(const Stmt& stmt, const Value& iterable, const Scope& scope,
                                            int depth, Text& out) {
  const Depth guard(*this);
  std::vector<Value> items = iterate(iterable, context_.budget);
  if (stmt.condition != nullptr) {
    std::vector<Value> chosen;
    for (Value& item : items) {
      Scope inner(&scope);
      assign(stmt.target, item, inner);
      if (truthy(evaluate(*stmt.condition, inner))) {
        chosen.push_back(std::move(item));
      }
    }
    items = std::move(chosen);
  }
  auto* loop = context_.make<Loop>(std::move(items), &stmt, &scope, depth);
  const size_t n = loop->items.size();
  for (size_t i = 0; i < n; ++i) {
    context_.budget.step();
    loop->index = i;
    Scope inner(&scope);
    inner.set("loop", loop);
    assign(stmt.target, loop->items[i], inner);
    if (execute(stmt.body, inner, out) == Flow::stop_loop) {
      break;
    }
  }
  loop->scope = nullptr;
  if (n == 0) {
    Scope inner(&scope);
    return execute(stmt.orelse, inner, out);
  }
  return Flow::next;
}

void Interpreter::assign(const Target& target, const Value& value, Scope& scope) {
  if (!target.parts.empty()) {
    const std::vector<Value> items = iterate(value, context_.budget);
    if (items.size() != target.parts.size()) {
      throw TemplateError(
          fmt::format("expected {} values to unpack, found {}", target.parts.size(), items.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) {
      assign(target.parts[i], items[i], scope);
    }
    return;
  }
  if (target.attribute.empty()) {
    scope.set(target.name, value);
    return;
  }
  const Value* base = scope.find(target.name);
  auto* space = base == nullptr ? nullptr : dynamic_cast<Namespace*>(base->object());
  if (space == nullptr) {
    throw TemplateError(fmt::format("cannot assign attribute on non-namespace object '{}'", target.name));
  }
  space->set(target.attribute, value);
}

// The names of the blocks around it are copied; those of the template itself stay shared, so that a macro
// sees what is set after it.
Macro* Interpreter::make_macro(const Stmt& stmt, const Scope& scope) {
  std::vector<const Scope*> chain;
  const Scope* top = &scope;
  for (; top->parent() != &globals_ && top->parent() != nullptr; top = top->parent()) {
    chain.push_back(top);
  }
  Scope closure(top);
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    context_.budget.step((*it)->own().size());
    for (const auto& [name, value] : (*it)->own()) {
      closure.set(name, value);
    }
  }
  return context_.make<Macro>(stmt, std::move(closure));
}

}  // namespace fl::chat::jinja
