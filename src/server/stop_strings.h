// Finds stop strings in text that arrives in pieces. A stop string, and a possible beginning of one, is never
// shown.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fl::server {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);  ///< empty ones are dropped

  /// The text that may be shown after this piece. The stop string whose end comes first counts, of those the
  /// longest: so the result does not depend on how the text is cut.
  std::string push(std::string_view text);
  /// The end of the text: what was held back, unless a stop string was found.
  std::string finish();
  bool found() const { return found_; }
  const std::string& word() const { return word_; }  ///< the one found

 private:
  size_t held_from(size_t begin) const;

  std::vector<std::string> stops_;
  std::string held_;  ///< a proper beginning of a stop string
  size_t longest_ = 0;
  bool found_ = false;
  std::string word_;
};

}  // namespace fl::server
