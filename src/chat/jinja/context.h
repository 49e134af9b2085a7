// What one rendering owns, and how functions receive arguments.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/jinja/value.h"

namespace fl::chat::jinja {

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  /// The arguments in the order of `names`, null where not given. TemplateError if there are others.
  std::vector<const Value*> bind(std::string_view function,
                                 std::initializer_list<std::string_view> names) const;
};

/// Objects live here, and not by counting, because they may refer to each other in circles.
class Context {
 public:
  explicit Context(Budget allowed) : budget(allowed) {}

  template <typename T, typename... A>
  T* make(A&&... args) {
    auto object = std::make_unique<T>(std::forward<A>(args)...);
    T* raw = object.get();
    objects_.push_back(std::move(object));
    return raw;
  }

  Budget budget;

 private:
  std::vector<std::unique_ptr<Object>> objects_;
};

// Argument conversions. TemplateError names the function.
const Text& need_text(const Value& value, std::string_view function);
Int need_integer(const Value& value, std::string_view function);
bool flag_or(const Value* value, bool fallback);
Int integer_or(const Value* value, Int fallback, std::string_view function);
Text text_or(const Value* value, std::string_view fallback, std::string_view function);

/// `value.name`: methods first, as Python has them, then members.
Value get_attribute(const Value& value, const std::string& name, Context& context);
/// `value[key]`: members first.
Value get_item(const Value& value, const Value& key, Context& context);
/// "a.b.0" and integers, as the attribute arguments of filters are written. `fallback` stands in
/// for each part that is missing, if it is not null.
Value get_path(const Value& value, const Value& path, Context& context, const Value* fallback = nullptr);

bool has_method(const Value& value, std::string_view name);
Value call_method(const Value& self, const std::string& name, const Args& args, Context& context);

/// Python's % on strings.
Text format_percent(const Text& format, const Value& values, Context& context);

/// Globals: range, dict, namespace, cycler, joiner, raise_exception, strftime_now. Undefined if there is none
/// so named.
Value find_global(const std::string& name, Context& context);
Value call_global(std::string_view name, const Args& args, Context& context);

/// A function of the engine as a value.
class GlobalFunction : public Object {
 public:
  explicit GlobalFunction(std::string name) : name_(std::move(name)) {}
  std::string_view type_name() const override { return "function"; }
  bool callable() const override { return true; }
  Value attribute(const std::string&) const override { return {}; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
};

/// namespace(): the only thing that can be changed.
class Namespace : public Object {
 public:
  std::string_view type_name() const override { return "Namespace"; }
  Value attribute(const std::string& name) const override;
  void set(const std::string& name, Value value);

 private:
  std::vector<std::pair<std::string, Value>> members_;
};

/// cycler(...) and joiner(...).
class Cycler : public Object {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) {}
  std::string_view type_name() const override { return "Cycler"; }
  Value attribute(const std::string& name) const override;
  Value next();
  void reset() { pos_ = 0; }

 private:
  std::vector<Value> items_;
  size_t pos_ = 0;
};

class Joiner : public Object {
 public:
  explicit Joiner(Text separator) : separator_(std::move(separator)) {}
  std::string_view type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  Value attribute(const std::string&) const override { return {}; }
  Value next();

 private:
  Text separator_;
  bool used_ = false;
};

}  // namespace fl::chat::jinja
