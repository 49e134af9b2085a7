// Manners of a terminal: colours only where they are wanted, a thought in faint letters.
#pragma once

#include <cstdio>
#include <string_view>

namespace fl::apps {

/// Whether to write escape sequences: a terminal that is not dumb, and NO_COLOR empty; or CLICOLOR_FORCE.
bool wants_colour(std::FILE* out);

/// Prints an answer as it comes; a thought is faint where colours are wanted, else between its tags.
class AnswerPrinter {
 public:
  AnswerPrinter(std::FILE* out, bool colour) : out_(out), colour_(colour) {}
  void print(std::string_view text, bool thinking);
  /// Ends an open thought and the line.
  void finish();

 private:
  void leave_thought();

  std::FILE* out_;
  bool colour_;
  bool thinking_ = false;
  char last_ = '\n';
};

}  // namespace fl::apps
