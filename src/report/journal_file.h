// The journal of one folder: opened, compared with what is wanted now, set aside when it is finished.
#pragma once

#include <string>
#include <vector>

#include "base/journal.h"
#include "report/records.h"

namespace fl::report {

struct OpenJournal {
  Journal journal;
  std::vector<Record> records;
  bool resumed = false;
};

/// Goes on with the journal in `dir` when its manifest is the same and it has no end; begins a new one when
/// there is none, when the old one ended, or when `fresh` (the old one is kept as journal-<run id>.jsonl).
/// Errors: invalid_argument with what changed; those of Journal::open.
Result<OpenJournal> open_journal(const std::string& dir, const Manifest& manifest, bool fresh);

}  // namespace fl::report
