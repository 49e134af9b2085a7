// Walks a server through the matrix: starts it for each configuration, measures the cells, keeps every batch
// in the journal at once. Killed and started again it goes on where it was.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "report/document.h"
#include "report/records.h"

namespace fl::report {

struct RunProgress {
  int64_t cells_done = 0;
  int64_t cells_total = 0;
  int64_t walk = 0;  ///< the cells are those of this walk through the matrix; 0: the only one
  int64_t n_walks = 0;
  double seconds_done = 0;  ///< of work, as estimated
  double seconds_left = 0;
  std::string now;        ///< "32k, 2 chats, half"
  double total_rate = 0;  ///< tok/s of the last batch
};

struct RunJob {
  Manifest manifest;
  std::string command;  ///< as typed, for the record
  std::string api_key;  ///< for a URL
  std::string out_dir;
  bool fresh = false;                ///< set an unfinished run aside
  std::optional<Ceilings> ceilings;  ///< when they are known; otherwise our server is asked to measure them
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(const RunProgress&)> on_progress;
  std::function<void(const std::string&)> say;  ///< a line for people
  /// The report so far, after every configuration and at the end.
  std::function<Status(const Document&)> write;
};

struct RunOutcome {
  Document document;
  bool resumed = false;
  bool interrupted = false;
  std::optional<Error> error;  ///< why it stopped before its end
};

inline constexpr const char* kJournalName = "journal.jsonl";
/// After so many batches in a row without one good answer the run stops.
inline constexpr int kMaxFailedBatches = 5;

/// Errors (nothing was measured, nothing written): invalid_argument when an unfinished run with other
/// settings is in `out_dir` (says what changed); unavailable when another process works there; io, bad_file.
/// What happens later is in the outcome, with the report so far.
Result<RunOutcome> run_matrix(const RunJob& job);

}  // namespace fl::report
