// The list of fields of every struct of the document, in one place: writing, reading and the JSON Schema
// visit it.
#pragma once

#include "report/document.h"

namespace fl::report {

/// `Fields<T>::visit(f)` calls f(name in JSON, pointer to member, description) for each field.
template <typename T>
struct Fields;

// clang-format off
#define FL_FIELDS(Type, title_text, ...)                         \
  template <>                                                    \
  struct Fields<Type> {                                          \
    using T = Type;                                              \
    static constexpr const char* kName = #Type;                  \
    static constexpr const char* kTitle = title_text;            \
    template <typename F>                                        \
    static void visit(F&& f) { __VA_ARGS__ }                     \
  };

FL_FIELDS(Stat, "one figure over the repeats of a cell",
  f("n", &T::n, "repeats");
  f("mean", &T::mean, "");
  f("sd", &T::sd, "sample standard deviation");
  f("cv", &T::cv, "sd / mean");
  f("median", &T::median, "");
  f("min", &T::min, "");
  f("max", &T::max, "");)

FL_FIELDS(Distribution, "a pooled distribution, in seconds",
  f("n", &T::n, "values");
  f("mean", &T::mean, "");
  f("p50", &T::p50, "");
  f("p95", &T::p95, "");
  f("p99", &T::p99, "");
  f("min", &T::min, "");
  f("max", &T::max, "");)

FL_FIELDS(Histogram, "counts[i] values lie in [edges[i], edges[i + 1])",
  f("edges", &T::edges, "seconds");
  f("counts", &T::counts, "");)

FL_FIELDS(Definition, "what a number means and where it was measured",
  f("term", &T::term, "");
  f("text", &T::text, "");)

FL_FIELDS(Gpu, "one device, as NVML states it",
  f("name", &T::name, "");
  f("uuid", &T::uuid, "");
  f("driver", &T::driver, "");
  f("memory_bytes", &T::memory_bytes, "");
  f("sm_clock_max_mhz", &T::sm_clock_max_mhz, "");
  f("memory_clock_max_mhz", &T::memory_clock_max_mhz, "");
  f("power_limit_watts", &T::power_limit_watts, "");)

FL_FIELDS(Machine, "where the client ran; the server's machine too, unless the URL is another host's",
  f("host", &T::host, "kernel and architecture");
  f("os", &T::os, "");
  f("cpu", &T::cpu, "");
  f("n_cores", &T::n_cores, "that this process may use");
  f("cpu_features", &T::cpu_features, "");
  f("memory_bytes", &T::memory_bytes, "");
  f("cpu_clock_max_mhz", &T::cpu_clock_max_mhz, "");
  f("governor", &T::governor, "cpufreq");
  f("gpus", &T::gpus, "");
  f("cache_bytes", &T::cache_bytes, "of the last level");)

FL_FIELDS(Model, "the model under measurement",
  f("name", &T::name, "");
  f("path", &T::path, "");
  f("architecture", &T::architecture, "");
  f("quantisation", &T::quantisation, "");
  f("hash", &T::hash, "xxh3-128 of the file");
  f("random_weights", &T::random_weights, "true: speed and memory mean something, quality does not");
  f("file_bytes", &T::file_bytes, "");
  f("n_params", &T::n_params, "");
  f("ctx_train", &T::ctx_train, "tokens the model was trained for");
  f("weight_bytes_per_step", &T::weight_bytes_per_step, "read once for each step of the model");
  f("ops_per_token", &T::ops_per_token, "of the matrices; multiply and add count as two");
  f("kv_bytes_per_token", &T::kv_bytes_per_token, "at 16 bits an element");
  f("state_bytes_per_chat", &T::state_bytes_per_chat, "recurrent state, whatever the context");)

FL_FIELDS(Server, "the server under measurement",
  f("kind", &T::kind, "model: started by us; command: a peer started by us; url: found running");
  f("url", &T::url, "");
  f("name", &T::name, "");
  f("version", &T::version, "");
  f("command_template", &T::command_template, "");
  f("token_counts", &T::token_counts, "usage, tokenizer or chunks");
  f("prefix_reuse", &T::prefix_reuse, "reported, none or unstated");
  f("notes", &T::notes, "");)

FL_FIELDS(Ceilings, "what the machine can do at most",
  f("bytes_per_second", &T::bytes_per_second, "reading the memory that holds the weights");
  f("ops_per_second", &T::ops_per_second, "multiply and add count as two");
  f("source", &T::source, "how they were measured");)

FL_FIELDS(Plan, "how the work was fitted into the budget",
  f("budget_seconds", &T::budget_seconds, "0: none");
  f("estimated_seconds", &T::estimated_seconds, "");
  f("repeats", &T::repeats, "");
  f("tokens_per_request", &T::tokens_per_request, "");
  f("prompt_tokens", &T::prompt_tokens, "of an unfilled chat");
  f("walks", &T::walks, "times that the matrix was walked for a part of every cell's repeats");
  f("decisions", &T::decisions, "what was cut or shortened, and why");)

FL_FIELDS(Run, "one measurement",
  f("id", &T::id, "");
  f("started_at", &T::started_at, "ISO 8601, UTC");
  f("finished_at", &T::finished_at, "of the last record");
  f("seconds", &T::seconds, "spent measuring, without interruptions");
  f("quick", &T::quick, "");
  f("complete", &T::complete, "every planned sample was taken");
  f("command", &T::command, "as typed");
  f("program_version", &T::program_version, "");
  f("stop_reason", &T::stop_reason, "why it is not complete");
  f("plan", &T::plan, "");)

FL_FIELDS(MemoryPart, "a part of the server's memory, as the server states it",
  f("name", &T::name, "");
  f("bytes", &T::bytes, "");)

FL_FIELDS(Memory, "memory of the server",
  f("bytes", &T::bytes, "highest seen");
  f("basis", &T::basis, "device (NVML) or process tree RSS");
  f("reason", &T::reason, "why there is no number");
  f("parts", &T::parts, "empty: the server does not state them");)

FL_FIELDS(Configuration, "one context size and number of chats: one start of the server",
  f("ctx", &T::ctx, "tokens of all chats together");
  f("chats", &T::chats, "");
  f("window", &T::window, "tokens of one chat");
  f("command", &T::command, "");
  f("started", &T::started, "");
  f("error", &T::error, "why it was not measured");
  f("startup_seconds", &T::startup_seconds, "");
  f("memory", &T::memory, "");)

FL_FIELDS(Flag, "a warning; the codes are stable",
  f("code", &T::code, "");
  f("text", &T::text, "");)

FL_FIELDS(Yardstick, "what the machine itself could do while the server was idle, all cores together",
  f("handover_seconds", &T::handover_seconds, "until a word is seen by every other core, and back, halved");
  f("read_bytes_per_second", &T::read_bytes_per_second, "from memory");
  f("multiplies_per_second", &T::multiplies_per_second, "of 64-bit integers");
  f("cached_bytes_per_second", &T::cached_bytes_per_second, "read again, of what the last cache keeps");
  f("wakeups_per_second", &T::wakeups_per_second, "of two threads on two cores that sleep and wake each other");)

FL_FIELDS(Glance, "",
  f("handover_seconds", &T::handover_seconds, "");
  f("multiplies_per_second", &T::multiplies_per_second, "");
  f("cached_bytes_per_second", &T::cached_bytes_per_second, "");
  f("wakeups_per_second", &T::wakeups_per_second, "");)

FL_FIELDS(Repeat, "one repeat of a cell",
  f("repeat", &T::repeat, "");
  f("decode_tokens_per_second_total", &T::decode_total, "");
  f("foreign_cpu", &T::foreign_cpu, "share of the machine's CPU time that other programs used");
  f("handover_seconds", &T::handovers, "between its batches");
  f("beside", &T::beside, "the machine before and after it; empty: not measured (on a GPU, at a URL)");
  f("multiplies_per_second", &T::multiplies, "between its batches");
  f("cached_bytes_per_second", &T::cached, "between its batches");
  f("wakeups_per_second", &T::wakeups, "between its batches");
  f("start", &T::start, "of the server, counted over the run");)

FL_FIELDS(Cell, "one configuration at one filling of the window",
  f("id", &T::id, "");
  f("ctx", &T::ctx, "");
  f("chats", &T::chats, "");
  f("depth", &T::depth, "empty, half or full");
  f("depth_tokens", &T::depth_tokens, "tokens before each chat's answer, median as counted");
  f("status", &T::status, "ok, failed, missing or cut");
  f("reason", &T::reason, "of a status other than ok");
  f("reason_code", &T::reason_code, "of status cut: budget (it did not fit the time), untrained, slots, window or small");
  f("n_repeats", &T::n_repeats, "");
  f("n_requests", &T::n_requests, "");
  f("n_not_ok", &T::n_not_ok, "");
  f("decode_tokens_per_second_per_chat", &T::decode_per_chat, "");
  f("decode_tokens_per_second_total", &T::decode_total, "");
  f("prefill_tokens_per_second", &T::prefill, "");
  f("ttft_seconds", &T::ttft, "");
  f("gap_seconds", &T::gap, "between chunks");
  f("end_to_end_seconds", &T::end_to_end, "");
  f("gap_histogram", &T::gap_histogram, "");
  f("joules_per_token", &T::joules_per_token, "");
  f("cached_share", &T::cached_share, "of the prompt tokens, median");
  f("memory", &T::memory, "");
  f("flags", &T::flags, "");
  f("repeats", &T::repeats, "");)

FL_FIELDS(PromptPoint, "time to the first token of one prompt of which nothing was cached",
  f("ctx", &T::ctx, "");
  f("chats", &T::chats, "");
  f("prompt_tokens", &T::prompt_tokens, "");
  f("ttft_seconds", &T::ttft_seconds, "");
  f("tokens_per_second", &T::tokens_per_second, "");)

FL_FIELDS(Sample, "one request",
  f("cell", &T::cell, "");
  f("kind", &T::kind, "measure, fill or warm-up");
  f("repeat", &T::repeat, "");
  f("chat", &T::chat, "");
  f("status", &T::status, "ok, truncated, error or timeout");
  f("error", &T::error, "");
  f("prompt_tokens", &T::prompt_tokens, "");
  f("completion_tokens", &T::completion_tokens, "");
  f("cached_tokens", &T::cached_tokens, "-1: not stated");
  f("ttft_seconds", &T::ttft_seconds, "");
  f("ttfa_seconds", &T::ttfa_seconds, "to the first token of the answer, after the reasoning");
  f("decode_tokens_per_second", &T::decode_rate, "");
  f("prefill_tokens_per_second", &T::prefill_rate, "");
  f("total_seconds", &T::total_seconds, "");)

FL_FIELDS(Integrity, "whether the numbers can be trusted",
  f("valid", &T::valid, "at most 1 % of the requests not ok, and at least one cell measured");
  f("n_requests", &T::n_requests, "");
  f("n_ok", &T::n_ok, "");
  f("n_truncated", &T::n_truncated, "");
  f("n_error", &T::n_error, "");
  f("n_timeout", &T::n_timeout, "");
  f("reason", &T::reason, "why it is not valid");
  f("flags", &T::flags, "of the run");
  f("n_cells_flagged", &T::n_cells_flagged, "");)

FL_FIELDS(DriftPoint, "one cell measured again, later in the run",
  f("after", &T::after, "configurations");
  f("again", &T::again, "tokens/s of all chats");
  f("change", &T::change, "of the median, against the first time");
  f("moved", &T::moved, "by more than 5 %");)

FL_FIELDS(Drift, "whether the machine stayed the same over the run",
  f("cell", &T::cell, "");
  f("first", &T::first, "tokens/s of all chats");
  f("points", &T::points, "");)

FL_FIELDS(Finding, "a statement that the cells support",
  f("id", &T::id, "context_size, depth or chats");
  f("title", &T::title, "");
  f("text", &T::text, "");
  f("cells", &T::cells, "ids that it rests on");)

FL_FIELDS(Knee, "where more chats stop adding speed",
  f("ctx", &T::ctx, "");
  f("depth", &T::depth, "");
  f("chats", &T::chats, "");
  f("at_end", &T::at_end, "the curve still rises at the largest number measured");
  f("limit", &T::limit, "bytes, operations, launches, memory or unknown");
  f("text", &T::text, "");)

FL_FIELDS(LargestContext, "the largest context that fits for a number of chats",
  f("chats", &T::chats, "");
  f("ctx", &T::ctx, "");
  f("at_end", &T::at_end, "larger ones were not tried");
  f("text", &T::text, "");)

FL_FIELDS(Profile, "a configuration to copy",
  f("name", &T::name, "the word for serve --profile");
  f("title", &T::title, "");
  f("reason", &T::reason, "");
  f("ctx", &T::ctx, "");
  f("chats", &T::chats, "");
  f("args", &T::args, "of freelunch serve");
  f("serve_command", &T::serve_command, "");
  f("llama_server_command", &T::llama_server_command, "");
  f("systemd_unit", &T::systemd_unit, "");
  f("client_snippet", &T::client_snippet, "");
  f("expected_decode_tokens_per_second_per_chat", &T::expected_decode_per_chat, "");
  f("expected_decode_tokens_per_second_total", &T::expected_decode_total, "");
  f("cell", &T::cell, "id that the expectation comes from");)

FL_FIELDS(Recommendation, "what to do",
  f("knees", &T::knees, "");
  f("largest_context", &T::largest, "");
  f("profiles", &T::profiles, "");)

FL_FIELDS(Quality, "the coding score",
  f("tasks", &T::tasks, "builtin or humaneval");
  f("task_hash", &T::task_hash, "");
  f("mode", &T::mode, "chat or completion");
  f("thinking", &T::thinking, "");
  f("measured", &T::measured, "");
  f("valid", &T::valid, "");
  f("reason", &T::reason, "why it was not measured or is not valid");
  f("n_tasks", &T::n_tasks, "");
  f("n_samples", &T::n_samples, "");
  f("n_solved", &T::n_solved, "samples that passed");
  f("pass_at_1", &T::pass_at_1, "");
  f("low", &T::low, "of the 95 % interval");
  f("high", &T::high, "");
  f("n_wrong", &T::n_wrong, "");
  f("n_raised", &T::n_raised, "");
  f("n_timeout", &T::n_timeout, "");
  f("n_other", &T::n_other, "");
  f("n_no_code", &T::n_no_code, "an answer without code");
  f("n_truncated", &T::n_truncated, "the token limit came first");
  f("n_failed", &T::n_failed, "request error or time-out");)

FL_FIELDS(Headline, "what the card shows first",
  f("verdict", &T::verdict, "one sentence");
  f("decode_one_chat_tokens_per_second", &T::decode_one_chat, "");
  f("decode_one_chat_cell", &T::decode_one_chat_cell, "");
  f("decode_best_total_tokens_per_second", &T::decode_best_total, "");
  f("decode_best_total_cell", &T::decode_best_total_cell, "");
  f("ttft_seconds", &T::ttft_seconds, "p50 of one chat, empty window");
  f("memory_bytes", &T::memory_bytes, "");
  f("memory_cell", &T::memory_cell, "");
  f("recap", &T::recap, "");)

FL_FIELDS(Document, "freelunch report",
  f("schema_version", &T::schema_version, "");
  f("headline", &T::headline, "");
  f("run", &T::run, "");
  f("machine", &T::machine, "");
  f("model", &T::model, "");
  f("server", &T::server, "");
  f("ceilings", &T::ceilings, "");
  f("ctx", &T::ctx, "rows of the matrix, ascending");
  f("chats", &T::chats, "columns, ascending");
  f("depths", &T::depths, "");
  f("configurations", &T::configurations, "");
  f("cells", &T::cells, "");
  f("prompts", &T::prompts, "TTFT against prompt length");
  f("findings", &T::findings, "");
  f("recommendation", &T::recommendation, "");
  f("quality", &T::quality, "");
  f("integrity", &T::integrity, ""); f("drift", &T::drift, "");
  f("definitions", &T::definitions, "");
  f("samples", &T::samples, "");)
// clang-format on

}  // namespace fl::report
