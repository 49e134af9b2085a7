// Every finished or interrupted run of this user, in one SQLite file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "report/document.h"

struct sqlite3;

namespace fl::report {

struct HistoryRow {
  std::string id;
  std::string started_at;
  std::string model;
  std::string server;
  std::string machine;
  bool complete = false;
  bool valid = false;
  double decode_one_chat = 0;  ///< 0: not measured
  double decode_best_total = 0;
  std::string command;
};

class History {
 public:
  /// Opens or creates. Errors: io, bad_file (not such a database, or of a later version).
  static Result<History> open(const std::string& path);
  History(History&&) noexcept = default;
  History& operator=(History&&) noexcept = default;

  /// A run that is there already is replaced.
  Status add(const Document& document);
  /// The latest first; 0: all.
  Result<std::vector<HistoryRow>> list(int64_t limit) const;
  /// By id, or by a beginning that only one id has. Errors: not_found, invalid_argument (several).
  Result<Document> load(const std::string& id) const;

 private:
  History() = default;
  struct Close {
    void operator()(sqlite3* database) const;
  };
  std::unique_ptr<sqlite3, Close> database_;
};

std::string history_json(const std::vector<HistoryRow>& rows);

/// $XDG_DATA_HOME/freelunch/history.sqlite, or ~/.local/share/freelunch/history.sqlite. Empty: no home.
std::string default_history_path();

}  // namespace fl::report
