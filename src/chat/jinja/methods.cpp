// The methods of strings, dicts and lists that templates may call. None of them changes anything.
#include <algorithm>

#include <fmt/format.h>

#include "chat/jinja/context.h"
#include "chat/jinja/text_methods.h"

namespace fl::chat::jinja {
namespace {

Value pairs_of(const Dict& dict) {
  std::vector<Value> items;
  items.reserve(dict.entries.size());
  for (const auto& [key, value] : dict.entries) {
    items.push_back(make_sequence({key, value}, Sequence::tuple));
  }
  return make_sequence(std::move(items));
}

Value call_dict_method(const Value& self, const std::string& name, const Args& args, Context& context) {
  const Dict& dict = *self.dict();
  context.budget.step(dict.entries.size() / 8);
  if (name == "get") {
    const auto bound = args.bind("get", {"key", "default"});
    if (bound[0] == nullptr) {
      throw TemplateError("get: expected a key");
    }
    for (const auto& [key, value] : dict.entries) {
      if (equals(key, *bound[0], context.budget)) {
        return value;
      }
    }
    return bound[1] == nullptr ? Value(None{}) : *bound[1];
  }
  args.bind(name, {});
  if (name == "items") {
    return pairs_of(dict);
  }
  if (name == "copy") {
    return self;
  }
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    items.push_back(name == "keys" ? key : value);
  }
  return make_sequence(std::move(items));
}

Value call_list_method(const Value& self, const std::string& name, const Args& args, Context& context) {
  const auto bound = args.bind(name, {"value"});
  if (bound[0] == nullptr) {
    throw TemplateError(name + ": expected a value");
  }
  Int n = 0;
  const auto& items = self.sequence()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (equals(items[i], *bound[0], context.budget)) {
      if (name == "index") {
        return static_cast<Int>(i);
      }
      ++n;
    }
  }
  if (name == "index") {
    throw TemplateError("index: the list does not hold the value");
  }
  return n;
}

}  // namespace

Value call_method(const Value& self, const std::string& name, const Args& args, Context& context) {
  context.budget.step();
  if (self.text() != nullptr) {
    context.budget.bytes(self.text()->size());
    return call_text_method(*self.text(), name, args, context);
  }
  if (self.dict() != nullptr) {
    return call_dict_method(self, name, args, context);
  }
  return call_list_method(self, name, args, context);
}

}  // namespace fl::chat::jinja
