#include "report/journal_file.h"

#include <filesystem>
#include <fstream>
#include <optional>

#include <fmt/format.h>

#include "report/runner.h"

namespace fl::report {
namespace {

namespace fs = std::filesystem;

// The manifest as it stands in the file: the first line without its checksum. Journal::open checks it.
std::optional<std::string> recorded_manifest(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string line;
  if (!std::getline(file, line) || file.eof()) {
    return std::nullopt;
  }
  const size_t blank = line.find(' ');
  return blank == std::string::npos ? std::nullopt : std::optional(line.substr(blank + 1));
}

Status set_aside(const fs::path& path, const std::vector<Record>& records) {
  std::string id = "unknown";
  for (const Record& record : records) {
    if (const auto* run = std::get_if<RunRecord>(&record)) {
      id = run->id;
    }
  }
  std::error_code error;
  fs::rename(path, path.parent_path() / fmt::format("journal-{}.jsonl", id), error);
  if (error) {
    return fail(ErrorCode::io, fmt::format("cannot rename '{}': {}", path.string(), error.message()));
  }
  return {};
}

}  // namespace

Result<OpenJournal> open_journal(const std::string& dir, const Manifest& manifest, bool fresh) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) {
    return fail(ErrorCode::io, fmt::format("cannot make the folder '{}': {}", dir, error.message()));
  }
  const fs::path path = fs::path(dir) / kJournalName;
  const std::string wanted = to_line(manifest);
  const std::string expected = recorded_manifest(path).value_or(wanted);
  std::vector<std::string> lines;
  FL_ASSIGN(Journal journal, Journal::open(path, expected, lines));
  OpenJournal out{std::move(journal), {}, false};
  const Result<Manifest> recorded = manifest_from_line(expected);
  const bool readable = recorded && recorded->journal_version == kJournalVersion;
  bool ended = false;
  for (size_t i = 0; i < lines.size(); ++i) {
    auto record = record_from_line(lines[i]);
    if (!record && !readable) {
      continue;  // it is only set aside or refused
    }
    if (!record) {
      return fail(std::move(record.error()), fmt::format("'{}', record {}", path.string(), i + 1));
    }
    ended = ended || std::holds_alternative<EndRecord>(*record);
    out.records.push_back(std::move(*record));
  }
  if (!ended && (!fresh || lines.empty())) {
    if (expected == wanted) {
      out.resumed = !out.records.empty();
      return out;
    }
    if (!readable && !lines.empty()) {
      return fail(
          ErrorCode::invalid_argument,
          fmt::format("'{}' holds an unfinished run of another version of this program (the format of "
                      "its journal is {}, that of this one {}). Go on with that version, or choose "
                      "another --out, or set it aside with --fresh",
                      dir, recorded ? std::to_string(recorded->journal_version) : "unknown",
                      kJournalVersion));
    }
    if (!lines.empty()) {
      return fail(
          ErrorCode::invalid_argument,
          fmt::format("'{}' holds an unfinished run with other settings: {}. Run it as before to go on, or "
                      "choose another --out, or set it aside with --fresh",
                      dir, difference(*recorded, manifest)));
    }
  }
  // An old file without records is of no use to anybody: it is set aside all the same, under one name.
  FL_TRY(set_aside(path, out.records));
  lines.clear();
  FL_ASSIGN(out.journal, Journal::open(path, wanted, lines));
  out.records.clear();
  return out;
}

}  // namespace fl::report
