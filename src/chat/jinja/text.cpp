#include "chat/jinja/text.h"

#include <algorithm>

#include "tokenizer/utf8.h"

namespace fl::chat::jinja {

Text::Text(std::string bytes, bool trusted) : bytes_(std::move(bytes)) {
  if (!bytes_.empty()) {
    runs_.push_back({bytes_.size(), trusted});
  }
}

bool Text::trusted_at(size_t pos) const {
  const auto it =
      std::upper_bound(runs_.begin(), runs_.end(), pos, [](size_t p, const Run& run) { return p < run.end; });
  return it != runs_.end() && it->trusted;
}

void Text::append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) {
    return;
  }
  bytes_.append(bytes);
  if (!runs_.empty() && runs_.back().trusted == trusted) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), trusted});
  }
}

void Text::append(const Text& other, size_t pos, size_t n) {
  pos = std::min(pos, other.size());
  const size_t end = pos + std::min(n, other.size() - pos);
  auto run = std::upper_bound(other.runs_.begin(), other.runs_.end(), pos,
                              [](size_t p, const Run& r) { return p < r.end; });
  while (pos < end) {
    const size_t stop = std::min(run->end, end);
    append(std::string_view(other.bytes_).substr(pos, stop - pos), run->trusted);
    pos = stop;
    ++run;
  }
}

Text Text::substr(size_t pos, size_t n) const {
  Text out;
  out.append(*this, pos, n);
  return out;
}

bool is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

Span strip(std::string_view text, bool left, bool right, const std::string_view* chars) {
  const auto strips = [chars](std::string_view character, uint32_t code_point) {
    return chars == nullptr ? is_space(code_point) : chars->find(character) != std::string_view::npos;
  };
  Span span{0, text.size()};
  while (left && span.begin < span.end) {
    const auto c = tokenizer::decode_utf8(text, span.begin);
    if (!strips(text.substr(span.begin, c.bytes), c.code_point)) {
      break;
    }
    span.begin += c.bytes;
  }
  while (right && span.end > span.begin) {
    size_t start = span.end - 1;
    while (start > span.begin && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) {
      --start;
    }
    const auto c = tokenizer::decode_utf8(text, start);
    if (!strips(text.substr(start, span.end - start), c.code_point)) {
      break;
    }
    span.end = start;
  }
  return span;
}

std::vector<size_t> character_starts(std::string_view text) {
  std::vector<size_t> starts;
  for (size_t pos = 0; pos < text.size(); pos += tokenizer::decode_utf8(text, pos).bytes) {
    starts.push_back(pos);
  }
  starts.push_back(text.size());
  return starts;
}

size_t count_characters(std::string_view text) {
  size_t n = 0;
  for (size_t pos = 0; pos < text.size(); pos += tokenizer::decode_utf8(text, pos).bytes) {
    ++n;
  }
  return n;
}

Text map_characters(const Text& text, uint32_t (*map)(uint32_t code_point, bool first)) {
  Text out;
  std::string character;
  for (size_t pos = 0; pos < text.size();) {
    const auto c = tokenizer::decode_utf8(text.str(), pos);
    character.clear();
    if (c.state == tokenizer::Utf8Char::State::valid) {
      tokenizer::append_utf8(character, map(c.code_point, pos == 0));
    } else {
      character.assign(text.str(), pos, c.bytes);
    }
    out.append(character, text.trusted_at(pos));
    pos += c.bytes;
  }
  return out;
}

}  // namespace fl::chat::jinja
