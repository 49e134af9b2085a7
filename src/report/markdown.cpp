// report.md.
#include <algorithm>

#include <fmt/format.h>

#include "report/format.h"
#include "report/forms.h"
#include "report/tables.h"

namespace fl::report {
namespace {

std::string cell_text(const TableCell& cell) {
  std::string text = escape_markdown(cell.text);
  text += cell.detail.empty() ? "" : fmt::format(" ({})", escape_markdown(cell.detail));
  text += cell.note.empty() || !cell.exact ? "" : " \\*";  // the warnings are listed under Integrity
  return text;
}

std::string table_text(const Table& table) {
  if (table.rows.empty()) {
    return {};
  }
  std::string out = "|";
  std::string rule = "|";
  for (size_t i = 0; i < table.head.size(); ++i) {
    out += fmt::format(" {} |", escape_markdown(table.head[i]));
    rule += i > 0 && table.numeric ? " ---: |" : " --- |";
  }
  out += "\n" + rule + "\n";
  for (const auto& row : table.rows) {
    out += "|";
    for (const TableCell& cell : row) {
      out += fmt::format(" {} |", cell_text(cell));
    }
    if (row.size() < table.head.size()) {
      out += fmt::format(" {} |", escape_markdown(row.back().note));
      for (size_t i = row.size() + 1; i < table.head.size(); ++i) {
        out += " |";
      }
    }
    out += "\n";
  }
  return out + "\n";
}

std::string section(int level, const Table& table) {
  if (table.rows.empty()) {
    return {};
  }
  std::string out =
      fmt::format("{} {}\n\n", std::string(static_cast<size_t>(level), '#'), escape_markdown(table.title));
  if (!table.caption.empty()) {
    out +=
        escape_markdown(table.caption + (table.detail_caption.empty() ? "" : "; " + table.detail_caption)) +
        ".\n\n";
  }
  return out + table_text(table);
}

// A fence longer than any run of backquotes inside.
std::string code_block(const char* language, std::string_view text) {
  std::string body = clean(text);
  size_t longest = 2;
  size_t run = 0;
  for (char c : body) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  if (body.empty() || body.back() != '\n') {
    body += '\n';
  }
  const std::string fence(longest + 1, '`');
  return fmt::format("{}{}\n{}{}\n\n", fence, language, body, fence);
}

std::string profile_text(const Profile& profile) {
  std::string out =
      fmt::format("### {}\n\n{}.", escape_markdown(profile.title), escape_markdown(profile.reason));
  if (profile.expected_decode_per_chat) {
    out += fmt::format(" Expect {} tok/s for each chat", format_rate(*profile.expected_decode_per_chat));
    out += profile.chats > 1 && profile.expected_decode_total
               ? fmt::format(", {} together", format_rate(*profile.expected_decode_total))
               : "";
    out += fmt::format(". Its word is {}.", escape_markdown(profile.name));
  }
  out += "\n\n" + code_block("sh", profile.serve_command);
  if (!profile.llama_server_command.empty()) {
    out += "The same with llama-server:\n\n" + code_block("sh", profile.llama_server_command);
  }
  if (!profile.systemd_unit.empty()) {
    out += "As a service (`/etc/systemd/system/freelunch.service`):\n\n" +
           code_block("ini", profile.systemd_unit);
  }
  if (!profile.client_snippet.empty()) {
    out += "A client:\n\n" + code_block("python", profile.client_snippet);
  }
  return out;
}

}  // namespace

std::string markdown_report(const Document& document) {
  std::string out =
      fmt::format("# {} on {}\n\n**{}**\n\n", escape_markdown(model_name(document)),
                  escape_markdown(device_name(document)), escape_markdown(document.headline.verdict));
  out += "| | | |\n| --- | ---: | --- |\n";
  for (const Figure& figure : figures(document)) {
    out += fmt::format("| {} | **{}{}{}** | {} |\n", escape_markdown(figure.label),
                       escape_markdown(figure.value), figure.unit.empty() ? "" : " ",
                       escape_markdown(figure.unit), escape_markdown(figure.detail));
  }
  out += fmt::format("\n{}.\n\n## The matrix\n\n", escape_markdown(integrity_sentence(document)));
  for (const Table& table : speed_matrices(document)) {
    out += section(3, table);
  }
  out += section(3, memory_matrix(document)) + section(3, memory_parts(document));
  if (!document.findings.empty()) {
    out += "## Findings\n\n";
    for (const Finding& finding : document.findings) {
      out += fmt::format("* **{}.** {}\n", escape_markdown(finding.title), escape_markdown(finding.text));
    }
    out += "\n";
  }
  out += "## What to do\n\n";
  for (const Profile& profile : document.recommendation.profiles) {
    out += profile_text(profile);
  }
  out += section(3, largest_table(document)) + section(3, knee_table(document));
  if (!document.headline.recap.empty()) {
    out += fmt::format("## Recap\n\n{}\n\n", escape_markdown(document.headline.recap));
  }
  out += section(2, quality_table(document));
  out += fmt::format("## Integrity\n\n{}.\n\n", escape_markdown(integrity_sentence(document)));
  out += table_text(integrity_table(document)) + section(3, warnings_table(document));
  for (const Table& table : cell_tables(document)) {
    out += section(3, table);
  }
  if (!document.definitions.empty()) {
    out += "## Definitions\n\n";
    for (const Definition& definition : document.definitions) {
      out +=
          fmt::format("* **{}**: {}\n", escape_markdown(definition.term), escape_markdown(definition.text));
    }
    out += "\n";
  }
  for (const Table& table : fact_tables(document)) {
    out += section(2, table);
  }
  return out;
}

}  // namespace fl::report
