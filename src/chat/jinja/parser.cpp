#include "chat/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include <fmt/format.h>

#include "chat/jinja/expression_parser.h"

namespace fl::chat::jinja {
namespace {

using Kind = Stmt::Kind;
using StmtPtr = std::unique_ptr<Stmt>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : in_(std::move(tokens)) {}

  Body run() {
    Body body = statements({});
    if (in_.peek().kind != Token::Kind::end) {
      in_.fail("expected text or a tag");
    }
    return body;
  }

 private:
  // Up to one of the closing words, whose name (but not the rest of its tag) is then taken; closing_ says
  // which.
  Body statements(std::initializer_list<std::string_view> closing) {
    const ExpressionParser::Nesting guard(in_);
    Body body;
    while (true) {
      const Token& token = in_.peek();
      switch (token.kind) {
        case Token::Kind::data: {
          StmtPtr data = make(Kind::data);
          data->text = Text(in_.take().text, true);
          body.push_back(std::move(data));
          break;
        }
        case Token::Kind::output_begin: {
          StmtPtr output = make(Kind::output);
          in_.take();
          output->expr = in_.tuple();
          if (in_.peek().kind != Token::Kind::output_end) {
            in_.fail("expected '}}'");
          }
          in_.take();
          body.push_back(std::move(output));
          break;
        }
        case Token::Kind::block_begin: {
          in_.take();
          const std::string& word = in_.peek().text;
          const auto found = std::find(closing.begin(), closing.end(), word);
          if (in_.peek().kind == Token::Kind::name && found != closing.end()) {
            closing_ = in_.take().text;
            return body;
          }
          body.push_back(statement());
          break;
        }
        default:
          if (closing.size() > 0) {
            in_.fail(fmt::format("expected '{{% {} %}}'", *closing.begin()));
          }
          return body;
      }
    }
  }

  StmtPtr make(Kind kind) const {
    auto statement = std::make_unique<Stmt>();
    statement->kind = kind;
    statement->line = in_.peek().line;
    return statement;
  }

  void end_tag() {
    if (in_.peek().kind != Token::Kind::block_end) {
      in_.fail("expected '%}'");
    }
    in_.take();
  }

  // The body of a block up to its end word, tag closed.
  Body block(std::string_view end) {
    end_tag();
    Body body = statements({end});
    end_tag();
    return body;
  }

  StmtPtr statement() {
    if (in_.peek().kind != Token::Kind::name) {
      in_.fail("expected a statement");
    }
    const std::string word = in_.peek().text;
    using Parse = StmtPtr (Parser::*)();
    constexpr std::pair<std::string_view, Parse> kStatements[] = {
        {"for", &Parser::loop},        {"if", &Parser::if_chain},
        {"set", &Parser::set},         {"macro", &Parser::macro},
        {"call", &Parser::call_block}, {"filter", &Parser::filter_block},
        {"with", &Parser::with},       {"generation", &Parser::generation},
        {"break", &Parser::stop_loop}, {"continue", &Parser::next_round},
    };
    for (const auto& [name, parse] : kStatements) {
      if (name == word) {
        in_.take();
        return (this->*parse)();
      }
    }
    in_.fail("expected a statement of a chat template");
  }

  Target target(bool with_attribute) {
    std::vector<Target> items;
    bool unpacks = false;
    do {
      if (!items.empty() && (in_.peek().is_name("in") || in_.peek().is_symbol("="))) {
        unpacks = true;
        break;
      }
      items.push_back(single_target(with_attribute));
    } while (in_.accept(",") && (unpacks = true));
    if (!unpacks) {
      return std::move(items.front());
    }
    Target tuple;
    tuple.parts = std::move(items);
    return tuple;
  }

  Target single_target(bool with_attribute) {
    const ExpressionParser::Nesting guard(in_);
    Target one;
    if (in_.accept("(")) {
      one = target(false);
      in_.expect(")");
      return one;
    }
    one.name = in_.expect_name();
    for (const std::string_view reserved : {"true", "false", "none", "True", "False", "None", "loop"}) {
      if (one.name == reserved && (reserved != "loop" || !with_attribute)) {
        in_.fail(fmt::format("'{}' cannot be assigned", reserved));
      }
    }
    if (with_attribute && in_.accept(".")) {
      one.attribute = in_.expect_name();
    }
    return one;
  }

  StmtPtr loop() {
    StmtPtr s = make(Kind::loop);
    s->target = target(false);
    if (!in_.accept_name("in")) {
      in_.fail("expected 'in'");
    }
    s->expr = in_.tuple(false);
    if (in_.accept_name("if")) {
      s->condition = in_.expression();
    }
    s->recursive = in_.accept_name("recursive");
    end_tag();
    ++loops_;
    s->body = statements({"endfor", "else"});
    --loops_;
    if (closing_ == "else") {
      s->orelse = block("endfor");
    } else {
      end_tag();
    }
    return s;
  }

  StmtPtr if_chain() {
    StmtPtr s = make(Kind::if_chain);
    s->conditions.push_back(in_.tuple());
    end_tag();
    while (true) {
      s->bodies.push_back(statements({"elif", "else", "endif"}));
      if (closing_ == "elif") {
        s->conditions.push_back(in_.tuple());
        end_tag();
        continue;
      }
      if (closing_ == "else") {
        s->bodies.push_back(block("endif"));
      } else {
        end_tag();
      }
      return s;
    }
  }

  StmtPtr set() {
    StmtPtr s = make(Kind::set);
    s->target = target(true);
    if (in_.accept("=")) {
      s->expr = in_.tuple();
      end_tag();
      return s;
    }
    s->kind = Kind::set_block;
    while (in_.peek().is_symbol("|")) {
      s->expr = in_.filter(std::move(s->expr), true);
    }
    s->body = block("endset");
    return s;
  }

  std::vector<Param> parameters() {
    std::vector<Param> params;
    in_.expect("(");
    while (!in_.accept(")")) {
      if (!params.empty()) {
        in_.expect(",");
      }
      Param& param = params.emplace_back();
      param.name = in_.expect_name();
      if (in_.accept("=")) {
        param.fallback = in_.expression();
      } else if (params.size() > 1 && params[params.size() - 2].fallback != nullptr) {
        in_.fail("expected a default, as the parameter before has one");
      }
    }
    return params;
  }

  StmtPtr macro() {
    StmtPtr s = make(Kind::macro);
    s->name = in_.expect_name();
    s->params = parameters();
    s->body = outside_loops("endmacro");
    return s;
  }

  StmtPtr call_block() {
    StmtPtr s = make(Kind::call_block);
    if (in_.peek().is_symbol("(")) {
      s->params = parameters();
    }
    s->expr = in_.expression();
    if (s->expr->kind != Expr::Kind::call) {
      in_.fail("expected a call");
    }
    s->body = outside_loops("endcall");
    return s;
  }

  // A macro's body is no part of the loop around its definition.
  Body outside_loops(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = block(end);
    loops_ = loops;
    return body;
  }

  StmtPtr filter_block() {
    StmtPtr s = make(Kind::filter_block);
    s->expr = in_.filter(nullptr, false);
    while (in_.peek().is_symbol("|")) {
      s->expr = in_.filter(std::move(s->expr), true);
    }
    s->body = block("endfilter");
    return s;
  }

  StmtPtr with() {
    StmtPtr s = make(Kind::with);
    while (in_.peek().kind != Token::Kind::block_end) {
      if (!s->assignments.empty()) {
        in_.expect(",");
      }
      Target one = single_target(false);
      in_.expect("=");
      s->assignments.emplace_back(std::move(one), in_.expression());
    }
    s->body = block("endwith");
    return s;
  }

  // Hugging Face's mark around an assistant's answer, for training.
  StmtPtr generation() {
    StmtPtr s = make(Kind::group);
    s->body = block("endgeneration");
    return s;
  }

  StmtPtr loop_control(Kind kind) {
    if (loops_ == 0) {
      in_.fail("break and continue belong in a loop");
    }
    StmtPtr s = make(kind);
    end_tag();
    return s;
  }
  StmtPtr stop_loop() { return loop_control(Kind::stop_loop); }
  StmtPtr next_round() { return loop_control(Kind::next_round); }

  ExpressionParser in_;
  std::string closing_;
  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    throw TemplateError(
        fmt::format("expected a template of at most {} bytes, found {}", kMaxSourceBytes, source.size()));
  }
  return Parser(tokenize(source)).run();
}

}  // namespace fl::chat::jinja
