// The plots of the HTML report, drawn from the document's numbers.
#pragma once

#include <string>
#include <vector>

#include "report/document.h"

namespace fl::report {

struct Panel {
  std::string name;  ///< what sets it apart from its neighbours; empty: one panel only
  std::string svg;
};

struct Plot {
  std::string id;
  std::string title;
  std::string reading;        ///< how to read it, one sentence
  std::vector<Panel> panels;  ///< none: there is nothing to draw
};

/// Contexts x chats as colours: total speed for each filling, and memory.
Plot heat_map(const Document& document);
/// Total speed against chats: a line for each context, a panel for each filling.
Plot speed_against_chats(const Document& document);
/// Speed of each chat against the tokens in its window: a line for each number of chats.
Plot speed_against_depth(const Document& document);
/// Stacked by what holds it, for each context and number of chats.
Plot memory_against_context(const Document& document);
Plot ttft_against_prompt(const Document& document);
/// Time between tokens: the histograms of one context.
Plot latency_distribution(const Document& document);

}  // namespace fl::report
