// `freelunch report --check-profile`: does a recommendation hold?
#pragma once

#include <string>

#include "apps/report/options.h"
#include "base/result.h"
#include "report/runner.h"

namespace fl::apps::report {

/// Starts `serve --profile NAME --from REPORT` as its user would, in turn with the cell's own configuration
/// as the report started it, measures the cell again and prints what the report says, what is measured now,
/// how much the machine itself moved between, and what is left of the difference beside what that explains
/// (report/states.h). `job` brings cancel and the words for people; the profile's report is written into
/// `job.out_dir`, the other one into its folder "as-reported". The exit code: 0 when the profile holds
/// (report/again.h), 9 when it differs, without a result, or when that is not known well enough. Errors:
/// those of reading the report; invalid_argument (no such profile, a report of another server); bad_file
/// (another model).
Result<int> check_profile(const Flags& flags, const std::string& program, fl::report::RunJob job);

}  // namespace fl::apps::report
