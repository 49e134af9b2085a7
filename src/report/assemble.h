// From the journal to the document: a pure function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "report/document.h"
#include "report/profiles.h"
#include "report/records.h"

namespace fl::report {

/// More than this share of requests that are not ok makes a run invalid.
inline constexpr double kMaxNotOk = 0.01;
/// Fewer repeats than this flag the cell.
inline constexpr int64_t kLeastRepeats = 3;

/// `stop_reason`: why the run is not complete; unused when it is.
Document assemble(const Manifest& manifest, const std::vector<Record>& records,
                  const std::string& stop_reason);

/// Fills findings, recommendation and headline from the cells. Part of assemble.
void conclude(Document& document, const ChosenCells& chosen = {});

/// Of rates over the same number of tokens each.
class HarmonicMean {
 public:
  void add(double rate) {
    inverse_ += 1 / rate;
    ++n_;
  }
  std::optional<double> value() const {
    return n_ > 0 ? std::optional(static_cast<double>(n_) / inverse_) : std::nullopt;
  }

 private:
  double inverse_ = 0;
  int64_t n_ = 0;
};

/// Total tokens/s of each repeat of a cell, its parts together: their harmonic mean, since each part writes
/// as many tokens.
std::vector<double> repeat_rates(const std::vector<Record>& records, int64_t ctx, int64_t chats,
                                 std::string_view depth);

/// How often the cells were left for others and taken up again, plus one: the fewest of the cells with
/// several repeats. 0: there is no such cell.
int64_t count_walks(const std::vector<const Batch*>& batches);

/// Says in the plan how the repeats lie: what count_walks counted, and how often a server was started for the
/// profiles after everything else.
void describe_repeats(Plan& plan, int64_t walks, int64_t n_visits);

Repeat repeat_of(int64_t n, double rate, double foreign_cpu, const std::vector<Yardstick>& beside,
                 const std::vector<Glance>& glances, int64_t start);

/// The anchors against the cell that they repeat; nullopt: there are none.
std::optional<Drift> drift_of(const std::vector<Record>& records);

/// The terms of the report's numbers.
std::vector<Definition> definitions(const Document& document);

/// The parts of conclude, each in a file of its own.
std::vector<Finding> find_findings(const Document& document);
Recommendation recommend(const Document& document, const ChosenCells& chosen);
Headline summarize(const Document& document);

/// "16k", "8000".
std::string short_tokens(int64_t n_tokens);

}  // namespace fl::report
