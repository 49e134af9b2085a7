// The values of the template language: what JSON has, plus tuples, ranges and the engine's own objects.
// Containers are immutable and their nesting is bounded when they are made, so no later walk or destructor
// can run deep.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "chat/jinja/text.h"

namespace fl::chat::jinja {

/// What a template may spend. Set from the size of the input, so that an honest template never meets it.
class Budget {
 public:
  Budget(uint64_t steps, uint64_t bytes) : steps_(steps), bytes_(bytes) {}
  /// Throws TemplateError when the steps are used up.
  void step(uint64_t n = 1);
  /// Charges bytes that an operation reads or makes.
  void bytes(uint64_t n);

 private:
  uint64_t steps_;
  uint64_t bytes_;
};

/// Ends a rendering or a compilation.
class TemplateError : public std::runtime_error {
 public:
  explicit TemplateError(const std::string& what, bool raised = false)
      : std::runtime_error(what), raised_by_template(raised) {}
  bool raised_by_template;  ///< by raise_exception
};

using Int = __int128;  // holds every 64-bit integer of JSON, signed or not

struct Sequence;
struct Dict;
class Object;

struct Undefined {
  std::shared_ptr<const std::string> what;  ///< for the error when it is used; may be null
};
struct None {};
struct Range {
  Int start = 0, stop = 0, step = 1;
  Int size() const;
};

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, Int, double, std::shared_ptr<const Text>,
                               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>, Range, Object*>;

  Value() = default;
  Value(None v) : storage_(v) {}                                           // NOLINT: a value is what it holds
  Value(bool v) : storage_(v) {}                                           // NOLINT
  Value(Int v) : storage_(v) {}                                            // NOLINT
  Value(double v) : storage_(v) {}                                         // NOLINT
  Value(Text v) : storage_(std::make_shared<const Text>(std::move(v))) {}  // NOLINT
  Value(Range v) : storage_(v) {}                                          // NOLINT
  Value(Object* v) : storage_(v) {}                                        // NOLINT
  static Value undefined(std::string what);
  static Value trusted(std::string text) { return Value(Text(std::move(text), true)); }

  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(storage_);
  }
  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  const Text* text() const;  ///< null if it is none; so the following
  const Sequence* sequence() const;
  const Dict* dict() const;
  const Range* range() const { return std::get_if<Range>(&storage_); }
  Object* object() const;
  const Storage& storage() const { return storage_; }

 private:
  friend Value make_sequence(std::vector<Value> items, int type);
  friend Value make_dict(std::vector<std::pair<Value, Value>> entries);
  Storage storage_;
};

struct Sequence {
  enum Type : int { list, tuple, group, generator };
  std::vector<Value> items;
  Type type = list;
  int depth = 1;
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion; keys differ
  int depth = 1;

  const Value* find(std::string_view key) const;
};

/// Throw TemplateError if nested deeper than kMaxNesting.
Value make_sequence(std::vector<Value> items, int type = Sequence::list);
Value make_dict(std::vector<std::pair<Value, Value>> entries);

inline constexpr int kMaxNesting = 128;

/// Something with identity that lives as long as the rendering: a macro, a namespace, a loop.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view type_name() const = 0;
  virtual bool callable() const { return false; }
  /// The attribute, or undefined.
  virtual Value attribute(const std::string& name) const = 0;
};

std::string type_name(const Value& value);  ///< Python's name for it
bool truthy(const Value& value);
bool equals(const Value& a, const Value& b, Budget& budget);
/// Negative, zero, positive; TemplateError if the two have no order.
int compare(const Value& a, const Value& b, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);

/// The number in a bool, integer or real; false if it is none.
bool is_integer(const Value& value, Int& out);
bool is_number(const Value& value, double& out);

/// len(); TemplateError if it has none.
Int length(const Value& value);
/// The items that `for` visits; TemplateError if it cannot be visited.
std::vector<Value> iterate(const Value& value, Budget& budget);
bool is_iterable(const Value& value);

/// Python's str() and repr().
Text to_text(const Value& value, Budget& budget);
void append_repr(Text& out, const Value& value, Budget& budget);
std::string format_integer(Int value);
std::string format_real(double value);

}  // namespace fl::chat::jinja
