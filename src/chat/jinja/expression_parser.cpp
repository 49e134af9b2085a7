#include "chat/jinja/expression_parser.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "chat/jinja/filters.h"
#include "chat/jinja/parser.h"
#include "chat/jinja/tests.h"

namespace fl::chat::jinja {

using Kind = Expr::Kind;

const Token& ExpressionParser::peek(size_t ahead) const {
  return tokens_[std::min(pos_ + ahead, tokens_.size() - 1)];
}

Token ExpressionParser::take() {
  Token token = peek();
  pos_ = std::min(pos_ + 1, tokens_.size() - 1);
  return token;
}

bool ExpressionParser::accept(std::string_view symbol) {
  const bool found = peek().is_symbol(symbol);
  pos_ += found ? 1 : 0;
  return found;
}

bool ExpressionParser::accept_name(std::string_view name) {
  const bool found = peek().is_name(name);
  pos_ += found ? 1 : 0;
  return found;
}

void ExpressionParser::expect(std::string_view symbol) {
  if (!accept(symbol)) {
    fail(fmt::format("expected '{}'", symbol));
  }
}

std::string ExpressionParser::expect_name() {
  if (peek().kind != Token::Kind::name) {
    fail("expected a name");
  }
  return take().text;
}

void ExpressionParser::fail(const std::string& what) const {
  const Token& token = peek();
  std::string found;
  switch (token.kind) {
    case Token::Kind::data:
      found = "text";
      break;
    case Token::Kind::block_begin:
      found = "'{%'";
      break;
    case Token::Kind::block_end:
      found = "'%}'";
      break;
    case Token::Kind::output_begin:
      found = "'{{'";
      break;
    case Token::Kind::output_end:
      found = "'}}'";
      break;
    case Token::Kind::end:
      found = "the end of the template";
      break;
    default:
      found = fmt::format("'{}'", token.text.substr(0, 40));
  }
  throw TemplateError(fmt::format("line {}: {}, found {}", token.line, what, found));
}

ExpressionParser::Nesting::Nesting(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.nesting_ > kMaxSyntaxNesting) {
    --parser_.nesting_;
    parser_.fail(fmt::format("nested deeper than {}", kMaxSyntaxNesting));
  }
}

// Computes the height, which the evaluator's recursion depends on.
ExprPtr ExpressionParser::sealed(ExprPtr expr) {
  int height = 0;
  const auto count = [&height](const ExprPtr& part) { height = std::max(height, part ? part->depth : 0); };
  std::for_each(expr->args.begin(), expr->args.end(), count);
  for (const auto& [name, value] : expr->kwargs) {
    count(value);
  }
  count(expr->spread);
  count(expr->kwspread);
  expr->depth = height + 1;
  if (expr->depth > kMaxExpressionHeight) {
    fail(fmt::format("an expression has more than {} levels", kMaxExpressionHeight));
  }
  return expr;
}

ExprPtr ExpressionParser::make(Kind kind, std::vector<ExprPtr> args, std::string text) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = peek().line;
  expr->text = std::move(text);
  expr->args = std::move(args);
  return sealed(std::move(expr));
}

namespace {

std::vector<ExprPtr> parts(ExprPtr a) {
  std::vector<ExprPtr> out;
  out.push_back(std::move(a));
  return out;
}

std::vector<ExprPtr> parts(ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> out = parts(std::move(a));
  out.push_back(std::move(b));
  return out;
}

}  // namespace

ExprPtr ExpressionParser::expression(bool with_choice) {
  const Nesting guard(*this);
  ExprPtr expr = logical_or();
  while (with_choice && accept_name("if")) {
    ExprPtr condition = logical_or();
    ExprPtr otherwise = accept_name("else") ? expression() : nullptr;
    std::vector<ExprPtr> args = parts(std::move(condition), std::move(expr));
    args.push_back(std::move(otherwise));
    expr = make(Kind::choice, std::move(args));
  }
  return expr;
}

ExprPtr ExpressionParser::tuple(bool with_choice) {
  std::vector<ExprPtr> items = parts(expression(with_choice));
  bool is_tuple = false;
  while (accept(",")) {
    is_tuple = true;
    const Token& next = peek();
    if (next.kind == Token::Kind::block_end || next.kind == Token::Kind::output_end || next.is_symbol(")") ||
        next.is_symbol("]") || next.is_symbol("}") || next.is_name("in")) {
      break;
    }
    items.push_back(expression(with_choice));
  }
  return is_tuple ? make(Kind::tuple, std::move(items)) : std::move(items.front());
}

ExprPtr ExpressionParser::logical_or() {
  ExprPtr left = logical_and();
  while (accept_name("or")) {
    left = make(Kind::logical_or, parts(std::move(left), logical_and()));
  }
  return left;
}

ExprPtr ExpressionParser::logical_and() {
  ExprPtr left = logical_not();
  while (accept_name("and")) {
    left = make(Kind::logical_and, parts(std::move(left), logical_not()));
  }
  return left;
}

ExprPtr ExpressionParser::logical_not() {
  if (peek().is_name("not") && !peek(1).is_name("in")) {
    take();
    const Nesting guard(*this);
    return make(Kind::logical_not, parts(logical_not()));
  }
  return comparison();
}

ExprPtr ExpressionParser::comparison() {
  constexpr std::array<std::string_view, 6> kOperators{"==", "!=", "<", "<=", ">", ">="};
  ExprPtr first = sum();
  std::vector<ExprPtr> args = parts(std::move(first));
  std::vector<std::string> ops;
  while (true) {
    const auto op = std::find_if(kOperators.begin(), kOperators.end(),
                                 [this](std::string_view s) { return peek().is_symbol(s); });
    if (op != kOperators.end()) {
      take();
      ops.emplace_back(*op);
    } else if (accept_name("in")) {
      ops.emplace_back("in");
    } else if (peek().is_name("not") && peek(1).is_name("in")) {
      take();
      take();
      ops.emplace_back("not in");
    } else {
      break;
    }
    args.push_back(sum());
  }
  if (ops.empty()) {
    return std::move(args.front());
  }
  ExprPtr expr = make(Kind::compare, std::move(args));
  expr->ops = std::move(ops);
  return expr;
}

ExprPtr ExpressionParser::sum() {
  ExprPtr left = concat();
  while (peek().is_symbol("+") || peek().is_symbol("-")) {
    const std::string op = take().text;
    left = make(Kind::binary, parts(std::move(left), concat()), op);
  }
  return left;
}

ExprPtr ExpressionParser::concat() {
  std::vector<ExprPtr> args = parts(product());
  while (accept("~")) {
    args.push_back(product());
  }
  return args.size() == 1 ? std::move(args.front()) : make(Kind::concat, std::move(args));
}

ExprPtr ExpressionParser::product() {
  ExprPtr left = power();
  while (peek().is_symbol("*") || peek().is_symbol("/") || peek().is_symbol("//") || peek().is_symbol("%")) {
    const std::string op = take().text;
    left = make(Kind::binary, parts(std::move(left), power()), op);
  }
  return left;
}

ExprPtr ExpressionParser::power() {
  ExprPtr left = unary();
  while (accept("**")) {
    left = make(Kind::binary, parts(std::move(left), unary()), "**");
  }
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filter) {
  const Nesting guard(*this);
  ExprPtr expr;
  if (accept("-")) {
    expr = make(Kind::negate, parts(unary(false)));
  } else if (accept("+")) {
    expr = make(Kind::plus, parts(unary(false)));
  } else {
    expr = primary();
  }
  expr = postfix(std::move(expr));
  return with_filter ? filters(std::move(expr)) : std::move(expr);
}

ExprPtr ExpressionParser::primary() {
  const Token token = peek();
  switch (token.kind) {
    case Token::Kind::name: {
      take();
      const std::string& n = token.text;
      ExprPtr expr = make(Kind::constant, {});
      if (n == "true" || n == "True" || n == "false" || n == "False") {
        expr->value = n == "true" || n == "True";
      } else if (n == "none" || n == "None") {
        expr->value = None{};
      } else {
        expr->kind = Kind::name;
        expr->text = n;
      }
      return expr;
    }
    case Token::Kind::string: {
      std::string text;
      while (peek().kind == Token::Kind::string) {
        text += take().text;
      }
      ExprPtr expr = make(Kind::constant, {});
      expr->value = Value::trusted(std::move(text));
      return expr;
    }
    case Token::Kind::integer:
    case Token::Kind::real: {
      take();
      ExprPtr expr = make(Kind::constant, {});
      expr->value = token.kind == Token::Kind::integer ? Value(token.integer) : Value(token.real);
      return expr;
    }
    default:
      break;
  }
  if (accept("(")) {
    if (accept(")")) {
      return make(Kind::tuple, {});
    }
    ExprPtr expr = tuple();
    expect(")");
    return expr;
  }
  if (accept("[")) {
    return list();
  }
  if (accept("{")) {
    return dict();
  }
  fail("expected an expression");
}

ExprPtr ExpressionParser::list() {
  std::vector<ExprPtr> items;
  while (!accept("]")) {
    if (!items.empty()) {
      expect(",");
      if (accept("]")) {
        break;
      }
    }
    items.push_back(expression());
  }
  return make(Kind::list, std::move(items));
}

ExprPtr ExpressionParser::dict() {
  std::vector<ExprPtr> items;
  while (!accept("}")) {
    if (!items.empty()) {
      expect(",");
      if (accept("}")) {
        break;
      }
    }
    items.push_back(expression());
    expect(":");
    items.push_back(expression());
  }
  return make(Kind::dict, std::move(items));
}

ExprPtr ExpressionParser::postfix(ExprPtr expr) {
  while (true) {
    if (accept(".")) {
      if (peek().kind == Token::Kind::integer) {
        ExprPtr index = make(Kind::constant, {});
        index->value = take().integer;
        expr = make(Kind::item, parts(std::move(expr), std::move(index)));
      } else {
        const std::string name = expect_name();
        expr = make(Kind::attribute, parts(std::move(expr)), name);
      }
    } else if (accept("[")) {
      expr = subscript(std::move(expr));
    } else if (accept("(")) {
      auto call = std::make_unique<Expr>();
      call->kind = Kind::call;
      call->line = peek().line;
      call->args = parts(std::move(expr));
      arguments(*call);
      expr = sealed(std::move(call));
    } else {
      return expr;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr base) {
  std::vector<ExprPtr> args = parts(std::move(base));
  bool slice = false;
  ExprPtr part;
  while (!peek().is_symbol("]")) {
    if (accept(":")) {
      if (args.size() == 3) {
        fail("expected ']'");
      }
      slice = true;
      args.push_back(std::move(part));
    } else if (part != nullptr) {
      fail("expected ']'");
    } else {
      part = expression();
    }
  }
  if (!slice && part == nullptr) {
    fail("expected an index");
  }
  expect("]");
  args.push_back(std::move(part));
  if (!slice) {
    return make(Kind::item, std::move(args));
  }
  args.resize(4);
  return make(Kind::slice, std::move(args));
}

// After the opening parenthesis.
void ExpressionParser::arguments(Expr& call) {
  bool first = true;
  while (!accept(")")) {
    if (!first) {
      expect(",");
      if (accept(")")) {
        break;
      }
    }
    first = false;
    if (accept("**")) {
      call.kwspread = expression();
    } else if (accept("*")) {
      call.spread = expression();
    } else if (peek().kind == Token::Kind::name && peek(1).is_symbol("=")) {
      std::string name = take().text;
      take();
      call.kwargs.emplace_back(std::move(name), expression());
    } else {
      if (!call.kwargs.empty()) {
        fail("expected a keyword argument");
      }
      call.args.push_back(expression());
    }
  }
}

ExprPtr ExpressionParser::filters(ExprPtr expr) {
  while (true) {
    if (peek().is_symbol("|")) {
      expr = filter(std::move(expr), true);
    } else if (accept_name("is")) {
      expr = test(std::move(expr));
    } else if (accept("(")) {
      auto call = std::make_unique<Expr>();
      call->kind = Kind::call;
      call->line = peek().line;
      call->args = parts(std::move(expr));
      arguments(*call);
      expr = sealed(std::move(call));
    } else {
      return expr;
    }
  }
}

ExprPtr ExpressionParser::filter(ExprPtr input, bool bar_first) {
  if (bar_first) {
    expect("|");
  }
  auto expr = std::make_unique<Expr>();
  expr->kind = Kind::filter;
  expr->line = peek().line;
  expr->text = expect_name();
  if (find_filter(expr->text) == nullptr) {
    throw TemplateError(fmt::format("line {}: there is no filter '{}'", expr->line, expr->text));
  }
  expr->args = parts(std::move(input));
  if (accept("(")) {
    arguments(*expr);
  }
  return sealed(std::move(expr));
}

// After `is`.
ExprPtr ExpressionParser::test(ExprPtr input) {
  const bool negated = accept_name("not");
  auto expr = std::make_unique<Expr>();
  expr->kind = Kind::test;
  expr->line = peek().line;
  expr->text = expect_name();
  if (find_test(expr->text) == nullptr) {
    throw TemplateError(fmt::format("line {}: there is no test '{}'", expr->line, expr->text));
  }
  expr->args = parts(std::move(input));
  const Token& next = peek();
  const bool literal = next.kind == Token::Kind::string || next.kind == Token::Kind::integer ||
                       next.kind == Token::Kind::real || next.is_symbol("[") || next.is_symbol("{");
  constexpr std::array<std::string_view, 7> kNoArgument{"else", "or", "and", "if", "is", "in", "not"};
  const bool name = next.kind == Token::Kind::name &&
                    std::find(kNoArgument.begin(), kNoArgument.end(), next.text) == kNoArgument.end();
  if (accept("(")) {
    arguments(*expr);
  } else if (literal || name) {
    expr->args.push_back(postfix(primary()));
  }
  ExprPtr out = sealed(std::move(expr));
  return negated ? make(Kind::logical_not, parts(std::move(out))) : std::move(out);
}

}  // namespace fl::chat::jinja
