// The parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat/jinja/value.h"

namespace fl::chat::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind {
    constant,   ///< value
    name,       ///< text
    list,       ///< args
    tuple,      ///< args
    dict,       ///< args: key, value, key, value, ...
    attribute,  ///< args[0] . text
    item,       ///< args[0] [ args[1] ]
    slice,      ///< args[0] [ args[1] : args[2] : args[3] ], absent parts are null
    call,       ///< args[0] ( args[1..], kwargs, spread, kwspread )
    filter,     ///< args[0] | text ( args[1..], ... ); args[0] is null in a filter block
    test,       ///< args[0] is text ( args[1..], ... )
    negate,
    plus,
    logical_not,
    logical_and,
    logical_or,
    binary,   ///< args[0] text args[1]; text is + - * / // % **
    concat,   ///< args joined as texts
    compare,  ///< args[0] ops[0] args[1] ops[1] args[2] ...
    choice,   ///< args[1] if args[0] else args[2]; args[2] may be null
  };
  Kind kind = Kind::constant;
  int line = 0;
  int depth = 1;  ///< of this tree
  std::string text;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::string> ops;
  std::vector<std::pair<std::string, ExprPtr>> kwargs;
  ExprPtr spread, kwspread;  ///< *args, **kwargs
};

/// Where an assignment or a loop puts a value.
struct Target {
  std::string name;
  std::string attribute;      ///< `set name.attribute`: a member of a namespace
  std::vector<Target> parts;  ///< not empty: unpacks
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct Param {
  std::string name;
  ExprPtr fallback;  ///< may be null
};

struct Stmt {
  enum class Kind {
    data,          ///< text
    output,        ///< expr
    set,           ///< target = expr
    set_block,     ///< target = body, through the filters of expr if there is one
    if_chain,      ///< conditions[i] -> bodies[i], the last body without a condition is else
    loop,          ///< for target in expr if condition: body, else: orelse
    macro,         ///< text ( params ): body
    call_block,    ///< call ( params ) expr: body
    filter_block,  ///< body through expr
    with,          ///< targets = expressions: body
    group,         ///< body in the same scope (generation blocks)
    stop_loop,
    next_round,
  };
  Kind kind = Kind::data;
  int line = 0;
  Text text;
  std::string name;
  ExprPtr expr, condition;
  Target target;
  std::vector<ExprPtr> conditions;
  std::vector<Body> bodies;
  Body body, orelse;
  std::vector<Param> params;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  bool recursive = false;
};

}  // namespace fl::chat::jinja
