// The files of a report: report.json, report.md, report.html, each replaced as a whole.
#pragma once

#include <string>

#include "base/result.h"
#include "report/document.h"

namespace fl::report {

/// Writes beside the old file, syncs, renames: a reader or a crash sees the old or the new one. Errors: io.
Status replace_file(const std::string& path, const std::string& text);

Status write_report(const std::string& dir, const Document& document);

}  // namespace fl::report
