// The terminal and Markdown forms: shape, numbers, foreign text.
#include "report/forms.h"

#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/format.h"
#include "report/tables.h"
#include "tests/report/hostile.h"

namespace fl::report {
namespace {

using testing::HasSubstr;
using testing::Not;

Document sample() {
  return read_document(std::string(FL_SOURCE_DIR) + "/tests/report/data/sample.json").value();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(line);
  }
  return lines;
}

// Every mean rate that a cell has, as a form prints it.
std::vector<std::string> rates_of(const Document& document) {
  std::vector<std::string> rates;
  for (const Cell& cell : document.cells) {
    for (const auto& stat : {cell.decode_per_chat, cell.decode_total, cell.prefill}) {
      if (stat) {
        rates.push_back(format_rate(stat->mean));
      }
    }
  }
  return rates;
}

TEST(Format, NumbersKeepThreeDigits) {
  EXPECT_EQ(format_rate(111.4), "111");
  EXPECT_EQ(format_rate(99.96), "100");
  EXPECT_EQ(format_rate(44.06), "44.1");
  EXPECT_EQ(format_rate(9.994), "9.99");
  EXPECT_EQ(format_rate(0), "0.00");
  EXPECT_EQ(format_seconds(0.0081), "8.1 ms");
  EXPECT_EQ(format_seconds(0.26), "260 ms");
  EXPECT_EQ(format_seconds(0.9996), "1.00 s");
  EXPECT_EQ(format_seconds(450), "7 min 30 s");
  EXPECT_EQ(format_seconds(7500), "2 h 5 min");
  EXPECT_EQ(format_bytes(int64_t{184} << 30 >> 3), "23.0 GiB");
  EXPECT_EQ(format_bytes(512 << 20), "512 MiB");
  EXPECT_EQ(format_tokens(131072), "128k");
  EXPECT_EQ(format_tokens(1000),
            "1\xE2\x80\xAF"
            "000");
  EXPECT_EQ(format_tokens(512), "512");
  EXPECT_EQ(format_percent(0.764, 1), "76.4 %");
}

TEST(Format, ForeignTextIsDisarmed) {
  EXPECT_EQ(clean("a\x1b[31mb"), "a\xEF\xBF\xBD[31mb");
  EXPECT_EQ(clean("\xff\xc0"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(clean("\xe2\x80\xae"), "\xEF\xBF\xBD");  // right-to-left override
  EXPECT_EQ(clean("\xc2\x9b"), "\xEF\xBF\xBD");      // CSI as one C1 character
  EXPECT_EQ(clean("caf\xc3\xa9\n"), "caf\xc3\xa9\n");
  EXPECT_EQ(one_line("a\nb\tc"), "a b c");
  EXPECT_EQ(escape_html("<a b=\"c\">&'"), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
  EXPECT_EQ(escape_markdown("a|b`<"), "a\\|b\\`&lt;");
}

TEST(Format, ColumnsAreThoseOfATerminal) {
  EXPECT_EQ(columns("caf\xc3\xa9"), 4);
  EXPECT_EQ(columns("\xe6\xa8\xa1\xe5\x9e\x8b"), 4);  // two wide characters
  EXPECT_EQ(columns(fit("\xe6\xa8\xa1\xe5\x9e\x8b", 3)), 3);
  EXPECT_EQ(fit("ab", 4, true), "  ab");
  EXPECT_EQ(wrap("one two three", 7), (std::vector<std::string>{"one two", "three"}));
  EXPECT_EQ(wrap("one two three", 3, 2).size(), 2U);
  for (const std::string& line : wrap(std::string(300, 'x') + " y", 20)) {
    EXPECT_LE(columns(line), 20);
  }
}

void expect_card_fits(const Document& document) {
  const std::vector<std::string> lines = lines_of(terminal_card(document, {}));
  EXPECT_LE(lines.size(), 23U);
  for (const std::string& line : lines) {
    EXPECT_EQ(columns(line), 80) << line;
  }
}

TEST(Terminal, TheCardFits80x24) {
  Document document = sample();
  expect_card_fits(document);
  expect_card_fits(test::hostile_document(document));
  document.headline.verdict = std::string(4000, 'w') + " and more";
  document.model.name = "\xe6\xa8\xa1\xe5\x9e\x8b" + std::string(100, 'm');
  document.ctx.insert(document.ctx.end(), {1 << 18, 1 << 19, 1 << 20});
  document.chats.insert(document.chats.end(), {8, 16, 32});
  expect_card_fits(document);
  expect_card_fits(Document{});
}

TEST(Terminal, TheCardSaysWhatWasAsked) {
  const std::string card = terminal_card(sample(), {});
  for (const char* part : {"44.9 tok/s", "118 tok/s", "269 ms", "19 of 20", "17.3 GiB", "15.4 GiB", "128k",
                           "4 chats", "Filling the window costs speed", "279 of 279"}) {
    EXPECT_THAT(card, HasSubstr(part));
  }
}

TEST(Terminal, ColourIsOnlyWhereAskedFor) {
  EXPECT_EQ(terminal_report(sample(), {}).find('\x1b'), std::string::npos);
  EXPECT_NE(terminal_report(sample(), {true, 80}).find("\x1b[1m"), std::string::npos);
  EXPECT_EQ(terminal_report(test::hostile_document(sample()), {}).find('\x1b'), std::string::npos);
}

TEST(Terminal, EveryRateOfTheDocumentIsInTheTables) {
  const std::string text = terminal_report(sample(), {false, 200});
  for (const std::string& rate : rates_of(sample())) {
    EXPECT_THAT(text, HasSubstr(rate));
  }
}

TEST(Terminal, WhatWasNotMeasuredSaysWhy) {
  Document document = sample();
  document.quality->measured = false;
  document.quality->reason = "no sandbox here";
  document.headline.ttft_seconds.reset();
  const std::string text = terminal_report(document, {false, 120});
  EXPECT_THAT(text, HasSubstr("not measured: no sandbox here"));
  EXPECT_THAT(text, HasSubstr("does not fit"));
  EXPECT_THAT(text, HasSubstr("coefficient of variation"));
}

TEST(Markdown, HoldsEverySectionAndEveryRate) {
  const Document document = sample();
  const std::string text = markdown_report(document);
  for (const char* part : {"# sample-27B", "## The matrix", "## Findings", "## What to do", "### One person",
                           "### Long files", "### Whole codebase", "## Recap", "## Integrity",
                           "## Definitions", "## Machine", "## Method", "19 of 20"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  for (const std::string& rate : rates_of(document)) {
    EXPECT_THAT(text, HasSubstr(rate));
  }
  for (const Profile& profile : document.recommendation.profiles) {
    EXPECT_THAT(text, HasSubstr(profile.serve_command));
    EXPECT_THAT(text, HasSubstr(profile.systemd_unit));
    EXPECT_THAT(text, HasSubstr(fmt::format(". Its word is {}.\n", profile.name)));
  }
}

TEST(Markdown, TablesKeepTheirShapeUnderHostileText) {
  const std::string text = markdown_report(test::hostile_document(sample()));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  bool in_code = false;
  std::string fence;
  size_t pipes = 0;
  for (const std::string& line : lines_of(text)) {
    const size_t quotes = line.find_first_not_of('`');
    const std::string run = line.substr(0, quotes);
    if (!in_code && run.size() >= 3) {
      in_code = true;
      fence = run;
      continue;
    }
    if (in_code) {
      in_code = !(line == fence);
      continue;
    }
    EXPECT_THAT(line, Not(HasSubstr("<")));
    size_t found = 0;
    for (size_t i = 0; i < line.size(); ++i) {
      found += line[i] == '|' && (i == 0 || line[i - 1] != '\\') ? 1 : 0;
    }
    if (line.starts_with("|")) {
      EXPECT_TRUE(pipes == 0 || found == pipes) << line;
      pipes = found;
    } else {
      EXPECT_EQ(found, 0U) << line;
      pipes = 0;
    }
  }
  EXPECT_FALSE(in_code);
}

TEST(Forms, AnEmptyDocumentHasAllForms) {
  EXPECT_FALSE(terminal_report(Document{}, {}).empty());
  EXPECT_FALSE(markdown_report(Document{}).empty());
}

}  // namespace
}  // namespace fl::report
