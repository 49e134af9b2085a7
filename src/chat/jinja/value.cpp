#include "chat/jinja/value.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "tokenizer/utf8.h"

namespace fl::chat::jinja {

void Budget::step(uint64_t n) {
  if (n > steps_) {
    throw TemplateError("the template does not end within its step budget");
  }
  steps_ -= n;
}

void Budget::bytes(uint64_t n) {
  if (n > bytes_) {
    throw TemplateError("the template makes more text than its byte budget allows");
  }
  bytes_ -= n;
}

Int Range::size() const {
  if (step > 0) {
    return start < stop ? (stop - start + step - 1) / step : 0;
  }
  return start > stop ? (start - stop - step - 1) / -step : 0;
}

Value Value::undefined(std::string what) {
  Value value;
  value.storage_ = Undefined{std::make_shared<const std::string>(std::move(what))};
  return value;
}

namespace {

template <typename T>
const T* pointee(const Value::Storage& storage) {
  const auto* p = std::get_if<std::shared_ptr<const T>>(&storage);
  return p == nullptr ? nullptr : p->get();
}

int depth_of(const Value& value) {
  if (const Sequence* s = value.sequence()) {
    return s->depth;
  }
  const Dict* d = value.dict();
  return d == nullptr ? 0 : d->depth;
}

int checked_depth(int inner) {
  if (inner >= kMaxNesting) {
    throw TemplateError(fmt::format("values are nested deeper than {}", kMaxNesting));
  }
  return inner + 1;
}

}  // namespace

const Text* Value::text() const {
  return pointee<Text>(storage_);
}
const Sequence* Value::sequence() const {
  return pointee<Sequence>(storage_);
}
const Dict* Value::dict() const {
  return pointee<Dict>(storage_);
}
Object* Value::object() const {
  const auto* p = std::get_if<Object*>(&storage_);
  return p == nullptr ? nullptr : *p;
}

Value make_sequence(std::vector<Value> items, int type) {
  int inner = 0;
  for (const Value& item : items) {
    inner = std::max(inner, depth_of(item));
  }
  auto sequence = std::make_shared<Sequence>();
  sequence->depth = checked_depth(inner);
  sequence->items = std::move(items);
  sequence->type = static_cast<Sequence::Type>(type);
  Value value;
  value.storage_ = std::shared_ptr<const Sequence>(std::move(sequence));
  return value;
}

Value make_dict(std::vector<std::pair<Value, Value>> entries) {
  int inner = 0;
  for (const auto& [key, item] : entries) {
    inner = std::max({inner, depth_of(key), depth_of(item)});
  }
  auto dict = std::make_shared<Dict>();
  dict->depth = checked_depth(inner);
  dict->entries = std::move(entries);
  Value value;
  value.storage_ = std::shared_ptr<const Dict>(std::move(dict));
  return value;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [k, v] : entries) {
    const Text* text = k.text();
    if (text != nullptr && text->str() == key) {
      return &v;
    }
  }
  return nullptr;
}

std::string type_name(const Value& value) {
  if (const Sequence* s = value.sequence()) {
    return s->type == Sequence::list ? "list" : s->type == Sequence::generator ? "generator" : "tuple";
  }
  if (const Object* o = value.object()) {
    return std::string(o->type_name());
  }
  constexpr std::string_view kNames[] = {"Undefined", "NoneType", "bool", "int",   "float",
                                         "str",       "list",     "dict", "range", "object"};
  return std::string(kNames[value.storage().index()]);
}

bool truthy(const Value& value) {
  if (const bool* b = std::get_if<bool>(&value.storage())) {
    return *b;
  }
  if (const Int* i = std::get_if<Int>(&value.storage())) {
    return *i != 0;
  }
  if (const double* d = std::get_if<double>(&value.storage())) {
    return *d != 0;
  }
  if (const Text* t = value.text()) {
    return !t->empty();
  }
  if (const Sequence* s = value.sequence()) {
    return s->type == Sequence::generator || !s->items.empty();
  }
  if (const Dict* d = value.dict()) {
    return !d->entries.empty();
  }
  if (const Range* r = value.range()) {
    return r->size() > 0;
  }
  return value.object() != nullptr;
}

bool is_integer(const Value& value, Int& out) {
  if (const bool* b = std::get_if<bool>(&value.storage())) {
    out = *b ? 1 : 0;
    return true;
  }
  if (const Int* i = std::get_if<Int>(&value.storage())) {
    out = *i;
    return true;
  }
  return false;
}

bool is_number(const Value& value, double& out) {
  Int integer = 0;
  if (is_integer(value, integer)) {
    out = static_cast<double>(integer);
    return true;
  }
  if (const double* d = std::get_if<double>(&value.storage())) {
    out = *d;
    return true;
  }
  return false;
}

bool equals(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  Int ia = 0;
  Int ib = 0;
  double da = 0;
  double db = 0;
  if (is_integer(a, ia) && is_integer(b, ib)) {
    return ia == ib;
  }
  if (is_number(a, da) && is_number(b, db)) {
    return da == db;
  }
  if (a.text() != nullptr && b.text() != nullptr) {
    const bool same_size = a.text()->size() == b.text()->size();
    budget.bytes(same_size ? a.text()->size() : 0);
    return same_size && a.text()->str() == b.text()->str();
  }
  if (const Sequence* sa = a.sequence(), *sb = b.sequence(); sa != nullptr && sb != nullptr) {
    if ((sa->type == Sequence::list) != (sb->type == Sequence::list) ||
        sa->items.size() != sb->items.size()) {
      return false;
    }
    return std::equal(sa->items.begin(), sa->items.end(), sb->items.begin(),
                      [&](const Value& x, const Value& y) { return equals(x, y, budget); });
  }
  if (const Dict* first = a.dict(), *second = b.dict(); first != nullptr && second != nullptr) {
    if (first->entries.size() != second->entries.size()) {
      return false;
    }
    return std::all_of(first->entries.begin(), first->entries.end(), [&](const auto& entry) {
      return std::any_of(second->entries.begin(), second->entries.end(), [&](const auto& other) {
        return equals(entry.first, other.first, budget) && equals(entry.second, other.second, budget);
      });
    });
  }
  if (a.range() != nullptr && b.range() != nullptr) {
    const Range &ra = *a.range(), &rb = *b.range();
    return ra.size() == rb.size() &&
           (ra.size() == 0 || (ra.start == rb.start && (ra.size() == 1 || ra.step == rb.step)));
  }
  if (a.object() != nullptr || b.object() != nullptr) {
    return a.object() == b.object();
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  Int ia = 0;
  Int ib = 0;
  double da = 0;
  double db = 0;
  if (is_integer(a, ia) && is_integer(b, ib)) {
    return ia < ib ? -1 : ia > ib ? 1 : 0;
  }
  if (is_number(a, da) && is_number(b, db)) {
    return da < db ? -1 : da > db ? 1 : 0;
  }
  if (a.text() != nullptr && b.text() != nullptr) {
    budget.bytes(std::min(a.text()->size(), b.text()->size()));
    return a.text()->str().compare(b.text()->str());  // UTF-8 sorts as its code points do
  }
  if (const Sequence* sa = a.sequence(), *sb = b.sequence(); sa != nullptr && sb != nullptr) {
    for (size_t i = 0; i < std::min(sa->items.size(), sb->items.size()); ++i) {
      if (!equals(sa->items[i], sb->items[i], budget)) {
        return compare(sa->items[i], sb->items[i], budget);
      }
    }
    return sa->items.size() < sb->items.size() ? -1 : sa->items.size() > sb->items.size() ? 1 : 0;
  }
  throw TemplateError(fmt::format("'{}' and '{}' cannot be ordered", type_name(a), type_name(b)));
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  budget.step();
  if (const Text* text = container.text()) {
    if (item.text() == nullptr) {
      throw TemplateError(fmt::format("'in <string>' needs a string, found '{}'", type_name(item)));
    }
    budget.bytes(text->size());
    return text->str().find(item.text()->str()) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) {
    return std::any_of(dict->entries.begin(), dict->entries.end(),
                       [&](const auto& entry) { return equals(entry.first, item, budget); });
  }
  if (const Sequence* sequence = container.sequence()) {
    return std::any_of(sequence->items.begin(), sequence->items.end(),
                       [&](const Value& v) { return equals(v, item, budget); });
  }
  if (const Range* range = container.range()) {
    Int i = 0;
    if (!is_integer(item, i) || range->size() == 0) {
      return false;
    }
    const bool inside =
        range->step > 0 ? i >= range->start && i < range->stop : i <= range->start && i > range->stop;
    return inside && (i - range->start) % range->step == 0;
  }
  if (container.is_undefined()) {
    return false;
  }
  throw TemplateError(fmt::format("'{}' cannot be searched with 'in'", type_name(container)));
}

Int length(const Value& value) {
  if (const Text* text = value.text()) {
    return static_cast<Int>(count_characters(text->str()));
  }
  if (const Sequence* s = value.sequence(); s != nullptr && s->type != Sequence::generator) {
    return static_cast<Int>(s->items.size());
  }
  if (const Dict* dict = value.dict()) {
    return static_cast<Int>(dict->entries.size());
  }
  if (const Range* range = value.range()) {
    return range->size();
  }
  if (value.is_undefined()) {
    return 0;
  }
  throw TemplateError(fmt::format("a '{}' has no length", type_name(value)));
}

bool is_iterable(const Value& value) {
  return value.text() != nullptr || value.sequence() != nullptr || value.dict() != nullptr ||
         value.range() != nullptr || value.is_undefined();
}

std::vector<Value> iterate(const Value& value, Budget& budget) {
  std::vector<Value> items;
  if (const Sequence* s = value.sequence()) {
    budget.step(s->items.size());
    items = s->items;
  } else if (const Dict* dict = value.dict()) {
    budget.step(dict->entries.size());
    items.reserve(dict->entries.size());
    for (const auto& entry : dict->entries) {
      items.push_back(entry.first);
    }
  } else if (const Text* text = value.text()) {
    budget.step(text->size());
    const std::vector<size_t> starts = character_starts(text->str());
    items.reserve(starts.size());
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      items.emplace_back(text->substr(starts[i], starts[i + 1] - starts[i]));
    }
  } else if (const Range* range = value.range()) {
    // Charged before it is made: a range of 10^9 is an error, not an allocation.
    const Int n = range->size();
    budget.step(n > INT64_MAX ? UINT64_MAX : static_cast<uint64_t>(n));
    for (Int i = 0; i < n; ++i) {
      items.emplace_back(range->start + i * range->step);
    }
  } else if (!value.is_undefined()) {
    throw TemplateError(fmt::format("'{}' object is not iterable", type_name(value)));
  }
  return items;
}

std::string format_integer(Int value) {
  if (value == 0) {
    return "0";
  }
  const bool negative = value < 0;
  std::string digits;
  while (value != 0) {
    const int digit = static_cast<int>(value % 10);
    digits.push_back(static_cast<char>('0' + (digit < 0 ? -digit : digit)));
    value /= 10;
  }
  if (negative) {
    digits.push_back('-');
  }
  std::reverse(digits.begin(), digits.end());
  return digits;
}

// Python's repr(float): the shortest digits that read back, an exponent below 1e-4 and from 1e16 on.
std::string format_real(double value) {
  constexpr int kFirstExponent = 16;
  constexpr int kLastSmallExponent = -4;
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value < 0 ? "-inf" : "inf";
  }
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view all(buffer, static_cast<size_t>(end - buffer));
  const size_t e = all.find('e');
  std::string digits;
  for (const char c : all.substr(0, e)) {
    if (c >= '0' && c <= '9') {
      digits.push_back(c);
    }
  }
  const std::string sign = all[0] == '-' ? "-" : "";
  int exponent = 0;
  const size_t exponent_begin = e + (all[e + 1] == '+' ? 2 : 1);
  std::from_chars(buffer + exponent_begin, end, exponent);
  if (exponent < kLastSmallExponent || exponent >= kFirstExponent) {
    const std::string fraction = digits.size() > 1 ? "." + digits.substr(1) : "";
    return fmt::format("{}{}{}e{}{:02d}", sign, digits[0], fraction, exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  if (exponent < 0) {
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  }
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

namespace {

bool is_printable(uint32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return code_point == ' ';
    default:
      return true;
  }
}

void append_quoted(Text& out, const Text& text) {
  const std::string& s = text.str();
  const char quote = s.find('\'') != std::string::npos && s.find('"') == std::string::npos ? '"' : '\'';
  out.append(std::string_view(&quote, 1), true);
  for (size_t pos = 0; pos < s.size();) {
    const auto c = tokenizer::decode_utf8(s, pos);
    std::string part;
    if (c.code_point == static_cast<uint32_t>(quote) || c.code_point == '\\') {
      part = {'\\', s[pos]};
    } else if (c.code_point == '\n') {
      part = "\\n";
    } else if (c.code_point == '\r') {
      part = "\\r";
    } else if (c.code_point == '\t') {
      part = "\\t";
    } else if (is_printable(c.code_point)) {
      part = s.substr(pos, c.bytes);
    } else if (c.code_point < 0x100) {
      part = fmt::format("\\x{:02x}", c.code_point);
    } else {
      part = c.code_point < 0x10000 ? fmt::format("\\u{:04x}", c.code_point)
                                    : fmt::format("\\U{:08x}", c.code_point);
    }
    out.append(part, text.trusted_at(pos));
    pos += c.bytes;
  }
  out.append(std::string_view(&quote, 1), true);
}

}  // namespace

void append_repr(Text& out, const Value& value, Budget& budget) {
  budget.step();
  if (const Text* text = value.text()) {
    budget.bytes(text->size());
    append_quoted(out, *text);
  } else if (const Sequence* s = value.sequence()) {
    const bool tuple = s->type == Sequence::tuple || s->type == Sequence::group;
    out.append(tuple ? "(" : "[", true);
    for (size_t i = 0; i < s->items.size(); ++i) {
      out.append(i == 0 ? "" : ", ", true);
      append_repr(out, s->items[i], budget);
    }
    out.append(tuple ? (s->items.size() == 1 ? ",)" : ")") : "]", true);
  } else if (const Dict* dict = value.dict()) {
    out.append("{", true);
    for (size_t i = 0; i < dict->entries.size(); ++i) {
      out.append(i == 0 ? "" : ", ", true);
      append_repr(out, dict->entries[i].first, budget);
      out.append(": ", true);
      append_repr(out, dict->entries[i].second, budget);
    }
    out.append("}", true);
  } else if (value.is_undefined()) {
    out.append("Undefined", true);
  } else {
    out.append(to_text(value, budget));
  }
}

Text to_text(const Value& value, Budget& budget) {
  budget.step();
  if (const Text* text = value.text()) {
    budget.bytes(text->size());
    return *text;
  }
  if (value.is_undefined()) {
    return {};
  }
  if (value.is_none()) {
    return Text("None", true);
  }
  if (const bool* b = std::get_if<bool>(&value.storage())) {
    return Text(*b ? "True" : "False", true);
  }
  if (const Int* i = std::get_if<Int>(&value.storage())) {
    return Text(format_integer(*i), true);
  }
  if (const double* d = std::get_if<double>(&value.storage())) {
    return Text(format_real(*d), true);
  }
  if (const Range* r = value.range()) {
    std::string text = "range(" + format_integer(r->start) + ", " + format_integer(r->stop);
    return Text(text + (r->step == 1 ? ")" : ", " + format_integer(r->step) + ")"), true);
  }
  if (const Object* object = value.object()) {
    return Text(fmt::format("<{}>", object->type_name()), true);
  }
  Text out;
  append_repr(out, value, budget);
  return out;
}

}  // namespace fl::chat::jinja
