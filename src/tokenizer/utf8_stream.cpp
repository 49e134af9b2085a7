#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace fl::tokenizer {

std::string Utf8Stream::push(std::string_view bytes) {
  pending_.append(bytes);
  std::string out;
  size_t pos = 0;
  while (pos < pending_.size()) {
    const Utf8Char c = decode_utf8(pending_, pos);
    if (c.state == Utf8Char::State::truncated) {
      break;
    }
    if (c.state == Utf8Char::State::valid) {
      out.append(pending_, pos, c.bytes);
    } else {
      out.append(kReplacement);
    }
    pos += c.bytes;
  }
  pending_.erase(0, pos);
  return out;
}

std::string Utf8Stream::finish() {
  // At most the start of one character is held, and it becomes one replacement, as an invalid one does in
  // push().
  const bool held = !pending_.empty();
  pending_.clear();
  return held ? std::string(kReplacement) : std::string();
}

}  // namespace fl::tokenizer
