#include "report/compare.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "report/format.h"
#include "report/json_fields.h"

namespace fl::report {

// clang-format off
FL_FIELDS(Change, "",
  f("what", &T::what, ""); f("before", &T::before, ""); f("after", &T::after, "");)
FL_FIELDS(ComparedCell, "",
  f("id", &T::id, ""); f("decode_before", &T::decode_before, ""); f("decode_after", &T::decode_after, "");
  f("decode_change", &T::decode_change, ""); f("beyond_spread", &T::beyond_spread, "");
  f("ttft_before", &T::ttft_before, ""); f("ttft_after", &T::ttft_after, "");
  f("memory_before", &T::memory_before, ""); f("memory_after", &T::memory_after, "");)
FL_FIELDS(Comparison, "",
  f("before", &T::before, ""); f("after", &T::after, ""); f("changes", &T::changes, "");
  f("cells", &T::cells, ""); f("notes", &T::notes, "");)
// clang-format on

namespace {

constexpr double kStandardErrors = 2;

std::string number(const std::optional<double>& value, int decimals) {
  return value ? fmt::format("{:.{}f}", *value, decimals) : "-";
}

bool apart(const Stat& a, const Stat& b) {
  const double error = std::sqrt(a.sd * a.sd / static_cast<double>(std::max<int64_t>(a.n, 1)) +
                                 b.sd * b.sd / static_cast<double>(std::max<int64_t>(b.n, 1)));
  return std::abs(a.mean - b.mean) > kStandardErrors * error;
}

std::string gpus_of(const Machine& machine) {
  std::string out;
  for (const Gpu& gpu : machine.gpus) {
    out += fmt::format("{}{} ({} W, driver {})", out.empty() ? "" : ", ", gpu.name, gpu.power_limit_watts,
                       gpu.driver);
  }
  return out;
}

}  // namespace

Comparison compare(const Document& before, const Document& after) {
  Comparison out;
  out.before = fmt::format("{} of {}", before.run.id, before.run.started_at);
  out.after = fmt::format("{} of {}", after.run.id, after.run.started_at);
  const auto note = [&](const char* what, const std::string& a, const std::string& b) {
    if (a != b) {
      out.changes.push_back({what, a, b});
    }
  };
  note("machine: CPU", before.machine.cpu, after.machine.cpu);
  note("machine: cores", std::to_string(before.machine.n_cores), std::to_string(after.machine.n_cores));
  note("machine: GPU", gpus_of(before.machine), gpus_of(after.machine));
  note("machine: kernel", before.machine.host, after.machine.host);
  note("machine: governor", before.machine.governor, after.machine.governor);
  note("model", before.model.name, after.model.name);
  note("model: hash", before.model.hash, after.model.hash);
  note("model: quantisation", before.model.quantisation, after.model.quantisation);
  note("server", before.server.name, after.server.name);
  note("server: version", before.server.version, after.server.version);
  note("server: command", before.server.command_template, after.server.command_template);
  note("server: URL", before.server.url, after.server.url);
  note("program version", before.run.program_version, after.run.program_version);
  note("answer tokens", std::to_string(before.run.plan.tokens_per_request),
       std::to_string(after.run.plan.tokens_per_request));
  note("prompt tokens", std::to_string(before.run.plan.prompt_tokens),
       std::to_string(after.run.plan.prompt_tokens));
  for (const Document* document : {&before, &after}) {
    if (!document->integrity.valid) {
      out.notes.push_back(fmt::format("{} is not valid: {}", document->run.id, document->integrity.reason));
    }
    if (!document->run.complete) {
      out.notes.push_back(fmt::format("{} is not complete: {}", document->run.id, document->run.stop_reason));
    }
  }
  std::vector<std::string> ids;
  for (const Document* document : {&before, &after}) {
    for (const Cell& cell : document->cells) {
      if (cell.status == "ok" && std::find(ids.begin(), ids.end(), cell.id) == ids.end()) {
        ids.push_back(cell.id);
      }
    }
  }
  const auto cell_of = [](const Document& document, const std::string& id) -> const Cell* {
    const auto found = std::find_if(document.cells.begin(), document.cells.end(),
                                    [&](const Cell& cell) { return cell.id == id && cell.status == "ok"; });
    return found == document.cells.end() ? nullptr : &*found;
  };
  for (const std::string& id : ids) {
    ComparedCell row;
    row.id = id;
    const Cell* a = cell_of(before, id);
    const Cell* b = cell_of(after, id);
    const auto read = [](const Cell* cell, auto& decode, auto& ttft, auto& memory) {
      if (cell != nullptr) {
        decode = cell->decode_total ? std::optional(cell->decode_total->mean) : std::nullopt;
        ttft = cell->ttft ? std::optional(cell->ttft->p50) : std::nullopt;
        memory = cell->memory.bytes;
      }
    };
    read(a, row.decode_before, row.ttft_before, row.memory_before);
    read(b, row.decode_after, row.ttft_after, row.memory_after);
    if (row.decode_before && row.decode_after) {
      row.decode_change = *row.decode_after / *row.decode_before - 1;
      row.beyond_spread = apart(*a->decode_total, *b->decode_total);
    }
    out.cells.push_back(std::move(row));
  }
  return out;
}

std::string comparison_text(const Comparison& comparison) {
  std::string out = fmt::format("before  {}\nafter   {}\n\n", comparison.before, comparison.after);
  for (const std::string& note : comparison.notes) {
    out += "note: " + note + "\n";
  }
  if (comparison.changes.empty()) {
    out += "Nothing that the reports record changed between them.\n";
  }
  for (const Change& change : comparison.changes) {
    out += fmt::format("{}\n  - {}\n  + {}\n", change.what, change.before.empty() ? "(none)" : change.before,
                       change.after.empty() ? "(none)" : change.after);
  }
  out += fmt::format("\n{:<20} {:>10} {:>10} {:>9}   {:>9} {:>9}   {:>8} {:>8}\n", "cell", "tok/s", "",
                     "change", "TTFT s", "", "memory", "");
  for (const ComparedCell& cell : comparison.cells) {
    const auto memory = [](const std::optional<int64_t>& bytes) {
      return bytes ? format_bytes(*bytes) : std::string("-");
    };
    const std::string change = cell.decode_change ? fmt::format("{:+.1f} %{}", 100 * *cell.decode_change,
                                                                cell.beyond_spread ? " " : "~")
                                                  : "-";
    out += fmt::format("{:<20} {:>10} {:>10} {:>9}   {:>9} {:>9}   {:>8} {:>8}\n", cell.id,
                       number(cell.decode_before, 1), number(cell.decode_after, 1), change,
                       number(cell.ttft_before, 3), number(cell.ttft_after, 3), memory(cell.memory_before),
                       memory(cell.memory_after));
  }
  out +=
      "\ntok/s of all chats together; ~ marks a change within the spread of the repeats (two standard "
      "errors).\n";
  return out;
}

std::string comparison_json(const Comparison& comparison) {
  return json_of(comparison).dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace fl::report
