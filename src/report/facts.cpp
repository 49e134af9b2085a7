// The figures at the top, and what was measured, on which machine and how.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "report/format.h"
#include "report/tables.h"

namespace fl::report {
namespace {

std::string joined(const std::vector<std::string>& words, const char* separator) {
  std::string out;
  for (const std::string& word : words) {
    out += (out.empty() ? "" : separator) + one_line(word);
  }
  return out;
}

// Adds a row when there is something to say.
struct Facts {
  Table table;

  Facts(const char* id, const char* title) {
    table.id = id;
    table.title = title;
    table.head = {"", ""};
    table.numeric = false;
  }
  void add(const char* name, std::string value, std::optional<double> exact = {}) {
    if (!value.empty()) {
      table.rows.push_back({{name, {}, {}, {}}, {std::move(value), {}, exact, {}}});
    }
  }
  template <typename Format>
  void add_number(const char* name, const std::optional<int64_t>& value, Format format) {
    if (value) {
      add(name, format(*value), static_cast<double>(*value));
    }
  }
};

std::string cell_name(const Document& document, const std::string& id) {
  for (const Cell& cell : document.cells) {
    if (cell.id == id) {
      return place_name(cell.ctx, cell.chats, cell.depth);
    }
  }
  for (const Configuration& each : document.configurations) {
    if (fmt::format("{}x{}", each.ctx, each.chats) == id) {
      return fmt::format("{}, {}", format_chats(each.chats), format_tokens(each.ctx));
    }
  }
  return one_line(id);
}

Figure rate_figure(const Document& document, const char* label, const std::optional<double>& rate,
                   const std::string& cell) {
  if (!rate) {
    return {label, "not measured", "", "", {}};
  }
  return {label, format_rate(*rate), "tok/s", cell_name(document, cell), rate};
}

Figure quality_figure(const Document& document) {
  Figure figure{"Correct answers", "not measured", "", "", {}};
  if (!document.quality) {
    return figure;
  }
  const Quality& quality = *document.quality;
  if (!quality.measured) {
    if (document.model.random_weights) {
      figure.value = "random weights";
      figure.detail = "an answer would mean nothing";
      return figure;
    }
    figure.detail = one_line(quality.reason);
    return figure;
  }
  figure.value = fmt::format("{} of {}", quality.n_solved, quality.n_samples);
  figure.exact = static_cast<double>(quality.n_solved);
  figure.detail = fmt::format("{}; 95 % interval {:.0f} to {:.0f} %", one_line(quality.tasks),
                              100 * quality.low, 100 * quality.high);
  if (document.model.random_weights) {
    figure.detail = "random weights: quality means nothing";
  } else if (!quality.valid) {
    figure.detail = "not valid: " + one_line(quality.reason);
  }
  return figure;
}

Table model_facts(const Model& model) {
  Facts facts("model", "Model");
  facts.add("name", one_line(model.name));
  facts.add("file", one_line(model.path));
  facts.add("architecture", one_line(model.architecture));
  facts.add("quantisation", one_line(model.quantisation));
  facts.add("weights",
            model.random_weights ? "random: speed and memory mean something, quality does not" : "");
  facts.add_number("file size", model.file_bytes, format_bytes);
  facts.add_number("parameters", model.n_params, format_count);
  facts.add_number("trained for", model.ctx_train, [](int64_t n) { return format_tokens(n) + " tokens"; });
  facts.add_number("weights read each step", model.weight_bytes_per_step, format_bytes);
  facts.add_number("KV cache, a token at 16 bits", model.kv_bytes_per_token, format_bytes);
  facts.add_number("recurrent state, a chat", model.state_bytes_per_chat, format_bytes);
  facts.add("hash", one_line(model.hash));
  return facts.table;
}

Table machine_facts(const Machine& machine, const std::optional<Ceilings>& ceilings) {
  Facts facts("machine", "Machine");
  for (const Gpu& gpu : machine.gpus) {
    std::string text = one_line(gpu.name);
    text += gpu.memory_bytes > 0 ? fmt::format(", {}", format_bytes(gpu.memory_bytes)) : "";
    text += gpu.driver.empty() ? "" : fmt::format(", driver {}", one_line(gpu.driver));
    text += gpu.sm_clock_max_mhz > 0 ? fmt::format(", {} MHz", gpu.sm_clock_max_mhz) : "";
    text += gpu.memory_clock_max_mhz > 0 ? fmt::format(", memory {} MHz", gpu.memory_clock_max_mhz) : "";
    text += gpu.power_limit_watts > 0 ? fmt::format(", {:.0f} W", gpu.power_limit_watts) : "";
    facts.add("GPU", text);
  }
  facts.add("CPU", fmt::format("{}, {} core{}", one_line(machine.cpu), machine.n_cores,
                               machine.n_cores == 1 ? "" : "s"));
  facts.add("CPU features", joined(machine.cpu_features, ", "));
  if (machine.cpu_clock_max_mhz) {
    facts.add("CPU clock", fmt::format("up to {:.0f} MHz", *machine.cpu_clock_max_mhz),
              machine.cpu_clock_max_mhz);
  }
  facts.add("governor", one_line(machine.governor));
  facts.add("memory", machine.memory_bytes > 0 ? format_bytes(machine.memory_bytes) : "");
  facts.add("system", joined({machine.os, machine.host}, ", "));
  if (ceilings) {
    facts.add("reads at most", fmt::format("{:.0f} GB/s", ceilings->bytes_per_second / 1e9),
              ceilings->bytes_per_second);
    facts.add("computes at most", fmt::format("{:.3g} T operations/s", ceilings->ops_per_second / 1e12),
              ceilings->ops_per_second);
    facts.add("limits measured by", one_line(ceilings->source));
  } else {
    facts.add("limits",
              "not known: the server does not measure them (freelunch serve --measure-limits does), and "
              "--bandwidth and --peak-ops were not given");
  }
  return facts.table;
}

Table server_facts(const Server& server) {
  Facts facts("server", "Server");
  facts.add("program", joined({server.name.empty() ? "not stated" : server.name, server.version}, " "));
  facts.add("address", one_line(server.url));
  facts.add("started as", one_line(server.command_template));
  const char* counts = server.token_counts == "usage"       ? "the server's usage field"
                       : server.token_counts == "tokenizer" ? "the server's own tokenizer"
                       : server.token_counts == "chunks"    ? "pieces of the stream: an estimate"
                                                            : "";
  facts.add("tokens counted by", *counts == '\0' ? one_line(server.token_counts) : counts);
  facts.add("prefix reuse", one_line(server.prefix_reuse));
  facts.add("notes", joined(server.notes, "; "));
  return facts.table;
}

std::string drift_text(const std::optional<Drift>& drift) {
  if (!drift) {
    return "";
  }
  std::string out = fmt::format("{} wrote {} tok/s", one_line(drift->cell), format_rate(drift->first.median));
  for (const DriftPoint& point : drift->points) {
    out += fmt::format("; again after {} configurations {} ({:+.1f} %)", point.after,
                       format_rate(point.again.median), 100 * point.change);
  }
  return out;
}

Table run_facts(const Run& run, const std::optional<Drift>& drift) {
  Facts facts("run", "Method");
  facts.add("command", one_line(run.command));
  facts.add("started", one_line(run.started_at));
  facts.add("finished", one_line(run.finished_at));
  facts.add("measured for", format_seconds(run.seconds), run.seconds);
  facts.add("complete", run.complete ? "yes" : "no: " + one_line(run.stop_reason));
  facts.add("budget", run.plan.budget_seconds > 0 ? format_seconds(run.plan.budget_seconds) : "none");
  facts.add("repeats of a cell", fmt::format("{}", run.plan.repeats));
  facts.add("tokens of an answer", format_count(run.plan.tokens_per_request));
  facts.add("prompt of an unfilled chat", format_count(run.plan.prompt_tokens) + " tokens");
  facts.add("planning", joined(run.plan.decisions, "; "));
  facts.add("drift", drift_text(drift));
  facts.add("program", "freelunch " + one_line(run.program_version));
  facts.add("run", one_line(run.id));
  return facts.table;
}

}  // namespace

std::string device_name(const Document& document) {
  if (document.machine.gpus.empty()) {
    return one_line(document.machine.cpu);
  }
  const std::string name = one_line(document.machine.gpus.front().name);
  return document.machine.gpus.size() == 1 ? name
                                           : fmt::format("{} x {}", document.machine.gpus.size(), name);
}

std::string model_name(const Document& document) {
  const Model& model = document.model;
  std::string name = one_line(model.name);
  if (!model.quantisation.empty() && name.find(model.quantisation) == std::string::npos) {
    name += ' ';
    name += one_line(model.quantisation);
  }
  return name;
}

std::vector<Figure> figures(const Document& document) {
  const Headline& headline = document.headline;
  const auto alone = std::find_if(document.cells.begin(), document.cells.end(),
                                  [&](const Cell& cell) { return cell.id == headline.decode_one_chat_cell; });
  const bool several = alone != document.cells.end() && alone->chats > 1;
  std::vector<Figure> out{rate_figure(document, several ? "Each chat" : "One chat", headline.decode_one_chat,
                                      headline.decode_one_chat_cell),
                          rate_figure(document, "All chats, at best", headline.decode_best_total,
                                      headline.decode_best_total_cell)};
  Figure first{"First token", "not measured", "", "", {}};
  if (headline.ttft_seconds) {
    first = {"First token", format_seconds(*headline.ttft_seconds), "", "median, one chat, empty window",
             headline.ttft_seconds};
  }
  out.push_back(first);
  out.push_back(quality_figure(document));
  Figure memory{"Memory", "not measured", "", "", {}};
  if (headline.memory_bytes) {
    memory = {"Memory", format_bytes(*headline.memory_bytes), "", cell_name(document, headline.memory_cell),
              static_cast<double>(*headline.memory_bytes)};
  }
  out.push_back(memory);
  Figure file{"Model file", "no file at hand", "", one_line(document.model.quantisation), {}};
  if (document.model.file_bytes) {
    file.value = format_bytes(*document.model.file_bytes);
    file.exact = static_cast<double>(*document.model.file_bytes);
  }
  out.push_back(file);
  return out;
}

std::string integrity_sentence(const Document& document) {
  const Integrity& integrity = document.integrity;
  std::string text =
      integrity.valid ? std::string("Valid: ") : fmt::format("Not valid: {}; ", one_line(integrity.reason));
  text += fmt::format("{} of {} requests ended well", integrity.n_ok, integrity.n_requests);
  for (const auto& [n, what] :
       {std::pair{integrity.n_truncated, "truncated"}, std::pair{integrity.n_error, "failed"},
        std::pair{integrity.n_timeout, "timed out"}}) {
    text += n > 0 ? fmt::format(", {} {}", n, what) : "";
  }
  text += fmt::format("; {} of {} cells {} a warning", integrity.n_cells_flagged, document.cells.size(),
                      integrity.n_cells_flagged == 1 ? "carries" : "carry");
  return text;
}

std::vector<Table> fact_tables(const Document& document) {
  return {model_facts(document.model), machine_facts(document.machine, document.ceilings),
          server_facts(document.server), run_facts(document.run, document.drift)};
}

}  // namespace fl::report
