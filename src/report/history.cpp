#include "report/history.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <sqlite3.h>

#include "report/json_fields.h"

namespace fl::report {

// clang-format off
FL_FIELDS(HistoryRow, "",
  f("id", &T::id, ""); f("started_at", &T::started_at, ""); f("model", &T::model, ""); f("server", &T::server, "");
  f("machine", &T::machine, ""); f("complete", &T::complete, ""); f("valid", &T::valid, "");
  f("decode_one_chat_tokens_per_second", &T::decode_one_chat, "");
  f("decode_best_total_tokens_per_second", &T::decode_best_total, ""); f("command", &T::command, "");)
// clang-format on

namespace {

namespace fs = std::filesystem;

constexpr int kVersion = 1;
constexpr int kBusyMs = 5000;  // another run may be writing

constexpr const char* kCreate =
    "create table if not exists runs (id text primary key, started_at text not null, model text not null, "
    "server text not null, machine text not null, complete integer not null, valid integer not null, "
    "decode_one_chat real not null, decode_best_total real not null, command text not null, report text not "
    "null);"
    "create index if not exists runs_by_time on runs (started_at);";

class Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    ok_ = sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr) == SQLITE_OK;
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  bool ok() const { return ok_; }
  void bind(int at, const std::string& text) {
    sqlite3_bind_text(statement_, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
  }
  void bind(int at, int64_t value) { sqlite3_bind_int64(statement_, at, value); }
  void bind(int at, double value) { sqlite3_bind_double(statement_, at, value); }
  int step() { return sqlite3_step(statement_); }
  std::string text(int column) const {
    const unsigned char* bytes = sqlite3_column_text(statement_, column);
    return bytes == nullptr ? "" : reinterpret_cast<const char*>(bytes);
  }
  int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  double real(int column) const { return sqlite3_column_double(statement_, column); }

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  bool ok_ = false;
};

tl::unexpected<Error> sqlite_error(sqlite3* database, const char* what) {
  const int code = sqlite3_errcode(database);
  return fail(code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? ErrorCode::bad_file : ErrorCode::io,
              fmt::format("the history: {}: {}", what, sqlite3_errmsg(database)));
}

}  // namespace

void History::Close::operator()(sqlite3* database) const {
  sqlite3_close(database);
}

Result<History> History::open(const std::string& path) {
  std::error_code error;
  if (const fs::path parent = fs::path(path).parent_path(); !parent.empty()) {
    fs::create_directories(parent, error);
  }
  sqlite3* raw = nullptr;
  const int opened = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  History out;
  out.database_.reset(raw);
  if (opened != SQLITE_OK) {
    return fail(ErrorCode::io, fmt::format("cannot open the history '{}': {}", path,
                                           raw != nullptr ? sqlite3_errmsg(raw) : "no memory"));
  }
  sqlite3_busy_timeout(raw, kBusyMs);
  int64_t version = 0;
  {
    Statement asked(raw, "pragma user_version");
    if (!asked.ok() || asked.step() != SQLITE_ROW) {
      return sqlite_error(raw, path.c_str());
    }
    version = asked.integer(0);
  }
  if (version > kVersion) {
    return fail(ErrorCode::bad_file, fmt::format("the history '{}' has version {}, this program knows {}",
                                                 path, version, kVersion));
  }
  if (sqlite3_exec(raw, kCreate, nullptr, nullptr, nullptr) != SQLITE_OK ||
      sqlite3_exec(raw, fmt::format("pragma user_version = {}", kVersion).c_str(), nullptr, nullptr,
                   nullptr) != SQLITE_OK) {
    return sqlite_error(raw, path.c_str());
  }
  return out;
}

Status History::add(const Document& document) {
  Statement insert(database_.get(), "insert or replace into runs values (?,?,?,?,?,?,?,?,?,?,?)");
  if (!insert.ok()) {
    return sqlite_error(database_.get(), "cannot add a run");
  }
  const std::string machine =
      document.machine.gpus.empty() ? document.machine.cpu : document.machine.gpus.front().name;
  int at = 0;
  insert.bind(++at, document.run.id);
  insert.bind(++at, document.run.started_at);
  insert.bind(++at, document.model.name);
  insert.bind(++at,
              document.server.name + (document.server.version.empty() ? "" : " " + document.server.version));
  insert.bind(++at, machine);
  insert.bind(++at, int64_t{document.run.complete});
  insert.bind(++at, int64_t{document.integrity.valid});
  insert.bind(++at, document.headline.decode_one_chat.value_or(0));
  insert.bind(++at, document.headline.decode_best_total.value_or(0));
  insert.bind(++at, document.run.command);
  insert.bind(++at, to_json(document));
  if (insert.step() != SQLITE_DONE) {
    return sqlite_error(database_.get(), "cannot add a run");
  }
  return {};
}

Result<std::vector<HistoryRow>> History::list(int64_t limit) const {
  Statement rows(
      database_.get(),
      "select id, started_at, model, server, machine, complete, valid, decode_one_chat, decode_best_total, "
      "command from runs order by started_at desc, id desc limit ?");
  if (!rows.ok()) {
    return sqlite_error(database_.get(), "cannot list the runs");
  }
  rows.bind(1, limit > 0 ? limit : int64_t{-1});
  std::vector<HistoryRow> out;
  int status = 0;
  while ((status = rows.step()) == SQLITE_ROW) {
    HistoryRow row;
    row.id = rows.text(0);
    row.started_at = rows.text(1);
    row.model = rows.text(2);
    row.server = rows.text(3);
    row.machine = rows.text(4);
    row.complete = rows.integer(5) != 0;
    row.valid = rows.integer(6) != 0;
    row.decode_one_chat = rows.real(7);
    row.decode_best_total = rows.real(8);
    row.command = rows.text(9);
    out.push_back(std::move(row));
  }
  if (status != SQLITE_DONE) {
    return sqlite_error(database_.get(), "cannot list the runs");
  }
  return out;
}

Result<Document> History::load(const std::string& id) const {
  Statement rows(database_.get(),
                 "select id, report from runs where substr(id, 1, length(?1)) = ?1 order by id");
  if (!rows.ok()) {
    return sqlite_error(database_.get(), "cannot read a run");
  }
  rows.bind(1, id);
  std::string report;
  int64_t n = 0;
  while (rows.step() == SQLITE_ROW) {
    report = rows.text(1);
    if (rows.text(0) == id) {
      n = 1;
      break;
    }
    ++n;
  }
  if (n == 0) {
    return fail(ErrorCode::not_found, fmt::format("the history has no run '{}'", id));
  }
  if (n > 1) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("'{}' is the beginning of {} runs of the history", id, n));
  }
  return document_from_json(report);
}

std::string history_json(const std::vector<HistoryRow>& rows) {
  return json_of(rows).dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string default_history_path() {
  const char* data = std::getenv("XDG_DATA_HOME");
  if (data != nullptr && *data == '/') {  // the specification: relative paths are ignored
    return std::string(data) + "/freelunch/history.sqlite";
  }
  const char* home = std::getenv("HOME");
  return home != nullptr && *home != 0 ? std::string(home) + "/.local/share/freelunch/history.sqlite" : "";
}

}  // namespace fl::report
