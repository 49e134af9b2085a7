// What the journal holds, one record a line. The report is a pure function of the manifest and the records,
// so a run that was killed and continued gives the report of one that was not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "report/fields.h"

namespace fl::report {

/// What is measured and how: a run is only continued with the same. The API key is not here.
struct Options {
  std::string kind = "model";  ///< "model", "command", "url"
  std::string url;
  std::string
      command_template;  ///< of kinds "model" and "command": words with {ctx} {window} {chats} {port} {model}
  std::string model_name;  ///< sent with each request; empty: the first that /v1/models lists
  std::vector<int64_t> ctx;
  std::vector<int64_t> chats;
  std::vector<std::string> depths;
  int64_t repeats = 3;
  double sample_seconds =
      1;  ///< that a repeat writes at least; 0: one batch, and no repeats beside `repeats`
  int64_t tokens_per_request = 128;
  int64_t prompt_tokens = 512;
  double budget_seconds = 0;  ///< 0: none
  bool quick = false;
  std::string tasks;       ///< "builtin", "humaneval=FILE", "none"
  int64_t task_limit = 0;  ///< 0: all
  int64_t task_tokens = 1024;
  std::string thinking = "default";  ///< "on", "off"
  double start_seconds = 600;        ///< for a server to become ready
  double request_seconds = 600;      ///< for one request
};

/// Of the records' meaning: a run that was begun with another one is not continued.
inline constexpr int64_t kJournalVersion = 5;

/// The first record's text: what must be the same when a run goes on.
struct Manifest {
  int64_t journal_version = kJournalVersion;
  std::string program_version;
  Options options;
  Machine machine;
  Model model;
  std::string server_program;  ///< hash of the program that is started; empty for a URL
};

struct RunRecord {
  std::string id;
  std::string started_at;
  std::string command;
  std::optional<Ceilings> ceilings;
};

/// What asking the server told.
struct Facts {
  std::string name;
  std::string version;
  std::string model;
  std::string model_path;
  std::string model_type;  ///< quantisation, as the server calls it
  std::string token_counts;
  int64_t window = 0;   ///< tokens of one chat; 0: it does not say
  int64_t n_slots = 0;  ///< 0: it does not say
  std::optional<int64_t> n_params;
  std::optional<int64_t> model_bytes;
  std::optional<int64_t> ctx_train;
  bool extensions = true;  ///< takes ignore_eos and cache_prompt
  std::string tokenizer;   ///< "llama-server", "vllm", "": the shape of its /tokenize
  double tokens_per_byte = 0;
  double overhead_tokens = 0;      ///< of the chat template
  double calibration_prefill = 0;  ///< tokens/s
  double calibration_decode = 0;
  std::vector<MemoryPart> parts;
  std::optional<Ceilings> ceilings;  ///< that the server measured
  std::vector<std::string> notes;
};

struct Start {
  int64_t ctx = 0;
  int64_t chats = 0;
  int64_t window = 0;
  std::string command;
  bool started = false;
  std::string error;
  double startup_seconds = 0;
  std::vector<MemoryPart> parts;
};

/// Why a configuration ended before its cells did.
struct Lost {
  int64_t ctx = 0;
  int64_t chats = 0;
  std::string error;
};

/// A cell that is not measured.
struct Cut {
  std::string depth;
  std::string code;  ///< one of the kCut...
  std::string text;
};

inline constexpr const char* kCutBudget = "budget";        // it does not fit the time
inline constexpr const char* kCutUntrained = "untrained";  // more than the model was trained for
inline constexpr const char* kCutSlots = "slots";          // the server has too few
inline constexpr const char* kCutWindow = "window";        // the server gives each chat less than asked
inline constexpr const char* kCutSmall = "small";          // too few tokens for each chat

struct ConfigPlan {
  int64_t ctx = 0;
  int64_t chats = 0;
  std::vector<std::string> depths;
  int64_t repeats = 0;
  double estimated_seconds = 0;
  std::vector<Cut> cut;
  int64_t parts = 1;  ///< batches of one repeat
};

/// One request of each chat, all started together.
struct Batch {
  int64_t ctx = 0;
  int64_t chats = 0;
  std::string depth;
  int64_t repeat = 0;
  int64_t part = 1;    ///< of the repeat, from 1
  int64_t anchor = 0;  ///< of kind "anchor": after so many configurations
  std::string kind;    ///< of Sample
  std::string at;
  double seconds = 0;
  std::vector<Sample> samples;
  std::vector<int64_t> gaps_us;
  std::optional<double> decode_total;
  std::optional<double> prefill_total;
  std::optional<double> joules;
  double foreign_cpu = 0;  ///< as Watched
  int64_t n_foreign_gpu = 0;
  std::string throttled;
  std::optional<int64_t> memory_bytes;
  std::string memory_basis;
  std::string memory_reason;
  std::vector<Flag> flags;
  std::vector<Yardstick> beside;  ///< before the first part of a repeat, after the last one
  std::optional<Glance> glance;   ///< before another part
};

struct AnswerRecord {
  std::string line;  ///< of eval
};

struct QualityRecord {
  Quality quality;
  double seconds = 0;
};

struct ChosenCell {
  std::string profile;
  std::string cell;  ///< id
};

/// More repeats of the cells that profiles rest on, the last thing that a run does.
struct ProfileVisits {
  double seconds = 0;  ///< that they may take, decided when they begin
  bool done = false;
  /// Chosen when all cells had as many repeats. It stays: what was measured more often would otherwise win or
  /// lose by it.
  std::vector<ChosenCell> chosen;
};

struct EndRecord {
  std::string at;
};

// clang-format off
FL_FIELDS(Options, "",
  f("kind", &T::kind, ""); f("url", &T::url, ""); f("command", &T::command_template, "");
  f("model_name", &T::model_name, ""); f("ctx", &T::ctx, ""); f("chats", &T::chats, "");
  f("depths", &T::depths, ""); f("repeats", &T::repeats, "");
  f("sample_seconds", &T::sample_seconds, ""); f("tokens_per_request", &T::tokens_per_request, ""); f("prompt_tokens", &T::prompt_tokens, "");
  f("budget_seconds", &T::budget_seconds, ""); f("quick", &T::quick, ""); f("tasks", &T::tasks, "");
  f("task_limit", &T::task_limit, ""); f("task_tokens", &T::task_tokens, ""); f("thinking", &T::thinking, "");
  f("start_seconds", &T::start_seconds, ""); f("request_seconds", &T::request_seconds, "");)
FL_FIELDS(Manifest, "",
  f("journal_version", &T::journal_version, ""); f("program_version", &T::program_version, "");
  f("options", &T::options, ""); f("machine", &T::machine, ""); f("model", &T::model, "");
  f("server_program", &T::server_program, "");)
FL_FIELDS(RunRecord, "",
  f("id", &T::id, ""); f("started_at", &T::started_at, ""); f("command", &T::command, "");
  f("ceilings", &T::ceilings, "");)
FL_FIELDS(Facts, "",
  f("name", &T::name, ""); f("version", &T::version, ""); f("model", &T::model, "");
  f("model_path", &T::model_path, ""); f("model_type", &T::model_type, "");
  f("token_counts", &T::token_counts, ""); f("window", &T::window, ""); f("n_slots", &T::n_slots, "");
  f("n_params", &T::n_params, ""); f("model_bytes", &T::model_bytes, ""); f("ctx_train", &T::ctx_train, "");
  f("extensions", &T::extensions, ""); f("tokenizer", &T::tokenizer, "");
  f("tokens_per_byte", &T::tokens_per_byte, ""); f("overhead_tokens", &T::overhead_tokens, "");
  f("calibration_prefill", &T::calibration_prefill, ""); f("calibration_decode", &T::calibration_decode, "");
  f("parts", &T::parts, ""); f("ceilings", &T::ceilings, ""); f("notes", &T::notes, "");)
FL_FIELDS(Start, "",
  f("ctx", &T::ctx, ""); f("chats", &T::chats, ""); f("window", &T::window, ""); f("command", &T::command, "");
  f("started", &T::started, ""); f("error", &T::error, ""); f("startup_seconds", &T::startup_seconds, "");
  f("parts", &T::parts, "");)
FL_FIELDS(Lost, "",
  f("ctx", &T::ctx, ""); f("chats", &T::chats, ""); f("error", &T::error, "");)
FL_FIELDS(Cut, "",
  f("depth", &T::depth, ""); f("code", &T::code, ""); f("text", &T::text, "");)
FL_FIELDS(ConfigPlan, "",
  f("ctx", &T::ctx, ""); f("chats", &T::chats, ""); f("depths", &T::depths, ""); f("repeats", &T::repeats, "");
  f("estimated_seconds", &T::estimated_seconds, ""); f("cut", &T::cut, ""); f("parts", &T::parts, "");)
FL_FIELDS(Batch, "",
  f("ctx", &T::ctx, ""); f("chats", &T::chats, ""); f("depth", &T::depth, ""); f("repeat", &T::repeat, "");
  f("part", &T::part, ""); f("anchor", &T::anchor, ""); f("kind", &T::kind, ""); f("at", &T::at, ""); f("seconds", &T::seconds, ""); f("samples", &T::samples, "");
  f("gaps_us", &T::gaps_us, ""); f("decode_total", &T::decode_total, "");
  f("prefill_total", &T::prefill_total, ""); f("joules", &T::joules, ""); f("foreign_cpu", &T::foreign_cpu, "");
  f("n_foreign_gpu", &T::n_foreign_gpu, ""); f("throttled", &T::throttled, "");
  f("memory_bytes", &T::memory_bytes, ""); f("memory_basis", &T::memory_basis, "");
  f("memory_reason", &T::memory_reason, ""); f("flags", &T::flags, ""); f("beside", &T::beside, "");
  f("glance", &T::glance, "");)
FL_FIELDS(AnswerRecord, "", f("line", &T::line, "");)
FL_FIELDS(QualityRecord, "", f("quality", &T::quality, ""); f("seconds", &T::seconds, "");)
FL_FIELDS(ChosenCell, "", f("profile", &T::profile, ""); f("cell", &T::cell, "");)
FL_FIELDS(ProfileVisits, "",
  f("seconds", &T::seconds, ""); f("done", &T::done, ""); f("chosen", &T::chosen, "");)
FL_FIELDS(EndRecord, "", f("at", &T::at, "");)
// clang-format on

using Record = std::variant<RunRecord, Facts, Start, Lost, ConfigPlan, Batch, AnswerRecord, QualityRecord,
                            ProfileVisits, EndRecord>;

/// One line: {"type": "batch", ...}.
std::string to_line(const Record& record);
Result<Record> record_from_line(std::string_view line);

std::string to_line(const Manifest& manifest);
Result<Manifest> manifest_from_line(std::string_view line);
/// "options/repeats: 3, now 5; machine/cpu: …": what differs, at most a few.
std::string difference(const Manifest& recorded, const Manifest& now);

/// UTC, "2025-01-31T12:00:00Z".
std::string now_utc();

}  // namespace fl::report
