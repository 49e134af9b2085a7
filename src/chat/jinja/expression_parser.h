// Expressions of the template language: tokens to a tree, by recursive descent with bounded nesting.
#pragma once

#include <string>
#include <vector>

#include "chat/jinja/ast.h"
#include "chat/jinja/lexer.h"

namespace fl::chat::jinja {

/// The tokens of a template and the expressions in them.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  ExprPtr expression(bool with_choice = true);
  /// Expressions separated by commas: a tuple, or the one expression.
  ExprPtr tuple(bool with_choice = true);
  /// Filters on top of `input`, which is null in a filter block.
  ExprPtr filter(ExprPtr input, bool bar_first);
  /// What follows a name: attributes, items, calls.
  ExprPtr postfix(ExprPtr base);
  ExprPtr primary();

  const Token& peek(size_t ahead = 0) const;
  Token take();
  bool accept(std::string_view symbol);
  bool accept_name(std::string_view name);
  void expect(std::string_view symbol);
  std::string expect_name();
  [[noreturn]] void fail(const std::string& what) const;

  /// Guards recursion: `const Nesting guard(*this);`
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser);
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  ExprPtr make(Expr::Kind kind, std::vector<ExprPtr> args, std::string text = "");
  ExprPtr sealed(ExprPtr expr);
  ExprPtr logical_or();
  ExprPtr logical_and();
  ExprPtr logical_not();
  ExprPtr comparison();
  ExprPtr sum();
  ExprPtr concat();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filter = true);
  ExprPtr subscript(ExprPtr base);
  ExprPtr test(ExprPtr input);
  ExprPtr filters(ExprPtr input);
  ExprPtr list();
  ExprPtr dict();
  void arguments(Expr& call);

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
};

}  // namespace fl::chat::jinja
