// report.html: one file, readable without scripts, well-formed as XML.
#include <openssl/evp.h>

#include <algorithm>

#include <fmt/format.h>

#include "report/format.h"
#include "report/forms.h"
#include "report/plots.h"
#include "report/tables.h"
#include "report_assets.h"

namespace fl::report {
namespace {

std::string exact_attribute(const std::optional<double>& exact) {
  return exact ? fmt::format(R"( data-v="{}")", *exact) : "";
}

std::string title_attribute(const std::string& note) {
  return note.empty() ? "" : fmt::format(R"( title="{}")", escape_html(note));
}

std::string table_cell(const TableCell& cell, bool head) {
  if (head) {
    return fmt::format(R"(<th scope="row"{}>{}</th>)", title_attribute(cell.note), escape_html(cell.text));
  }
  const char* css = cell.note.empty() || cell.exact ? "" : R"( class="none")";
  std::string out = fmt::format("<td{}{}{}>{}", css, exact_attribute(cell.exact), title_attribute(cell.note),
                                escape_html(cell.text));
  out += cell.note.empty() || !cell.exact ? "" : "<sup>*</sup>";  // the warnings are listed under Integrity
  out += cell.detail.empty() ? "" : fmt::format("<small>{}</small>", escape_html(cell.detail));
  return out + "</td>";
}

std::string table_rows(const Table& table) {
  std::string out = "<tbody>";
  for (const auto& row : table.rows) {
    out += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) {
      const bool last = i + 1 == row.size();
      if (last && row.size() < table.head.size()) {
        out += fmt::format(R"(<td class="why" colspan="{}">{}</td>)", table.head.size() - i,
                           escape_html(row[i].note.empty() ? row[i].text : row[i].note));
      } else {
        out += table_cell(row[i], i == 0);
      }
    }
    out += "</tr>\n";
  }
  return out + "</tbody>";
}

// `css`: "num" for figures, "words", "facts" for name and value.
std::string table_html(const Table& table, const char* css, bool with_title = true) {
  if (table.rows.empty()) {
    return {};
  }
  std::string out = fmt::format(R"(<div class="tablebox" id="{}">)", escape_html(table.id));
  if (with_title) {
    out += fmt::format(R"(<div class="caption"><h3>{}</h3>)", escape_html(table.title));
    std::string caption = table.caption;
    caption += table.detail_caption.empty() ? "" : "; " + table.detail_caption;
    out += caption.empty() ? "" : fmt::format(R"(<span class="reading">{}</span>)", escape_html(caption));
    out += "</div>";
  }
  out += fmt::format(R"(<div class="scroll"><table class="{}">)", css);
  const auto is_blank = [](const std::string& text) { return text.empty(); };
  if (!std::all_of(table.head.begin(), table.head.end(), is_blank)) {
    out += "<thead><tr>";
    for (const std::string& head : table.head) {
      out += head.empty() ? "<td></td>" : fmt::format(R"(<th scope="col">{}</th>)", escape_html(head));
    }
    out += "</tr></thead>\n";
  }
  return out + table_rows(table) + "</table></div></div>\n";
}

std::string panels_html(const Plot& plot) {
  std::string out = fmt::format(R"(<div class="panels" id="plot-{}">)", plot.id);
  for (const Panel& panel : plot.panels) {
    out += R"(<div class="panel">)";
    out += panel.name.empty() ? "" : fmt::format(R"(<p class="name">{}</p>)", escape_html(panel.name));
    out += panel.svg + "</div>";
  }
  return out + "</div>";
}

std::string plot_html(const Plot& plot) {
  if (plot.panels.empty()) {
    return {};
  }
  return fmt::format(
      R"(<figure class="plot"><figcaption><h3>{}</h3><span class="reading">{}</span></figcaption>{}</figure>)",
      escape_html(plot.title), escape_html(plot.reading), panels_html(plot));
}

// Tables behind a line to open: the same numbers as a plot, for reading aloud and for copying.
std::string behind(const std::string& tables) {
  return tables.empty()
             ? ""
             : fmt::format("<details class=\"same\"><summary>The same as tables</summary>{}</details>",
                           tables);
}

std::string figures_html(const Document& document) {
  std::string out = R"(<dl class="figures">)";
  for (const Figure& figure : figures(document)) {
    out +=
        fmt::format(R"(<div><dt>{}</dt><dd class="value{}"{}>{}{}</dd>)", escape_html(figure.label),
                    figure.exact ? "" : " none", exact_attribute(figure.exact), escape_html(figure.value),
                    figure.unit.empty() ? "" : fmt::format(" <small>{}</small>", escape_html(figure.unit)));
    out +=
        figure.detail.empty() ? "" : fmt::format(R"(<dd class="detail">{}</dd>)", escape_html(figure.detail));
    out += "</div>";
  }
  return out + "</dl>\n";
}

std::string header_html(const Document& document) {
  std::string out = R"(<header class="top"><div class="overline"><span><b>)";
  out += fmt::format("{}</b> on {}, {}</span></div>\n", escape_html(model_name(document)),
                     escape_html(device_name(document)), escape_html(document.run.started_at.substr(0, 10)));
  out += fmt::format(
      "<h1>{}</h1>\n",
      escape_html(document.headline.verdict.empty() ? "Nothing was measured." : document.headline.verdict));
  if (!document.integrity.valid) {
    out += fmt::format(R"(<p class="banner">This run is not valid: {}</p>)",
                       escape_html(document.integrity.reason));
  }
  if (document.model.random_weights) {
    out += R"(<p class="banner">Random weights: speed and memory mean something, quality does not.</p>)";
  }
  if (!document.run.complete) {
    out += fmt::format(
        R"(<p class="banner">Not complete: {}</p>)",
        escape_html(document.run.stop_reason.empty() ? "samples are missing" : document.run.stop_reason));
  }
  out += figures_html(document);
  out += fmt::format(R"(<p class="standing">{}.</p>)", escape_html(integrity_sentence(document)));
  out += R"(<nav aria-label="Sections"><a href="#matrix">The matrix</a><a href="#findings">Findings</a>)"
         R"(<a href="#todo">What to do</a><a href="#curves">Curves</a><a href="#recap">Recap</a>)"
         R"(<a href="#trust">Integrity</a><a href="#cells">Every cell</a><a href="#defs">Definitions</a>)"
         R"(<a href="#method">Machine and method</a></nav></header>)";
  return out + "\n";
}

std::string open_section(const char* id, const char* title, std::string_view lede = {}) {
  std::string out = fmt::format(R"(<section id="{}"><h2>{}</h2>)", id, title);
  out += lede.empty() ? "" : fmt::format(R"(<p class="lede">{}</p>)", escape_html(lede));
  return out + "\n";
}

std::string matrix_html(const Document& document) {
  const Plot plot = heat_map(document);
  std::string out =
      open_section("matrix", "The matrix", plot.panels.empty() ? "No cell was measured." : plot.reading);
  out += plot.panels.empty() ? "" : fmt::format("<figure class=\"plot heat\">{}</figure>", panels_html(plot));
  std::string tables = R"(<div class="tables">)";
  for (const Table& table : speed_matrices(document)) {
    tables += table_html(table, "num");
  }
  tables += table_html(memory_matrix(document), "num") + "</div>";
  return out + behind(tables) + "</section>\n";
}

std::string findings_html(const Document& document) {
  std::string out = open_section("findings", "Findings");
  if (document.findings.empty()) {
    return out + R"(<p class="lede">The measured cells support none.</p></section>)" + "\n";
  }
  out += R"(<ol class="findings">)";
  for (const Finding& finding : document.findings) {
    std::string cells;
    for (const std::string& cell : finding.cells) {
      cells += (cells.empty() ? "rests on " : ", ") + one_line(cell);
    }
    out += fmt::format("<li{}><h3>{}</h3><p>{}</p></li>", title_attribute(cells), escape_html(finding.title),
                       escape_html(finding.text));
  }
  return out + "</ol></section>\n";
}

std::string code_html(const std::string& text) {
  return fmt::format(R"(<div class="copybox"><pre>{}</pre></div>)", escape_html(text));
}

std::string more_html(const char* title, const std::string& text) {
  return text.empty() ? ""
                      : fmt::format("<details><summary>{}</summary>{}</details>", title, code_html(text));
}

std::string profile_html(const Profile& profile) {
  std::string out =
      fmt::format(R"(<article class="profile"><h3>{}</h3><p class="facts">)", escape_html(profile.title));
  out += fmt::format("<span><b>{}</b> context</span><span><b>{}</b></span>", format_tokens(profile.ctx),
                     format_chats(profile.chats));
  if (profile.expected_decode_per_chat) {
    out +=
        fmt::format("<span><b{}>{}</b> tok/s each</span>", exact_attribute(profile.expected_decode_per_chat),
                    format_rate(*profile.expected_decode_per_chat));
  }
  if (profile.chats > 1 && profile.expected_decode_total) {
    out += fmt::format("<span><b{}>{}</b> together</span>", exact_attribute(profile.expected_decode_total),
                       format_rate(*profile.expected_decode_total));
  }
  out += fmt::format(R"(</p><p class="reason">{}</p>)", escape_html(profile.reason));
  out += code_html(profile.serve_command);
  out += more_html("The same with llama-server", profile.llama_server_command);
  out += more_html("As a systemd service", profile.systemd_unit);
  out += more_html("A client", profile.client_snippet);
  return out + "</article>\n";
}

std::string todo_html(const Document& document) {
  std::string out =
      open_section("todo", "What to do", "Chosen from the measured cells; each with the commands to copy.");
  out += R"(<div class="profiles">)";
  for (const Profile& profile : document.recommendation.profiles) {
    out += profile_html(profile);
  }
  out += "</div>\n" + table_html(largest_table(document), "words");
  return out + table_html(knee_table(document), "words") + "</section>\n";
}

std::string curves_html(const Document& document) {
  std::string out = open_section("curves", "Curves");
  out += plot_html(speed_against_chats(document));
  out += R"(<div class="plots">)";
  for (const Plot& plot : {speed_against_depth(document), memory_against_context(document),
                           ttft_against_prompt(document), latency_distribution(document)}) {
    out += plot_html(plot);
  }
  return out + "</div>\n" + behind(table_html(memory_parts(document), "num")) + "</section>\n";
}

std::string recap_html(const Document& document) {
  std::string out = open_section("recap", "Recap");
  out += fmt::format(R"(<p class="recap">{}</p>)", escape_html(document.headline.recap));
  return out + table_html(quality_table(document), "num") + "</section>\n";
}

std::string trust_html(const Document& document) {
  std::string out = open_section("trust", "Integrity");
  out += fmt::format(R"(<p class="lede">{}.</p>)", escape_html(integrity_sentence(document)));
  out += table_html(integrity_table(document), "words", false);
  const Table warnings = warnings_table(document);
  if (!warnings.rows.empty()) {
    out += fmt::format("<details class=\"same\"><summary>{}</summary>{}</details>",
                       escape_html(warnings.title), table_html(warnings, "words", false));
  }
  return out + "</section>\n";
}

std::string cells_html(const Document& document) {
  std::string out = open_section("cells", "Every cell");
  for (const Table& table : cell_tables(document)) {
    out += table_html(table, "num");
  }
  return out + "</section>\n";
}

std::string definitions_html(const Document& document) {
  std::string out = open_section("defs", "Definitions", "What each number means and where it was measured.");
  out += document.definitions.empty() ? "" : R"(<dl class="defs">)";
  for (const Definition& definition : document.definitions) {
    out += fmt::format("<dt>{}</dt><dd>{}</dd>", escape_html(definition.term), escape_html(definition.text));
  }
  return out + (document.definitions.empty() ? "" : "</dl>") + "</section>\n";
}

std::string method_html(const Document& document) {
  std::string out = open_section("method", "Machine and method");
  out += R"(<div class="tables">)";
  for (const Table& table : fact_tables(document)) {
    out += table_html(table, "facts");
  }
  return out + "</div></section>\n";
}

// "sha256-..." of a script, as a Content-Security-Policy names it: no other script runs.
std::string script_hash(std::string_view script) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(script.data(), script.size(), digest, &size, EVP_sha256(), nullptr);
  unsigned char text[2 * EVP_MAX_MD_SIZE];
  const int n = EVP_EncodeBlock(text, digest, static_cast<int>(size));
  return "sha256-" + std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(n));
}

}  // namespace

std::string html_report(const Document& document) {
  // CDATA keeps the page well-formed as XML; in HTML the marks are comments of the two languages.
  const std::string script = fmt::format("//<![CDATA[\n{}//]]>", embedded::kReportJs);
  std::string out =
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta "
      "charset=\"utf-8\"/>\n";
  out += fmt::format(
      R"(<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src '{}'; base-uri 'none'; form-action 'none'"/>)",
      script_hash(script));
  out +=
      "\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta name=\"color-scheme\" content=\"light dark\"/>\n";
  out += fmt::format("<meta name=\"generator\" content=\"freelunch {}\"/>\n<title>{} on {}</title>\n",
                     escape_html(document.run.program_version), escape_html(model_name(document)),
                     escape_html(device_name(document)));
  out += fmt::format("<style>/*<![CDATA[*/\n{}/*]]>*/</style></head>\n<body>\n", embedded::kReportCss);
  out += header_html(document) + "<main>\n" + matrix_html(document) + findings_html(document) +
         todo_html(document);
  out += curves_html(document) + recap_html(document) + trust_html(document) + cells_html(document);
  out += definitions_html(document) + method_html(document) + "</main>\n";
  out += fmt::format(
      "<footer><p>Written by freelunch {} from report.json, run {}. The file holds everything it shows "
      "and asks no network.</p></footer>\n",
      escape_html(document.run.program_version), escape_html(document.run.id));
  return out + "<script>" + script + "</script>\n</body></html>\n";
}

}  // namespace fl::report
