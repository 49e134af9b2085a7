// The forms of one document for people. All print the same figures, rounded the same way; the document's JSON
// has them in full. Model names, commands and messages in it are someone else's text: every form escapes
// them.
#pragma once

#include <string>

#include "report/document.h"

namespace fl::report {

/// report.html stays below this.
inline constexpr size_t kMaxHtmlBytes = 1'000'000;

struct TerminalStyle {
  bool colour = false;
  int width = 80;  ///< columns of the tables; the card is always 80 wide
};

/// At most 80 columns and 23 lines, so that a prompt fits below it on an 80x24 terminal.
std::string terminal_card(const Document& document, const TerminalStyle& style);
/// The card, then every table.
std::string terminal_report(const Document& document, const TerminalStyle& style);

/// GitHub's Markdown.
std::string markdown_report(const Document& document);

/// One file, well-formed as XML too, without any reference to another; scripts are optional. Smaller than
/// kMaxHtmlBytes for a matrix of up to 10 contexts x 6 numbers of chats x 3 fillings.
std::string html_report(const Document& document);

}  // namespace fl::report
