// Two reports side by side: what changed between them, and what that did to the cells.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/document.h"

namespace fl::report {

struct Change {
  std::string what;  ///< "machine: CPU", "server: version"
  std::string before;
  std::string after;
};

/// One cell in both. Differences are (after - before) / before.
struct ComparedCell {
  std::string id;
  std::optional<double> decode_before;  ///< tok/s total, mean
  std::optional<double> decode_after;
  std::optional<double> decode_change;
  bool beyond_spread = false;         ///< the means differ by more than two standard errors
  std::optional<double> ttft_before;  ///< p50
  std::optional<double> ttft_after;
  std::optional<int64_t> memory_before;
  std::optional<int64_t> memory_after;
};

struct Comparison {
  std::string before;  ///< id and time
  std::string after;
  std::vector<Change> changes;
  std::vector<ComparedCell> cells;  ///< of either
  std::vector<std::string> notes;
};

Comparison compare(const Document& before, const Document& after);
std::string comparison_text(const Comparison& comparison);
std::string comparison_json(const Comparison& comparison);

}  // namespace fl::report
