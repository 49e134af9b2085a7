// A string that knows where each of its bytes came from: the template, or the request. Every operation of the
// engine keeps the origin, so that in the end only what the template itself wrote can become a control token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fl::chat::jinja {

class Text {
 public:
  /// A maximal stretch of one origin, from the end of the previous one.
  struct Run {
    size_t end = 0;
    bool trusted = false;
  };

  Text() = default;
  Text(std::string bytes, bool trusted);

  const std::string& str() const { return bytes_; }
  const std::vector<Run>& runs() const { return runs_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool trusted_at(size_t pos) const;

  void append(std::string_view bytes, bool trusted);
  void append(const Text& other) { append(other, 0, other.size()); }
  void append(const Text& other, size_t pos, size_t n);
  Text substr(size_t pos, size_t n = std::string::npos) const;

 private:
  std::string bytes_;
  std::vector<Run> runs_;
};

/// Python's str.isspace().
bool is_space(uint32_t code_point);

/// Byte range of `text` without the characters of `chars` (or white space, if null) at the chosen ends.
struct Span {
  size_t begin = 0;
  size_t end = 0;
};
Span strip(std::string_view text, bool left, bool right, const std::string_view* chars);

/// Positions of the characters of a valid UTF-8 text, and its size at the end.
std::vector<size_t> character_starts(std::string_view text);
size_t count_characters(std::string_view text);

/// Applies a map of code points, one to one, keeping origins.
Text map_characters(const Text& text, uint32_t (*map)(uint32_t code_point, bool first));

}  // namespace fl::chat::jinja
