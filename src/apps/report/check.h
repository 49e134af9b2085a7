// `freelunch report --check-profile`: does a recommendation hold?
#pragma once

#include <string>

#include "apps/report/options.h"
#include "base/result.h"
#include "report/runner.h"

namespace fl::apps::report {

/// A profile measured again may be off by this share of what its report says.
inline constexpr double kProfileTolerance = 0.05;

/// Starts `serve --profile NAME --from REPORT` as its user would, measures the profile's cell again and
/// prints both. `job` brings cancel, progress and the words for people; its report is written into
/// `job.out_dir`. The exit code: 0 within kProfileTolerance, 9 beyond or without a result. Errors: those of
/// reading the report; invalid_argument (no such profile, a report of another server); bad_file (another
/// model).
Result<int> check_profile(const Flags& flags, const std::string& program, fl::report::RunJob job);

}  // namespace fl::apps::report
