#include "report/tables.h"

#include <algorithm>

#include <fmt/format.h>

#include "report/format.h"

namespace fl::report {
namespace {

constexpr const char* kNone = "\xE2\x80\x94";  // em dash: no number

TableCell text_cell(std::string text) {
  return {std::move(text), {}, {}, {}};
}

std::string flags_note(const std::vector<Flag>& flags) {
  std::string note;
  for (const Flag& flag : flags) {
    note += (note.empty() ? "" : "; ") + flag.text;
  }
  return note;
}

TableCell missing(const Cell* cell) {
  TableCell out{kNone, {}, {}, "not measured"};
  if (cell != nullptr) {
    out.note = cell->reason.empty() ? cell->status : cell->status + ": " + cell->reason;
  }
  return out;
}

TableCell rate_cell(const std::optional<Stat>& stat) {
  if (!stat) {
    return text_cell(kNone);
  }
  TableCell out{format_rate(stat->mean), {}, stat->mean, {}};
  if (stat->n > 1) {
    out.detail = fmt::format("\xC2\xB1{}", format_percent(stat->cv, 1));
  }
  return out;
}

TableCell quantile_cell(const std::optional<Distribution>& distribution) {
  if (!distribution) {
    return text_cell(kNone);
  }
  return {format_seconds(distribution->p50),
          fmt::format("{} / {}", format_seconds(distribution->p95), format_seconds(distribution->p99)),
          distribution->p50,
          {}};
}

std::vector<std::string> chats_head(const Document& document, const char* first) {
  std::vector<std::string> head{first};
  for (int64_t chats : document.chats) {
    head.push_back(format_chats(chats));
  }
  return head;
}

const Configuration* find_configuration(const Document& document, int64_t ctx, int64_t chats) {
  for (const Configuration& each : document.configurations) {
    if (each.ctx == ctx && each.chats == chats) {
      return &each;
    }
  }
  return nullptr;
}

std::vector<TableCell> cell_row(const Cell& cell) {
  std::vector<TableCell> row{{fmt::format("{}, {}", format_tokens(cell.ctx), format_chats(cell.chats)),
                              {},
                              {},
                              flags_note(cell.flags)}};
  if (cell.status != "ok") {
    row.push_back(missing(&cell));
    return row;
  }
  row.push_back({format_count(cell.depth_tokens), {}, static_cast<double>(cell.depth_tokens), {}});
  row.push_back(rate_cell(cell.decode_per_chat));
  row.push_back(rate_cell(cell.decode_total));
  row.push_back(rate_cell(cell.prefill));
  row.push_back(quantile_cell(cell.ttft));
  row.push_back(quantile_cell(cell.gap));
  row.push_back(quantile_cell(cell.end_to_end));
  row.push_back(
      cell.joules_per_token
          ? TableCell{fmt::format("{:.2f}", cell.joules_per_token->mean), {}, cell.joules_per_token->mean, {}}
          : text_cell(kNone));
  row.push_back({fmt::format("{}", cell.n_repeats),
                 cell.n_not_ok > 0 ? fmt::format("{} of {} failed", cell.n_not_ok, cell.n_requests) : "",
                 static_cast<double>(cell.n_repeats),
                 {}});
  return row;
}

}  // namespace

std::vector<MemoryPart> stated_parts(const Memory& memory) {
  std::vector<MemoryPart> parts;
  for (const MemoryPart& part : memory.parts) {
    const int64_t bytes = std::clamp<int64_t>(part.bytes, 0, kMostBytes);
    const std::string name = one_line(part.name);
    const auto same =
        std::find_if(parts.begin(), parts.end(), [&](const MemoryPart& each) { return each.name == name; });
    if (same != parts.end() || parts.size() == kMostParts) {
      MemoryPart& into = same != parts.end() ? *same : parts.back();
      into.bytes = std::min(into.bytes + bytes, kMostBytes);
    } else {
      parts.push_back({name, bytes});
    }
  }
  return parts;
}

int64_t sum_of(const std::vector<MemoryPart>& parts) {
  int64_t sum = 0;
  for (const MemoryPart& part : parts) {
    sum += part.bytes;
  }
  return sum;
}

std::string depth_name(std::string_view depth) {
  if (depth == "empty") {
    return "empty window";
  }
  if (depth == "half") {
    return "window half full";
  }
  return depth == "full" ? "window full" : one_line(depth);
}

std::string place_name(int64_t ctx, int64_t chats, std::string_view depth) {
  return fmt::format("{}, {}, {}", format_chats(chats), format_tokens(ctx), depth_name(depth));
}

std::vector<Table> speed_matrices(const Document& document) {
  std::vector<Table> tables;
  for (const std::string& depth : document.depths) {
    Table table;
    table.id = "speed-" + depth;
    table.title = "Speed, " + depth_name(depth);
    table.caption = "tokens per second of all chats together";
    table.detail_caption = "behind it, of each chat";
    table.head = chats_head(document, "context");
    for (int64_t ctx : document.ctx) {
      std::vector<TableCell> row{text_cell(format_tokens(ctx))};
      for (int64_t chats : document.chats) {
        const Cell* cell = find_cell(document, ctx, chats, depth);
        if (cell == nullptr || !cell->decode_total) {
          row.push_back(missing(cell));
          continue;
        }
        TableCell out = rate_cell(cell->decode_total);
        out.detail = cell->decode_per_chat ? format_rate(cell->decode_per_chat->mean) + " each" : "";
        out.note = flags_note(cell->flags);
        row.push_back(std::move(out));
      }
      table.rows.push_back(std::move(row));
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

Table memory_matrix(const Document& document) {
  Table table;
  table.id = "memory";
  table.title = "Memory";
  table.head = chats_head(document, "context");
  std::string basis;
  for (int64_t ctx : document.ctx) {
    std::vector<TableCell> row{text_cell(format_tokens(ctx))};
    for (int64_t chats : document.chats) {
      const Configuration* each = find_configuration(document, ctx, chats);
      if (each != nullptr && each->memory.bytes) {
        row.push_back({format_bytes(*each->memory.bytes), {}, static_cast<double>(*each->memory.bytes), {}});
        basis = each->memory.basis;
      } else {
        std::string why = each == nullptr       ? "not measured"
                          : each->error.empty() ? each->memory.reason
                                                : each->error;
        row.push_back({kNone, {}, {}, std::move(why)});
      }
    }
    table.rows.push_back(std::move(row));
  }
  table.caption = "highest seen while the configuration ran" + (basis.empty() ? "" : ": " + basis);
  return table;
}

Table memory_parts(const Document& document) {
  Table table;
  table.id = "memory-parts";
  table.title = "What holds the memory";
  table.caption = "as the server states it; the rest is what was seen beyond that";
  std::vector<std::string> names;
  for (const Configuration& each : document.configurations) {
    for (const MemoryPart& part : stated_parts(each.memory)) {
      if (names.size() < kMostParts && std::find(names.begin(), names.end(), part.name) == names.end()) {
        names.push_back(part.name);
      }
    }
  }
  if (names.empty()) {
    return table;
  }
  table.head = {"configuration"};
  table.head.insert(table.head.end(), names.begin(), names.end());
  table.head.insert(table.head.end(), {"rest", "seen"});
  for (const Configuration& each : document.configurations) {
    const std::vector<MemoryPart> parts = stated_parts(each.memory);
    if (parts.empty()) {
      continue;
    }
    std::vector<TableCell> row{
        text_cell(fmt::format("{}, {}", format_tokens(each.ctx), format_chats(each.chats)))};
    int64_t shown = 0;
    for (const std::string& name : names) {
      int64_t bytes = 0;
      for (const MemoryPart& part : parts) {
        bytes += part.name == name ? part.bytes : 0;
      }
      shown += bytes;
      row.push_back({format_bytes(bytes), {}, static_cast<double>(bytes), {}});
    }
    const int64_t seen = std::clamp<int64_t>(each.memory.bytes.value_or(0), 0, kMostBytes);
    const int64_t rest = std::max(std::max(seen, sum_of(parts)) - shown, int64_t{0});
    row.push_back(each.memory.bytes || rest > 0
                      ? TableCell{format_bytes(rest), {}, static_cast<double>(rest), {}}
                      : text_cell(kNone));
    row.push_back(
        each.memory.bytes
            ? TableCell{format_bytes(*each.memory.bytes), {}, static_cast<double>(*each.memory.bytes), {}}
            : TableCell{kNone, {}, {}, each.memory.reason});
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::vector<Table> cell_tables(const Document& document) {
  std::vector<Table> tables;
  for (const std::string& depth : document.depths) {
    Table table;
    table.id = "cells-" + depth;
    table.title = "Every cell, " + depth_name(depth);
    table.caption = "tok/s are means over the repeats, times are medians";
    table.detail_caption = "behind them the spread (coefficient of variation), and p95 / p99";
    table.head = {"cell",        "filled",         "tok/s each",   "tok/s all", "prefill tok/s",
                  "first token", "between tokens", "whole answer", "J/token",   "n"};
    for (const Cell& cell : document.cells) {
      if (cell.depth == depth) {
        table.rows.push_back(cell_row(cell));
      }
    }
    if (!table.rows.empty()) {
      tables.push_back(std::move(table));
    }
  }
  return tables;
}

Table quality_table(const Document& document) {
  Table table;
  table.id = "quality";
  table.title = "Correct answers";
  table.head = {"", "answers"};
  if (!document.quality || !document.quality->measured) {
    return table;
  }
  const Quality& quality = *document.quality;
  table.caption = fmt::format("{}, {} mode, thinking {}", one_line(quality.tasks), one_line(quality.mode),
                              quality.thinking.empty() ? "as the server does" : one_line(quality.thinking));
  const auto add = [&](const char* what, int64_t n, bool always) {
    if (n > 0 || always) {
      table.rows.push_back({text_cell(what), {format_count(n), {}, static_cast<double>(n), {}}});
    }
  };
  table.rows.push_back(
      {text_cell("pass@1"),
       {format_percent(quality.pass_at_1, 1),
        fmt::format("95 % interval {:.1f} to {:.1f} %", 100 * quality.low, 100 * quality.high),
        quality.pass_at_1,
        {}}});
  add("asked", quality.n_samples, true);
  add("solved", quality.n_solved, true);
  add("wrong", quality.n_wrong, true);
  add("raised an error, or no such function", quality.n_raised, false);
  add("ran out of CPU time", quality.n_timeout, false);
  add("killed, or printed too much", quality.n_other, false);
  add("answer without code", quality.n_no_code, false);
  add("answer cut at the token limit", quality.n_truncated, false);
  add("request failed", quality.n_failed, false);
  return table;
}

Table knee_table(const Document& document) {
  Table table;
  table.id = "knees";
  table.title = "Where more chats stop adding speed";
  table.head = {"up to", "where", "limited by", "reading"};
  table.numeric = false;
  std::vector<std::pair<const Knee*, std::vector<std::string>>> groups;
  for (const Knee& knee : document.recommendation.knees) {
    const std::string where = fmt::format("{} {}", format_tokens(knee.ctx), one_line(knee.depth));
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& group) {
      return group.first->text == knee.text && group.first->chats == knee.chats &&
             group.first->limit == knee.limit;
    });
    if (same == groups.end()) {
      groups.push_back({&knee, {where}});
    } else {
      same->second.push_back(where);
    }
  }
  for (const auto& [knee, places] : groups) {
    std::string where;
    if (places.size() == document.recommendation.knees.size() && places.size() > 1) {
      where = "everywhere";
    } else {
      for (const std::string& place : places) {
        where += (where.empty() ? "" : ", ") + place;
      }
    }
    table.rows.push_back({{format_chats(knee->chats) + (knee->at_end ? ", still rising" : ""),
                           {},
                           static_cast<double>(knee->chats),
                           {}},
                          text_cell(where),
                          text_cell(one_line(knee->limit)),
                          text_cell(one_line(knee->text))});
  }
  return table;
}

Table largest_table(const Document& document) {
  Table table;
  table.id = "largest";
  table.title = "The largest context that fits";
  table.head = {"chats", "context", "reading"};
  table.numeric = false;
  for (const LargestContext& each : document.recommendation.largest) {
    table.rows.push_back(
        {{format_chats(each.chats), {}, static_cast<double>(each.chats), {}},
         {each.ctx > 0 ? format_tokens(each.ctx) : kNone, {}, static_cast<double>(each.ctx), {}},
         text_cell(one_line(each.text))});
  }
  return table;
}

namespace {

// Places with one thing to say: the place itself, or how many there are and the first one's words.
struct Group {
  std::string what;
  std::string where;
  std::string text;
  size_t n = 0;
};

void add_to(std::vector<Group>& groups, const std::string& what, const std::string& where,
            const std::string& text, bool same_text) {
  const auto known = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
    return group.what == what && (!same_text || group.text == text);
  });
  if (known == groups.end()) {
    groups.push_back({what, where, text, 1});
  } else {
    ++known->n;
  }
}

void add_rows(Table& table, const std::vector<Group>& groups, size_t n_cells, bool same_text) {
  for (const Group& group : groups) {
    const bool several = group.n > 1;
    const std::string where = several ? fmt::format("{} of {} cells", group.n, n_cells) : group.where;
    const std::string text =
        several && !same_text ? fmt::format("{}: {}", group.where, group.text) : group.text;
    table.rows.push_back({text_cell(where), text_cell(one_line(group.what)), text_cell(one_line(text))});
  }
}

}  // namespace

Table integrity_table(const Document& document) {
  Table table;
  table.id = "integrity";
  table.title = "Warnings";
  table.head = {"where", "warning", "what was seen, for example"};
  table.numeric = false;
  std::vector<Group> warnings;
  std::vector<Group> missing;
  for (const Cell& cell : document.cells) {
    const std::string where = place_name(cell.ctx, cell.chats, cell.depth);
    for (const Flag& flag : cell.flags) {
      add_to(warnings, flag.code, where, flag.text, false);
    }
    const Configuration* each = find_configuration(document, cell.ctx, cell.chats);
    if (cell.status != "ok" && (each == nullptr || each->error.empty())) {
      add_to(missing, cell.status, where, cell.reason, true);
    }
  }
  for (const Flag& flag : document.integrity.flags) {
    const bool of_cells = std::any_of(warnings.begin(), warnings.end(),
                                      [&](const Group& group) { return group.what == flag.code; });
    if (!of_cells) {
      table.rows.push_back(
          {text_cell("whole run"), text_cell(one_line(flag.code)), text_cell(one_line(flag.text))});
    }
  }
  add_rows(table, warnings, document.cells.size(), false);
  for (const Configuration& each : document.configurations) {
    if (!each.error.empty()) {
      table.rows.push_back(
          {text_cell(fmt::format("{}, {}", format_chats(each.chats), format_tokens(each.ctx))),
           text_cell("not started"), text_cell(one_line(each.error))});
    }
  }
  add_rows(table, missing, document.cells.size(), true);
  return table;
}

Table warnings_table(const Document& document) {
  Table table;
  table.id = "warnings";
  table.title = "Every cell with a warning";
  table.head = {"cell", "warnings", "what was seen"};
  table.numeric = false;
  for (const Cell& cell : document.cells) {
    std::string codes;
    std::string texts;
    for (const Flag& flag : cell.flags) {
      codes += (codes.empty() ? "" : ", ") + flag.code;
      texts += (texts.empty() ? "" : "; ") + flag.text;
    }
    if (cell.status != "ok") {
      codes += (codes.empty() ? "" : ", ") + cell.status;
      texts += texts.empty() ? cell.reason : "";
    }
    if (!codes.empty()) {
      table.rows.push_back({text_cell(place_name(cell.ctx, cell.chats, cell.depth)),
                            text_cell(one_line(codes)), text_cell(one_line(texts))});
    }
  }
  return table;
}

}  // namespace fl::report
