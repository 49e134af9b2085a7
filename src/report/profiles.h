// Configurations to copy: chosen from the cells, written out as commands, and read back by `serve --profile`.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "report/document.h"

namespace fl::report {

/// Of profiles that were chosen before: the cell's id, by the profile's name.
using ChosenCells = std::map<std::string, std::string>;

/// "chat" (one person), "long-files", "coding" (a whole codebase), "agents" (many at once). Fewer when the
/// cells do not support one. `recommendation` has its knees. What was `chosen` stays.
std::vector<Profile> choose_profiles(const Document& document, const Recommendation& recommendation,
                                     const ChosenCells& chosen);

/// The profile of that name from a report.json, for `freelunch serve --profile NAME --from report.json`: its
/// `args` are the flags with which it was measured. Errors: those of read_document; invalid_argument with the
/// names that exist.
Result<Profile> read_profile(const std::string& report_path, std::string_view name);

}  // namespace fl::report
