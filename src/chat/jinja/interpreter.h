// Runs a parsed template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "chat/jinja/ast.h"
#include "chat/jinja/context.h"

namespace fl::chat::jinja {

/// Recursion of the evaluator over everything: expressions, statements, macros, recursive loops.
inline constexpr int kMaxEvaluationDepth = 1000;

/// Names of one block, in front of those around it.
class Scope {
 public:
  explicit Scope(const Scope* parent) : parent_(parent) {}
  void set(const std::string& name, Value value);
  const Value* find(const std::string& name) const;
  const std::vector<std::pair<std::string, Value>>& own() const { return names_; }
  const Scope* parent() const { return parent_; }

 private:
  const Scope* parent_;
  std::vector<std::pair<std::string, Value>> names_;
};

class Interpreter;

/// A macro or the body of a call block.
class Macro : public Object {
 public:
  Macro(const Stmt& definition, Scope around)
      : name(definition.name), params(definition.params), body(definition.body), closure(std::move(around)) {}
  std::string_view type_name() const override { return "Macro"; }
  bool callable() const override { return true; }
  Value attribute(const std::string& attribute_name) const override;

  const std::string& name;
  const std::vector<Param>& params;
  const Body& body;
  Scope closure;  ///< a copy of the names around it, down to those of the template itself
};

/// The variable `loop`.
class Loop : public Object {
 public:
  Loop(std::vector<Value> all, const Stmt* own_statement, const Scope* around, int loop_depth)
      : items(std::move(all)), statement(own_statement), scope(around), depth(loop_depth) {}
  std::string_view type_name() const override { return "LoopContext"; }
  bool callable() const override { return statement->recursive && scope != nullptr; }
  Value attribute(const std::string& name) const override;

  std::vector<Value> items;
  const Stmt* statement;
  const Scope* scope;  ///< around the loop; null once it has ended
  size_t index = 0;
  int depth;  ///< 0: not inside another round of a recursive loop
  bool has_changed_value = false;
  Value changed_value;
};

class Interpreter {
 public:
  Interpreter(Context& context, Scope& globals) : context_(context), globals_(globals) {}

  Text run(const Body& body);
  /// Of the statement or output in work, for error messages.
  int line() const { return line_; }

 private:
  enum class Flow { next, stop_loop, next_round };

  Flow execute(const Body& body, Scope& scope, Text& out);
  Flow execute(const Stmt& stmt, Scope& scope, Text& out);
  Flow execute_loop(const Stmt& stmt, const Value& iterable, const Scope& scope, int depth, Text& out);
  void emit(Text& out, const Text& text);
  void assign(const Target& target, const Value& value, Scope& scope);
  Macro* make_macro(const Stmt& stmt, const Scope& scope);

  Value evaluate(const Expr& expr, const Scope& scope);
  Value evaluate_name(const Expr& expr, const Scope& scope);
  Value evaluate_call(const Expr& expr, const Scope& scope, Macro* caller = nullptr);
  Value evaluate_binary(const Expr& expr, const Scope& scope);
  Value evaluate_compare(const Expr& expr, const Scope& scope);
  Value evaluate_slice(const Expr& expr, const Scope& scope);
  Value evaluate_dict(const Expr& expr, const Scope& scope);
  Value evaluate_concat(const Expr& expr, const Scope& scope);
  Value evaluate_filter(const Expr& expr, const Value& input, const Scope& scope);
  /// Filters of a filter block or a set block, on top of its body.
  Value apply_filters(const Expr& expr, Text body, const Scope& scope);
  Args arguments(const Expr& expr, const Scope& scope);
  Value call(const Value& callee, Args args, Macro* caller);
  Value call_macro(const Macro& macro, Args args, Macro* caller);
  Value call_loop_method(Loop& loop, const std::string& name, Args args);

  class Depth;

  Context& context_;
  Scope& globals_;
  int line_ = 0;
  int depth_ = 0;
};

/// + - * / // % ** on two values.
Value binary_operation(const std::string& op, const Value& a, const Value& b, Context& context);

}  // namespace fl::chat::jinja
