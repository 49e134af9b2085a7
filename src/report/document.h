// The whole report as plain data: what report.json holds and what every form of it (terminal, Markdown, HTML)
// prints. The forms compute nothing that is not here. docs/report-schema.json is generated from the same list
// of fields (report_schema()). Version 1 grows only by new optional fields.
//
// Units: seconds, bytes, tokens, joules; rates are per second. An absent optional was not measured; a
// `reason` or a note beside it says why.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fl::report {

inline constexpr int kSchemaVersion = 1;

/// Of one figure over the repeats of a cell.
struct Stat {
  int64_t n = 0;
  double mean = 0;
  double sd = 0;  ///< sample standard deviation (n - 1); 0 for n < 2
  double cv = 0;  ///< sd / mean
  double median = 0;
  double min = 0;
  double max = 0;
};

/// Of a pooled distribution (one value a request, or one value a gap between chunks).
struct Distribution {
  int64_t n = 0;
  double mean = 0;
  double p50 = 0;
  double p95 = 0;
  double p99 = 0;
  double min = 0;
  double max = 0;
};

/// counts[i] values lie in [edges[i], edges[i + 1]).
struct Histogram {
  std::vector<double> edges;
  std::vector<int64_t> counts;
};

struct Definition {
  std::string term;
  std::string text;  ///< formula and point of measurement
};

struct Gpu {
  std::string name;
  std::string uuid;
  std::string driver;
  int64_t memory_bytes = 0;
  int64_t sm_clock_max_mhz = 0;
  int64_t memory_clock_max_mhz = 0;
  double power_limit_watts = 0;
};

struct Machine {
  std::string host;  ///< kernel and architecture, not the host's name
  std::string os;
  std::string cpu;
  int64_t n_cores = 0;  ///< that this process may use
  std::vector<std::string> cpu_features;
  int64_t memory_bytes = 0;
  std::optional<double> cpu_clock_max_mhz;
  std::string governor;  ///< cpufreq; empty: the kernel does not say
  std::vector<Gpu> gpus;
  std::optional<int64_t> cache_bytes;  ///< of the last level
};

struct Model {
  std::string name;  ///< as the server or the file calls it
  std::string path;
  std::string architecture;
  std::string quantisation;
  std::string hash;  ///< "xxh3-128:..." of the file; empty: no file at hand
  bool random_weights = false;
  std::optional<int64_t> file_bytes;
  std::optional<int64_t> n_params;
  std::optional<int64_t> ctx_train;  ///< tokens the model was trained for
  std::optional<int64_t> weight_bytes_per_step;
  std::optional<int64_t> ops_per_token;       ///< of the matrices; multiply and add count as two
  std::optional<int64_t> kv_bytes_per_token;  ///< at 16 bits an element
  std::optional<int64_t> state_bytes_per_chat;
};

struct Server {
  std::string kind;  ///< "model": our server, started by us; "command": a peer, started by us; "url": running
  std::string url;   ///< of kind "url"
  std::string name;  ///< "freelunch", "llama-server", …; empty: it does not say
  std::string version;
  std::string command_template;  ///< {ctx}, {chats}, {port}, {model} are replaced
  std::string token_counts;      ///< "usage", "tokenizer" (the server's /tokenize) or "chunks" (an estimate)
  std::string prefix_reuse;      ///< "reported" (cached_tokens seen), "none" (0 stated), "unstated"
  std::vector<std::string> notes;
};

/// What the machine can do at most, measured on it.
struct Ceilings {
  double bytes_per_second = 0;  ///< memory that holds the weights, reading
  double ops_per_second = 0;    ///< multiply and add count as two
  std::string source;
};

struct Plan {
  double budget_seconds = 0;
  double estimated_seconds = 0;
  int64_t repeats = 0;
  int64_t tokens_per_request = 0;
  int64_t prompt_tokens = 0;  ///< of an unfilled chat
  /// The fewest starts of a server over which the repeats of one cell are spread; absent: nothing to spread.
  std::optional<int64_t> walks;
  std::vector<std::string> decisions;  ///< one sentence each: what was cut or shortened, and why
};

struct Run {
  std::string id;
  std::string started_at;   ///< ISO 8601, UTC
  std::string finished_at;  ///< of the last record
  double seconds = 0;       ///< spent measuring, without interruptions
  bool quick = false;
  bool complete = false;  ///< every planned sample was taken
  std::string command;    ///< as typed
  std::string program_version;
  std::string stop_reason;  ///< why it is not complete
  Plan plan;
};

/// A part of the server's memory, as the server states it.
struct MemoryPart {
  std::string name;  ///< "weights", "kv", "state", "buffers", …
  int64_t bytes = 0;
};

struct Memory {
  std::optional<int64_t> bytes;  ///< highest seen while the cell or configuration ran
  std::string basis;             ///< "device (NVML)", "process tree RSS"; empty with a reason
  std::string reason;
  std::vector<MemoryPart> parts;  ///< empty: the server does not state them
};

/// One start of the server: one context size and number of chats.
struct Configuration {
  int64_t ctx = 0;     ///< --ctx-size: tokens of all chats together
  int64_t chats = 0;   ///< --parallel
  int64_t window = 0;  ///< tokens of one chat
  std::string command;
  bool started = false;
  std::string error;  ///< why it did not start or could not be measured
  double startup_seconds = 0;
  Memory memory;
};

/// A warning with a code that scripts may rely on: "spread" (of decode tok/s), "spread_prefill",
/// "spread_energy", "cpu_load", "gpu_load", "throttled",
/// "cache_hit", "truncated", "error", "timeout", "short_answer", "usage_disagrees", "counted_by_chunks",
/// "few_samples", "no_overlap", "refilled"; of the run also "drift", "machine_states", "server".
struct Flag {
  std::string code;
  std::string text;
};

/// What the machine itself could do at a moment at which the server was idle, all cores together.
struct Yardstick {
  double handover_seconds = 0;  ///< until a word is seen by every other core, and back, halved
  double read_bytes_per_second = 0;
  double multiplies_per_second = 0;               ///< of 64-bit integers
  std::optional<double> cached_bytes_per_second;  ///< read again, of what the last cache keeps
  std::optional<double> wakeups_per_second;       ///< two threads on two cores that sleep and wake each other
};

/// Without what comes from memory: the caches keep what they hold.
struct Glance {
  double handover_seconds = 0;
  double multiplies_per_second = 0;
  double cached_bytes_per_second = 0;
  std::optional<double> wakeups_per_second;
};

/// One repeat of a cell.
struct Repeat {
  int64_t repeat = 0;
  double decode_total = 0;        ///< tokens/s of all chats
  double foreign_cpu = 0;         ///< share of the machine's CPU time that other programs used
  std::vector<double> handovers;  ///< seconds, as in Yardstick, between its batches
  std::vector<Yardstick> beside;  ///< before and after it; empty: not measured (on a GPU, at a URL)
  std::optional<std::vector<double>> multiplies;  ///< a second, between its batches
  std::optional<std::vector<double>> cached;      ///< bytes a second, between its batches
  std::optional<std::vector<double>> wakeups;     ///< a second, between its batches
  std::optional<int64_t> start;  ///< of the server, counted over the run: others have the same one
};

/// One configuration at one filling of the window.
struct Cell {
  std::string id;  ///< "16384x2 half"
  int64_t ctx = 0;
  int64_t chats = 0;
  std::string depth;         ///< "empty", "half", "full"
  int64_t depth_tokens = 0;  ///< tokens before each chat's answer (median as counted)
  std::string status;  ///< "ok", "failed" (no usable sample), "missing" (not reached), "cut" (not planned)
  std::string reason;  ///< of a status other than ok
  std::optional<std::string> reason_code;  ///< of status "cut": the same in a word (kCut... in records.h)
  int64_t n_repeats = 0;
  int64_t n_requests = 0;
  int64_t n_not_ok = 0;
  std::optional<Stat> decode_per_chat;  ///< tokens/s
  std::optional<Stat> decode_total;     ///< tokens/s of all chats
  std::optional<Stat> prefill;          ///< tokens/s of all chats
  std::optional<Distribution> ttft;     ///< seconds
  std::optional<Distribution> gap;      ///< seconds between chunks
  std::optional<Distribution> end_to_end;
  std::optional<Histogram> gap_histogram;
  std::optional<Stat> joules_per_token;
  std::optional<double> cached_share;  ///< of the prompt tokens, median
  Memory memory;
  std::vector<Flag> flags;
  std::optional<std::vector<Repeat>> repeats;
};

/// The time to the first token of one prompt of which nothing was cached: TTFT against prompt length.
struct PromptPoint {
  int64_t ctx = 0;
  int64_t chats = 0;
  int64_t prompt_tokens = 0;
  double ttft_seconds = 0;
  double tokens_per_second = 0;
};

/// One request.
struct Sample {
  std::string cell;
  std::string kind;  ///< "measure", "fill" (reads the window's content), "warm-up"
  int64_t repeat = 0;
  int64_t chat = 0;
  std::string status;  ///< "ok", "truncated", "error", "timeout"
  std::string error;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = -1;  ///< -1: not stated
  std::optional<double> ttft_seconds;
  std::optional<double> ttfa_seconds;
  std::optional<double> decode_rate;
  std::optional<double> prefill_rate;
  double total_seconds = 0;
};

struct Integrity {
  bool valid = true;  ///< at most 1 % of the requests not ok, and at least one cell measured
  int64_t n_requests = 0;
  int64_t n_ok = 0;
  int64_t n_truncated = 0;
  int64_t n_error = 0;
  int64_t n_timeout = 0;
  std::string reason;       ///< why it is not valid
  std::vector<Flag> flags;  ///< of the run
  int64_t n_cells_flagged = 0;
};

/// One cell measured again, later in the run.
struct DriftPoint {
  int64_t after = 0;   ///< configurations
  Stat again;          ///< tokens/s of all chats
  double change = 0;   ///< of the median, against the first time
  bool moved = false;  ///< by more than 5 %
};

/// Whether the machine stayed the same over the run.
struct Drift {
  std::string cell;
  Stat first;
  std::vector<DriftPoint> points;
};

/// A statement that the cells support, worded from them.
struct Finding {
  std::string id;  ///< "context_size", "depth", "chats"
  std::string title;
  std::string text;
  std::vector<std::string> cells;  ///< ids that it rests on
};

/// The curve of total speed against chats for one context and filling.
struct Knee {
  int64_t ctx = 0;
  std::string depth;
  int64_t chats = 0;    ///< more chats than these add less than kKneeGain of a chat's share
  bool at_end = false;  ///< the curve still rises at the largest number measured
  std::string limit;    ///< "bytes", "operations", "launches", "memory", "unknown"
  std::string text;
};

struct LargestContext {
  int64_t chats = 0;
  int64_t ctx = 0;
  bool at_end = false;  ///< larger ones were not tried
  std::string text;
};

struct Profile {
  std::string name;  ///< "chat", "long-files", "coding", "agents": the word for serve --profile
  std::string title;
  std::string reason;
  int64_t ctx = 0;
  int64_t chats = 0;
  std::vector<std::string> args;  ///< of `freelunch serve`, without the program and the command
  std::string serve_command;
  std::string llama_server_command;
  std::string systemd_unit;
  std::string client_snippet;
  std::optional<double> expected_decode_per_chat;
  std::optional<double> expected_decode_total;
  std::string cell;
};

struct Recommendation {
  std::vector<Knee> knees;
  std::vector<LargestContext> largest;
  std::vector<Profile> profiles;
};

struct Quality {
  std::string tasks;  ///< "builtin", "humaneval"
  std::string task_hash;
  std::string mode;  ///< "chat", "completion"
  std::string thinking;
  bool measured = false;
  bool valid = false;
  std::string reason;  ///< why it was not measured or is not valid
  int64_t n_tasks = 0;
  int64_t n_samples = 0;
  int64_t n_solved = 0;
  double pass_at_1 = 0;
  double low = 0;  ///< 95 % interval
  double high = 0;
  int64_t n_wrong = 0;
  int64_t n_raised = 0;
  int64_t n_timeout = 0;
  int64_t n_other = 0;
  int64_t n_no_code = 0;
  int64_t n_truncated = 0;
  int64_t n_failed = 0;
};

/// What the card shows first.
struct Headline {
  std::string verdict;  ///< one sentence
  std::optional<double> decode_one_chat;
  std::string decode_one_chat_cell;
  std::optional<double> decode_best_total;
  std::string decode_best_total_cell;
  std::optional<double> ttft_seconds;  ///< p50, one chat, empty window
  std::optional<int64_t> memory_bytes;
  std::string memory_cell;
  std::string recap;  ///< two or three sentences
};

struct Document {
  int64_t schema_version = kSchemaVersion;
  Headline headline;
  Run run;
  Machine machine;
  Model model;
  Server server;
  std::optional<Ceilings> ceilings;
  std::vector<int64_t> ctx;    ///< rows of the matrix, ascending
  std::vector<int64_t> chats;  ///< columns, ascending
  std::vector<std::string> depths;
  std::vector<Configuration> configurations;
  std::vector<Cell> cells;
  std::vector<PromptPoint> prompts;
  std::vector<Finding> findings;
  Recommendation recommendation;
  std::optional<Quality> quality;
  Integrity integrity;
  std::optional<Drift> drift;
  std::vector<Definition> definitions;
  std::vector<Sample> samples;
};

/// The cell of that place, or nullptr.
const Cell* find_cell(const Document& document, int64_t ctx, int64_t chats, std::string_view depth);

/// Indented JSON, keys in the order above, ends with a line break.
std::string to_json(const Document& document);
/// Errors: bad_file, with the path of the field. Unknown fields are ignored; another version is refused.
Result<Document> document_from_json(std::string_view json);
/// Reads and parses a file. Errors: not_found, io, bad_file.
Result<Document> read_document(const std::string& path);

/// The same without these folders in any of its texts: "/opt/models/x.gguf" becomes "x.gguf".
Document without_folders(const Document& document, std::vector<std::string> folders);

/// docs/report-schema.json.
std::string report_schema();

}  // namespace fl::report
