// Configurations to copy: chosen from the cells, written out as commands, and read back by `serve --profile`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "report/document.h"

namespace fl::report {

/// "chat" (one person), "long-files", "coding" (a whole codebase), "agents" (many at once). Fewer when the
/// cells do not support one. `recommendation` has its knees.
std::vector<Profile> choose_profiles(const Document& document, const Recommendation& recommendation);

/// The profile of that name from a report.json, for `freelunch serve --profile NAME --from report.json`: its
/// `args` are the flags with which it was measured. Errors: those of read_document; invalid_argument with the
/// names that exist.
Result<Profile> read_profile(const std::string& report_path, std::string_view name);

}  // namespace fl::report
