// `freelunch report`: how well does this machine run this model?
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/load/load.h"
#include "apps/report/check.h"
#include "apps/report/facts.h"
#include "apps/report/options.h"
#include "client/server_process.h"
#include "report/compare.h"
#include "report/forms.h"
#include "report/history.h"
#include "report/machine.h"
#include "report/quality.h"
#include "report/runner.h"
#include "report/write.h"

namespace fl::apps {
namespace {

namespace fs = std::filesystem;
namespace rep = fl::report;
using Clock = std::chrono::steady_clock;
using report::Flags;

constexpr const char* kExamples = R"(
Examples:
  freelunch report --quick                                   the demo model in two minutes
  freelunch report --model model.gguf                        5 contexts x 3 numbers of chats x 3 fillings
  freelunch report --url http://127.0.0.1:8080 --chats 1,4   a server that runs, of any make
  freelunch report --model model.gguf --out peer --server-cmd 'llama-server -m {model} --ctx-size {ctx} --parallel {chats} --port {port}'
  freelunch report --compare freelunch-report/report.json peer/report.json
  freelunch report --history

Writes report.json (docs/report-schema.json), report.md and report.html into --out and prints a card and the tables.
Every batch is kept in journal.jsonl at once: an interrupted or killed run goes on when the same command is given again.
Exit 9: more than 1 % of the requests were not ok, the numbers cannot be trusted; 7: the server does not answer; 130:
interrupted.)";

void add_options(CLI::App& app, Flags& flags) {
  using CLI::PositiveNumber;
  app.footer(kExamples);
  CLI::Option* url = app.add_option("--url", flags.url, "A running OpenAI-compatible server");
  app.add_option("-m,--model", flags.model,
                 "GGUF file; its server is started for each cell (default: the demo model)")
      ->excludes(url);
  app.add_option("--server-cmd", flags.server_command,
                 "Another server's command, with {ctx} (or {window}), {chats}, {port}, {model}")
      ->excludes(url);
  app.add_option("--server-args", flags.server_args, "More flags for our server, e.g. '-ctk q8_0 -ctv q8_0'")
      ->excludes(url);
  app.add_option(
      "--ctx", flags.ctx,
      "Context sizes of all chats together (default 16k,32k,64k,96k,128k for a model trained for 128k "
      "tokens or more, otherwise 1/8, 2/8, 4/8, 6/8 and 8/8 of the length it was trained for)");
  app.add_option("--chats", flags.chats, "Chats at once (default 1,2,4)");
  app.add_option("--depth", flags.depth, "How full the window is (default empty,half,full)");
  app.add_flag("--quick", flags.quick,
               "A smaller matrix: at most two minutes with the demo model on two cores");
  app.add_option("--budget", flags.budget,
                 "Time to fit into: 90s, 20m, 1h, none (default 20m; with --quick 100s)");
  app.add_option("--repeats", flags.repeats, "Of each cell")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option(
         "--sample-seconds", flags.sample_seconds,
         "That a repeat writes at least, in several batches when one is shorter; 0: one batch, and no more "
         "repeats when they vary")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--tokens", flags.tokens, "Of each answer (default 128; with --quick 64)")
      ->check(CLI::Range(16, 65536));
  app.add_option("--prompt-tokens", flags.prompt_tokens,
                 "New in each request (default 512; with --quick 256)")
      ->check(CLI::Range(16, 65536));
  app.add_option("--tasks", flags.tasks, "Coding tasks: builtin, humaneval=FILE or none (default builtin)");
  app.add_option("--limit", flags.task_limit, "Only the first N tasks")->check(PositiveNumber);
  app.add_option("--task-tokens", flags.task_tokens, "Most tokens of one answer to a task")
      ->check(PositiveNumber);
  app.add_option("--thinking", flags.thinking, "In the coding tasks: on, off (default: the server's)")
      ->check(CLI::IsMember({"default", "on", "off"}));
  app.add_option("--out", flags.out, "Folder of the report and its journal")->capture_default_str();
  app.add_flag("--fresh", flags.fresh, "Set an unfinished run in --out aside and begin anew");
  app.add_option("--api-key", flags.api_key, "Key of the server")->envname("FREELUNCH_API_KEY");
  app.add_option("--model-name", flags.model_name, "Name sent with each request (default: the first listed)");
  app.add_option("--start-timeout", flags.start_timeout, "Seconds for a server to become ready")
      ->check(PositiveNumber);
  app.add_option("--request-timeout", flags.request_timeout, "Seconds for one request")
      ->check(PositiveNumber);
  app.add_option("--bandwidth", flags.bandwidth, "Memory bandwidth of the device in GB/s, when it is known")
      ->check(PositiveNumber);
  app.add_option("--peak-ops", flags.peak_ops, "Its peak in T operations/s, when it is known")
      ->check(PositiveNumber);
  app.add_option(
      "--check-profile", flags.check_profile,
      "Start that profile of a report, measure its cell again and compare: exit 9 unless it is shown to be "
      "within 5 %, beside what the machine's state explains");
  app.add_option("--from", flags.from, "The report of --check-profile")->capture_default_str();
  app.add_option("--compare", flags.compare, "Two runs side by side: report.json files or ids of the history")
      ->expected(2);
  app.add_flag("--history", flags.history, "Earlier runs");
  app.add_option("--history-limit", flags.history_limit, "Of --history; 0: all")->capture_default_str();
  app.add_option("--history-db", flags.history_db,
                 "SQLite file of earlier runs (default: in the XDG data folder)");
  app.add_flag("--no-paths", flags.no_paths,
               "Leave folders of this machine out of the report: file names only, to be shared");
  app.add_flag("--no-history", flags.no_history, "Do not record this run there");
  app.add_flag("--card", flags.card, "Print the card only, not the tables after it");
  app.add_flag("--json", flags.json, "The report as JSON on stdout");
  app.add_flag("-q,--quiet", flags.quiet, "No progress");
}

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  return whole < 60 ? fmt::format("{} s", whole) : fmt::format("{} min {:02} s", whole / 60, whole % 60);
}

// A line that is redrawn on a terminal; elsewhere a plain line now and then.
class ProgressLine {
 public:
  explicit ProgressLine(bool quiet) : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) != 0) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void clear() {
    if (shown_) {
      fmt::print(stderr, "\r\033[K");
      shown_ = false;
    }
  }
  void show(const rep::RunProgress& now) {
    constexpr auto kPlainEvery = std::chrono::seconds(15);
    if (quiet_ || (!terminal_ && Clock::now() - last_ < kPlainEvery)) {
      return;
    }
    last_ = Clock::now();
    const std::string rate = now.total_rate > 0 ? fmt::format(", {:.0f} tok/s", now.total_rate) : "";
    const std::string walk = now.walk > 0 ? fmt::format("walk {} of {}, ", now.walk, now.n_walks) : "";
    fmt::print(stderr, "{}{}{} of {} cells{}{}{}, {} left{}", terminal_ ? "\r\033[K" : "", walk,
               now.cells_done, now.cells_total, now.now.empty() ? "" : ", ", now.now, rate,
               duration(now.seconds_left), terminal_ ? "" : "\n");
    std::fflush(stderr);
    shown_ = terminal_;
  }

 private:
  bool quiet_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point last_{};
};

bool use_colour() {
  const char* no = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return ::isatty(STDOUT_FILENO) != 0 && (no == nullptr || *no == 0) &&
         (term == nullptr || std::string(term) != "dumb");
}

Result<rep::History> open_history(const Flags& flags) {
  const std::string path = flags.history_db.empty() ? rep::default_history_path() : flags.history_db;
  if (path.empty()) {
    return fail(ErrorCode::invalid_argument,
                "there is no home folder for the history: name a file with --history-db");
  }
  return rep::History::open(path);
}

Result<int> show_history(const Flags& flags) {
  FL_ASSIGN(const rep::History history, open_history(flags));
  FL_ASSIGN(const std::vector<rep::HistoryRow> rows, history.list(flags.history_limit));
  if (flags.json) {
    fmt::print("{}", rep::history_json(rows));
    return kOk;
  }
  if (rows.empty()) {
    fmt::print("no runs yet\n");
    return kOk;
  }
  fmt::print("{:<24} {:>10} {:>10}  {:<10} {}\n", "run", "one chat", "best", "state",
             "model, server, machine");
  for (const rep::HistoryRow& row : rows) {
    fmt::print("{:<24} {:>10.1f} {:>10.1f}  {:<10} {}, {}, {}\n", row.id, row.decode_one_chat,
               row.decode_best_total,
               !row.complete ? "partial"
               : row.valid   ? "ok"
                             : "not valid",
               row.model, row.server, row.machine);
  }
  fmt::print("\ntok/s; `freelunch report --compare RUN RUN` shows two of them side by side\n");
  return kOk;
}

Result<rep::Document> find_report(const Flags& flags, const std::string& name) {
  std::error_code error;
  if (fs::is_directory(name, error)) {
    return rep::read_document(name + "/report.json");
  }
  if (fs::exists(name, error)) {
    return rep::read_document(name);
  }
  FL_ASSIGN(const rep::History history, open_history(flags));
  return history.load(name);
}

Result<int> show_comparison(const Flags& flags) {
  FL_ASSIGN(const rep::Document before, find_report(flags, flags.compare[0]));
  FL_ASSIGN(const rep::Document after, find_report(flags, flags.compare[1]));
  const rep::Comparison comparison = rep::compare(before, after);
  fmt::print("{}", flags.json ? rep::comparison_json(comparison) : rep::comparison_text(comparison));
  return kOk;
}

Result<rep::Manifest> make_manifest(const Flags& flags) {
  rep::Manifest out;
  out.program_version = FREELUNCH_VERSION;
  std::error_code error;
  const std::string program = fs::read_symlink("/proc/self/exe", error).string();
  const bool ours = flags.url.empty() && flags.server_command.empty();
  if (ours) {
    Options serve;
    serve.model = flags.model;
    FL_ASSIGN(const std::string path, resolve_model(serve));
    FL_ASSIGN(out.model, report::model_facts(fs::absolute(path, error).string()));
    FL_ASSIGN(out.server_program, report::file_hash(program));
  } else if (!flags.model.empty()) {
    FL_ASSIGN(out.model, report::file_facts(fs::absolute(flags.model, error).string()));
  }
  FL_ASSIGN(out.options, report::run_options(flags, program, out.model.ctx_train.value_or(0)));
  if (!flags.tasks_given && out.model.random_weights) {
    out.options.tasks = "none";
  }
  const auto nvml = rep::Nvml::open();
  out.machine = rep::describe_machine(nvml.get());
  return out;
}

std::optional<rep::Ceilings> given_ceilings(const Flags& flags) {
  if (flags.bandwidth > 0 && flags.peak_ops > 0) {
    return rep::Ceilings{flags.bandwidth * 1e9, flags.peak_ops * 1e12,
                         "given with --bandwidth and --peak-ops"};
  }
  return std::nullopt;
}

// The folders that --no-paths takes out of a report.
std::vector<std::string> folders_of(const Flags& flags, const rep::Manifest& manifest) {
  std::error_code error;
  std::vector<std::string> out{fs::read_symlink("/proc/self/exe", error).parent_path().string(),
                               fs::path(manifest.model.path).parent_path().string(),
                               fs::absolute(flags.out, error).parent_path().string(),
                               fs::current_path(error).string()};
  for (const std::string& named : {flags.model, flags.out, flags.history_db}) {
    out.push_back(fs::path(named).parent_path().string());
  }
  return out;
}

// What stands in the way of the coding tasks that were asked for by name; said again at the end.
int quality_exit_code(const rep::Document& document, const rep::Options& options, bool asked) {
  if (const Status tasks = rep::check_tasks(options); !tasks) {
    return report_error("report", tasks.error());
  }
  if (asked && document.quality && !document.quality->measured) {
    return report_error("report",
                        {ErrorCode::sandbox, "the coding tasks did not run: " + document.quality->reason});
  }
  return kOk;
}

int exit_code_of(const rep::RunOutcome& outcome) {
  if (outcome.interrupted) {
    return Interrupt::exit_code();
  }
  if (outcome.error) {
    return report_error("report", *outcome.error);
  }
  if (!outcome.document.integrity.valid) {
    return report_error("report",
                        {ErrorCode::integrity, "the run is not valid: " + outcome.document.integrity.reason});
  }
  return kOk;
}

// What every run has: where it is kept, how it ends, whom it tells.
rep::RunJob make_job(const Flags& flags, const std::string& command, ProgressLine& line) {
  rep::RunJob job;
  job.command = command;
  job.api_key = flags.api_key;
  job.out_dir = flags.out;
  job.fresh = flags.fresh;
  job.ceilings = given_ceilings(flags);
  job.cancel = Interrupt::flag();
  job.on_progress = [&](const rep::RunProgress& now) { line.show(now); };
  job.say = [&](const std::string& text) {
    line.clear();
    fmt::print(stderr, "{}\n", text);
  };
  return job;
}

Result<int> check_profile(const Flags& flags, const std::string& command) {
  const Interrupt interrupt;
  std::error_code error;
  ProgressLine line(flags.quiet);
  rep::RunJob job = make_job(flags, command, line);
  if (job.out_dir == Flags().out) {  // beside the report, not over it
    job.out_dir = (fs::path(flags.from).parent_path() / ("check-" + flags.check_profile)).string();
  }
  auto done =
      report::check_profile(flags, fs::read_symlink("/proc/self/exe", error).string(), std::move(job));
  line.clear();
  return done;
}

Result<int> measure(const Flags& flags, const std::string& command) {
  const Interrupt interrupt;
  ::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is a failed write, not an end
  ProgressLine line(flags.quiet);
  rep::RunJob job = make_job(flags, command, line);
  FL_ASSIGN(job.manifest, make_manifest(flags));
  if (const Status tasks = rep::check_tasks(job.manifest.options); !tasks) {
    fmt::print(stderr, "freelunch report: {}; everything else is measured\n", tasks.error().message);
  }
  const std::vector<std::string> folders = folders_of(flags, job.manifest);
  const auto shown = [&](const rep::Document& document) {
    return flags.no_paths ? rep::without_folders(document, folders) : document;
  };
  job.write = [&](const rep::Document& document) { return rep::write_report(flags.out, shown(document)); };
  FL_ASSIGN(rep::RunOutcome outcome, rep::run_matrix(job));
  outcome.document = shown(outcome.document);
  line.clear();
  const bool measured = outcome.document.headline.decode_one_chat.has_value();
  if (flags.json) {
    fmt::print("{}", rep::to_json(outcome.document));
  } else if (measured || !outcome.error) {
    const rep::TerminalStyle style{use_colour()};
    fmt::print("{}", flags.card ? rep::terminal_card(outcome.document, style)
                                : rep::terminal_report(outcome.document, style));
  }
  if (measured && !flags.no_history) {
    const auto add = [&]() -> Status {
      FL_ASSIGN(rep::History history, open_history(flags));
      return history.add(outcome.document);
    };
    if (const Status added = add(); !added) {
      fmt::print(stderr, "freelunch report: {}\n", added.error().message);
    }
  }
  if (!flags.quiet) {
    fmt::print(stderr, "{}: report.json, report.md, report.html\n", flags.out);
  }
  if (outcome.interrupted || outcome.error) {
    fmt::print(stderr, "{} samples are kept in {}/{}; to go on, give the same command again: {}\n",
               outcome.document.samples.size(), flags.out, rep::kJournalName, command);
  }
  const int code = exit_code_of(outcome);
  return code != kOk ? code : quality_exit_code(outcome.document, job.manifest.options, flags.tasks_given);
}

}  // namespace

int run_report(int argc, char** argv) {
  Flags flags;
  CLI::App app{"How well does this machine run this model: speed, memory and quality over contexts and chats",
               "freelunch report"};
  add_options(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  }
  flags.tasks_given = !flags.tasks.empty();
  if (!flags.tasks_given) {
    flags.tasks = "builtin";
  }
  std::vector<std::string> words{"freelunch"};
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    const bool is_key = i > 0 && std::string(argv[i - 1]) == "--api-key";
    words.push_back(is_key ? "KEY" : word.starts_with("--api-key=") ? "--api-key=KEY" : word);
  }
  const std::string command = client::join_command(words);
  const Result<int> done = flags.history                  ? show_history(flags)
                           : !flags.compare.empty()       ? show_comparison(flags)
                           : !flags.check_profile.empty() ? check_profile(flags, command)
                                                          : measure(flags, command);
  return done ? *done : report_error("report", done.error());
}

}  // namespace fl::apps
