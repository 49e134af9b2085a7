// The card and the tables on a terminal.
#include <algorithm>

#include <fmt/format.h>

#include "report/format.h"
#include "report/forms.h"
#include "report/tables.h"

namespace fl::report {
namespace {

constexpr int kCardWidth = 80;
constexpr int kInside = kCardWidth - 4;  // between "│ " and " │"
constexpr size_t kCardRows = 5;          // contexts in the card
constexpr size_t kVerdictLines = 3;
constexpr size_t kCardFindings = 3;

class Painter {
 public:
  explicit Painter(bool colour) : colour_(colour) {}
  std::string bold(const std::string& text) const { return paint("1", text); }
  std::string dim(const std::string& text) const { return paint("2", text); }
  std::string accent(const std::string& text) const { return paint("36", text); }
  std::string warning(const std::string& text) const { return paint("33", text); }

 private:
  std::string paint(const char* code, const std::string& text) const {
    return colour_ && !text.empty() ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text;
  }
  bool colour_;
};

// Lines of the card between its borders.
class Card {
 public:
  explicit Card(const Painter& painter) : painter_(painter) { rule("╭", "╮"); }
  void line(std::string_view text, std::string (Painter::*paint)(const std::string&) const = nullptr) {
    const std::string padded = fit(text, kInside);
    raw(paint == nullptr ? padded : (painter_.*paint)(padded));
  }
  /// `text` is kInside columns, colours not counted.
  void raw(const std::string& text) {
    out_ += painter_.dim("│") + " " + text + " " + painter_.dim("│") + "\n";
  }
  void separator() { rule("├", "┤"); }
  std::string end() {
    rule("╰", "╯");
    return std::move(out_);
  }

 private:
  void rule(const char* left, const char* right) {
    std::string text = left;
    for (int i = 0; i < kCardWidth - 2; ++i) {
      text += "─";
    }
    out_ += painter_.dim(text + right) + "\n";
  }
  const Painter& painter_;
  std::string out_;
};

// Two figures a line: label, value, detail.
void figure_lines(Card& card, const Document& document, const Painter& painter) {
  constexpr int kHalf = kInside / 2;
  constexpr int kLabel = 20;
  const std::vector<Figure> all = figures(document);
  for (size_t i = 0; i + 1 < all.size(); i += 2) {
    std::string text;
    for (const Figure& figure : {all[i], all[i + 1]}) {
      std::string value = figure.value + (figure.unit.empty() ? "" : " " + figure.unit);
      value = fit(value, kHalf - kLabel);
      text +=
          painter.dim(fit(figure.label, kLabel)) + (figure.exact ? painter.bold(value) : painter.dim(value));
    }
    card.raw(text);
  }
}

// The speed of the first filling on the left, memory on the right.
void matrix_lines(Card& card, const Document& document, const Painter& painter) {
  const std::vector<Table> speeds = speed_matrices(document);
  if (speeds.empty()) {
    return;
  }
  const Table& speed = speeds.front();
  const Table memory = memory_matrix(document);
  constexpr int kContext = 8;
  const auto n_chats = std::min<size_t>(document.chats.size(), 4);
  const int left = static_cast<int>((kInside - kContext - 3) / 2 / std::max<size_t>(n_chats, 1));
  const auto half = [&](const std::vector<TableCell>& row) {
    std::string text;
    for (size_t i = 1; i <= n_chats && i < row.size(); ++i) {
      const std::string padded = fit(row[i].text, left, true);
      text += row[i].exact ? padded : painter.dim(padded);
    }
    return text;
  };
  const int used = kContext + 3 + 2 * left * static_cast<int>(n_chats);
  const std::string tail(static_cast<size_t>(std::max(0, kInside - used)), ' ');
  std::string chats;
  for (size_t i = 0; i < n_chats; ++i) {
    chats += fit(format_chats(document.chats[i]), left, true);
  }
  const int wide = left * static_cast<int>(n_chats);
  card.raw(painter.dim(fit("", kContext) + fit("tok/s, all chats", wide, true) + "   " +
                       fit("memory", wide, true)) +
           tail);
  card.raw(painter.dim(fit("context", kContext) + chats + "   " + chats) + tail);
  // When there are more contexts than rows: the smallest, the largest and what lies evenly between.
  const size_t n_rows = std::min(speed.rows.size(), kCardRows);
  for (size_t i = 0; i < n_rows; ++i) {
    const size_t at = n_rows > 1 ? i * (speed.rows.size() - 1) / (n_rows - 1) : 0;
    card.raw(painter.accent(fit(speed.rows[at][0].text, kContext)) + half(speed.rows[at]) +
             painter.dim(" │ ") + half(memory.rows[at]) + tail);
  }
}

std::string cell_text(const TableCell& cell, bool with_details) {
  std::string text = cell.text;
  if (with_details && !cell.detail.empty()) {
    text += fmt::format(" ({})", cell.detail);
  }
  return cell.note.empty() || !cell.exact ? text : text + "*";  // the warnings are listed under integrity
}

std::vector<int> column_widths(const Table& table, bool with_details) {
  std::vector<int> widths;
  for (size_t i = 0; i < table.head.size(); ++i) {
    int width = columns(table.head[i]);
    for (const auto& row : table.rows) {
      width = i < row.size() ? std::max(width, columns(cell_text(row[i], with_details))) : width;
    }
    widths.push_back(width);
  }
  return widths;
}

constexpr int kGap = 2;
constexpr int kMinWrapped = 20;

int total_width(const std::vector<int>& widths) {
  int total = -kGap;
  for (int width : widths) {
    total += width + kGap;
  }
  return total;
}

void trim_right(std::string& text) {
  text.erase(text.find_last_not_of(' ') + 1);
}

// Details are left out where the table would be too wide with them.
std::string table_text(const Table& table, const Painter& painter, int width) {
  if (table.rows.empty()) {
    return {};
  }
  bool details = true;
  std::vector<int> widths = column_widths(table, true);
  if (table.numeric && total_width(widths) > width) {
    details = false;
    widths = column_widths(table, false);
  }
  const size_t n = table.head.size();
  const int before = total_width(widths) - widths.back();
  const bool wrap_last = !table.numeric && width - before > kMinWrapped;
  std::string out = painter.bold(table.title) + "\n";
  std::string caption = table.caption;
  if (details && !table.detail_caption.empty()) {
    caption += "; " + table.detail_caption;
  }
  for (const std::string& line : wrap(caption, width)) {
    out += painter.dim(line) + "\n";
  }
  const std::string gap(kGap, ' ');
  std::string head;
  for (size_t i = 0; i < n; ++i) {
    head += (i > 0 ? gap : "") + fit(table.head[i], widths[i], i > 0 && table.numeric);
  }
  trim_right(head);
  out += head.empty() ? "" : painter.dim(head) + "\n";
  for (const auto& row : table.rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i > 0 ? gap : "";
      const std::string text = cell_text(row[i], details);
      if (i + 1 < n || table.numeric) {
        line += fit(text, widths[i], i > 0 && table.numeric);
      } else if (wrap_last) {
        const std::string indent(static_cast<size_t>(before), ' ');
        std::string rest;
        for (const std::string& part : wrap(text, width - before)) {
          rest += rest.empty() ? part : fmt::format("\n{}{}", indent, part);
        }
        line += rest;
      } else {
        line += text;
      }
    }
    if (row.size() < n) {
      line += gap + one_line(row.back().note);
    }
    trim_right(line);
    out += line + "\n";
  }
  return out + "\n";
}

std::string heading(const Painter& painter, const char* text) {
  return painter.accent(painter.bold(text)) + "\n\n";
}

std::string paragraph(std::string_view text, int width, const char* indent = "") {
  std::string out;
  for (const std::string& line : wrap(one_line(text), width - columns(indent))) {
    out += indent + line + "\n";
  }
  return out;
}

std::string command_text(const char* what, std::string_view command, const Painter& painter) {
  std::string out = painter.dim(fmt::format("  {}:", what)) + "\n";
  std::string text = clean(command);
  while (!text.empty()) {
    const size_t end = text.find('\n');
    out += "    " + text.substr(0, end) + "\n";
    text.erase(0, end == std::string::npos ? end : end + 1);
  }
  return out;
}

std::string profiles_text(const Document& document, const Painter& painter, int width) {
  std::string out;
  for (const Profile& profile : document.recommendation.profiles) {
    out += painter.bold(one_line(profile.title)) + "\n" + paragraph(profile.reason, width, "  ");
    if (profile.expected_decode_per_chat) {
      out += fmt::format("  expect {} tok/s for each chat\n", format_rate(*profile.expected_decode_per_chat));
    }
    out += command_text("serve", profile.serve_command, painter);
    if (!profile.llama_server_command.empty()) {
      out += command_text("the same with llama-server", profile.llama_server_command, painter);
    }
    out += "\n";
  }
  return out;
}

}  // namespace

std::string terminal_card(const Document& document, const TerminalStyle& style) {
  const Painter painter(style.colour);
  Card card(painter);
  card.line(fmt::format("{} on {}", model_name(document), device_name(document)), &Painter::accent);
  for (const std::string& line : wrap(one_line(document.headline.verdict), kInside, kVerdictLines)) {
    card.line(line, &Painter::bold);
  }
  card.separator();
  figure_lines(card, document, painter);
  card.separator();
  matrix_lines(card, document, painter);
  card.separator();
  for (size_t i = 0; i < std::min(document.findings.size(), kCardFindings); ++i) {
    card.line("• " + one_line(document.findings[i].title));
  }
  card.line(integrity_sentence(document), document.integrity.valid && document.integrity.n_cells_flagged == 0
                                              ? &Painter::dim
                                              : &Painter::warning);
  return card.end();
}

std::string terminal_report(const Document& document, const TerminalStyle& style) {
  const Painter painter(style.colour);
  const int width = std::max(style.width, 40);
  const auto tables = [&](const std::vector<Table>& list) {
    std::string out;
    for (const Table& table : list) {
      out += table_text(table, painter, width);
    }
    return out;
  };
  std::string out = terminal_card(document, style) + "\n";
  out += heading(painter, "THE MATRIX") + tables(speed_matrices(document));
  out += tables({memory_matrix(document), memory_parts(document)});
  if (!document.findings.empty()) {
    out += heading(painter, "FINDINGS");
    for (const Finding& finding : document.findings) {
      out += painter.bold(one_line(finding.title)) + "\n" + paragraph(finding.text, width, "  ");
    }
    out += "\n";
  }
  out += heading(painter, "WHAT TO DO") + profiles_text(document, painter, width);
  out += tables({largest_table(document), knee_table(document)});
  if (!document.headline.recap.empty()) {
    out += heading(painter, "RECAP") + paragraph(document.headline.recap, width) + "\n";
  }
  out += tables({quality_table(document)});
  // The card has no room for it.
  if (document.quality && !document.quality->measured && !document.quality->reason.empty()) {
    out += heading(painter, "CORRECT ANSWERS") +
           paragraph("not measured: " + document.quality->reason, width) + "\n";
  }
  out += heading(painter, "INTEGRITY") + paragraph(integrity_sentence(document), width) + "\n";
  out += tables({integrity_table(document), warnings_table(document)}) + tables(cell_tables(document));
  if (!document.definitions.empty()) {
    out += heading(painter, "DEFINITIONS");
    for (const Definition& definition : document.definitions) {
      out += painter.bold(one_line(definition.term)) + "\n" + paragraph(definition.text, width, "  ");
    }
    out += "\n";
  }
  out += heading(painter, "WHAT WAS MEASURED, AND HOW") + tables(fact_tables(document));
  return out;
}

}  // namespace fl::report
