// The quality column: the coding tasks of `eval`, asked of the server under measurement.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "client/http.h"
#include "report/records.h"

namespace fl::report {

struct QualityJob {
  client::Endpoint endpoint;
  std::string model;
  const Options* options = nullptr;
  int64_t n_parallel = 1;
  double seconds_left = 0;         ///< asking stops then; 0: no limit
  std::vector<std::string> known;  ///< answers that were kept, as eval writes them
  std::function<Status(const std::string& line)> keep;
  std::function<void(int64_t done, int64_t total)> on_progress;  ///< first when the first task is asked
  const std::atomic<bool>* cancel = nullptr;
};

/// The tasks' problem (missing file, wrong hash), before anything is measured.
Status check_tasks(const Options& options);

/// Never an error for what cannot be scored: that is `measured` false with its reason. Errors: those of
/// `keep`, and unavailable when cancelled.
Result<Quality> measure_quality(const QualityJob& job);

}  // namespace fl::report
