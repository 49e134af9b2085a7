// The HTML form: one closed, well-formed file with the document's numbers, whatever the text in it.
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/format.h"
#include "report/forms.h"
#include "report/plots.h"
#include "report/svg.h"
#include "tests/report/hostile.h"

namespace fl::report {
namespace {

using testing::HasSubstr;

Document sample() {
  return read_document(std::string(FL_SOURCE_DIR) + "/tests/report/data/sample.json").value();
}

class Page {
 public:
  explicit Page(const Document& document)
      : path_(std::filesystem::temp_directory_path() / fmt::format("freelunch_page_{}.html", ::getpid())),
        text_(html_report(document)) {
    std::ofstream(path_) << text_;
  }
  ~Page() { std::filesystem::remove(path_); }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  const std::string& text() const { return text_; }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
  std::string text_;
};

struct Ran {
  int status = -1;
  std::string out;
};

Ran run(const std::string& command) {
  Ran ran;
  FILE* pipe = ::popen(command.c_str(), "r");
  std::array<char, 4096> buffer{};
  for (size_t n = ::fread(buffer.data(), 1, buffer.size(), pipe); n > 0;
       n = ::fread(buffer.data(), 1, buffer.size(), pipe)) {
    ran.out.append(buffer.data(), n);
  }
  ran.status = ::pclose(pipe);
  return ran;
}

void expect_closed_and_well_formed(const Document& document) {
  const Page page(document);
  const Ran checked =
      run(fmt::format("python3 '{}/tests/report/check_html.py' '{}' 2>&1", FL_SOURCE_DIR, page.path()));
  EXPECT_EQ(checked.status, 0) << checked.out;
  EXPECT_LT(page.text().size(), kMaxHtmlBytes);
}

TEST(Html, IsOneClosedWellFormedFile) {
  expect_closed_and_well_formed(sample());
}

TEST(Html, StaysSoUnderHostileText) {
  expect_closed_and_well_formed(test::hostile_document(sample()));
}

TEST(Html, StaysSoWhenNothingWasMeasured) {
  expect_closed_and_well_formed(Document{});
  Document cut = sample();
  cut.cells.resize(1);
  cut.configurations.resize(1);
  cut.prompts.resize(1);
  cut.quality.reset();
  expect_closed_and_well_formed(cut);
}

// Numbers may come from a file, or from a server that says what it likes.
TEST(Html, StaysSoUnderExtremeNumbers) {
  const auto with = [](double rate, int64_t count) {
    Document document = sample();
    document.run.seconds = document.run.plan.budget_seconds = rate;
    document.model.n_params = document.model.file_bytes = document.headline.memory_bytes = count;
    document.headline.decode_one_chat = document.headline.ttft_seconds = rate;
    for (Cell& cell : document.cells) {
      cell.depth_tokens = cell.n_requests = cell.n_not_ok = count;
      for (auto* stat : {&cell.decode_per_chat, &cell.decode_total, &cell.prefill, &cell.joules_per_token}) {
        *stat = Stat{count, rate, rate, rate, rate, rate, rate};
      }
      for (auto* times : {&cell.ttft, &cell.gap, &cell.end_to_end}) {
        *times = Distribution{count, rate, rate, rate, rate, rate, rate};
      }
      cell.gap_histogram = Histogram{{rate, rate, 1, 2}, {count, count, count}};
    }
    for (Configuration& each : document.configurations) {
      each.memory.bytes = count;
      for (int i = 0; i < 40; ++i) {
        each.memory.parts.push_back({fmt::format("part {}", i), count});
      }
    }
    for (PromptPoint& prompt : document.prompts) {
      prompt.prompt_tokens = count;
      prompt.ttft_seconds = prompt.tokens_per_second = rate;
    }
    return document;
  };
  for (const double rate : {1e308, -1e308, 0.0, 1e-308, double{NAN}, double{INFINITY}}) {
    for (const int64_t count : {INT64_MAX, INT64_MIN, int64_t{0}, int64_t{1}}) {
      const Document document = with(rate, count);
      EXPECT_LT(html_report(document).size(), kMaxHtmlBytes);
      EXPECT_FALSE(terminal_report(document, {}).empty());
      EXPECT_FALSE(markdown_report(document).empty());
    }
  }
  expect_closed_and_well_formed(with(1e308, INT64_MAX));
}

TEST(Html, TheLargestMatrixStaysBelowTheLimit) {
  Document document = sample();
  const Cell cell = document.cells.front();
  const Configuration configuration = document.configurations.front();
  document.cells.clear();
  document.configurations.clear();
  document.ctx.clear();
  document.chats = {1, 2, 4, 8, 16, 32};
  for (int64_t i = 1; i <= 10; ++i) {
    document.ctx.push_back(i << 14);
    for (int64_t chats : document.chats) {
      document.configurations.push_back(configuration);
      document.configurations.back().ctx = i << 14;
      document.configurations.back().chats = chats;
      for (const std::string& depth : document.depths) {
        document.cells.push_back(cell);
        document.cells.back().ctx = i << 14;
        document.cells.back().chats = chats;
        document.cells.back().depth = depth;
      }
    }
  }
  expect_closed_and_well_formed(document);
}

TEST(Html, EveryNumberOfTheDocumentIsThereInFull) {
  const Document document = sample();
  const std::string text = html_report(document);
  const auto has = [&](double value) { EXPECT_THAT(text, HasSubstr(fmt::format("data-v=\"{}\"", value))); };
  for (const Cell& cell : document.cells) {
    for (const auto& stat : {cell.decode_per_chat, cell.decode_total, cell.prefill}) {
      if (stat) {
        has(stat->mean);
        EXPECT_THAT(text, HasSubstr(fmt::format(">{}<", format_rate(stat->mean))));
      }
    }
    for (const auto& times : {cell.ttft, cell.gap, cell.end_to_end}) {
      if (times) {
        has(times->p50);
      }
    }
  }
  for (const Configuration& each : document.configurations) {
    if (each.memory.bytes) {
      has(static_cast<double>(*each.memory.bytes));
    }
  }
  has(*document.headline.decode_one_chat);
  has(*document.headline.ttft_seconds);
}

TEST(Html, HoldsEverySection) {
  const Document document = sample();
  const std::string text = html_report(document);
  for (const char* part :
       {"The matrix", "Findings", "What to do", "Speed against chats", "Memory against context",
        "Speed against the filled window", "Wait before the first token", "Time between tokens", "Recap",
        "Integrity", "Every cell", "Definitions", "Machine", "Method", "19 of 20"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  for (const Finding& finding : document.findings) {
    EXPECT_THAT(text, HasSubstr(escape_html(finding.title)));
  }
  for (const Profile& profile : document.recommendation.profiles) {
    EXPECT_THAT(text, HasSubstr(escape_html(profile.serve_command)));
    EXPECT_THAT(text, HasSubstr(escape_html(profile.systemd_unit)));
    EXPECT_THAT(text, HasSubstr(escape_html(profile.llama_server_command)));
    EXPECT_THAT(text, HasSubstr(escape_html(profile.client_snippet)));
  }
}

TEST(Html, ARunThatCannotBeTrustedSaysSoOnTop) {
  Document document = sample();
  document.integrity.valid = false;
  document.integrity.reason = "7 of 279 requests failed";
  document.run.complete = false;
  document.run.stop_reason = "the disk is full";
  document.model.random_weights = true;
  const std::string text = html_report(document);
  const std::string top = text.substr(0, text.find("<main>"));
  EXPECT_THAT(top, HasSubstr("not valid: 7 of 279 requests failed"));
  EXPECT_THAT(top, HasSubstr("Not complete: the disk is full"));
  EXPECT_THAT(top, HasSubstr("Random weights"));
  EXPECT_THAT(top, HasSubstr("quality means nothing"));
}

TEST(Plots, DrawOnlyWhatWasMeasured) {
  Document document = sample();
  EXPECT_EQ(speed_against_chats(document).panels.size(), document.depths.size());
  EXPECT_EQ(heat_map(document).panels.size(), document.depths.size() + 1);
  document.prompts.clear();
  EXPECT_TRUE(ttft_against_prompt(document).panels.empty());
  for (Cell& cell : document.cells) {
    cell.gap_histogram.reset();
    cell.decode_total.reset();
    cell.decode_per_chat.reset();
  }
  EXPECT_TRUE(latency_distribution(document).panels.empty());
  EXPECT_TRUE(speed_against_chats(document).panels.empty());
  EXPECT_TRUE(speed_against_depth(document).panels.empty());
  EXPECT_TRUE(heat_map(document).panels.empty());
  for (Configuration& each : document.configurations) {
    each.memory = {};
  }
  EXPECT_TRUE(memory_against_context(document).panels.empty());
}

TEST(Svg, TicksAreRoundAndCoverTheRange) {
  EXPECT_THAT(ticks_from_zero(118, 5), testing::ElementsAre(0, 25, 50, 75, 100, 125));
  EXPECT_THAT(ticks_from_zero(131072, 5, true), testing::ElementsAre(0, 32768, 65536, 98304, 131072));
  EXPECT_EQ(ticks_from_zero(0, 5).size(), 2U);
  for (double max : {1e-6, 0.3, 7.0, 99.0, 1e9}) {
    const auto ticks = ticks_from_zero(max, 5);
    EXPECT_GE(ticks.back(), max * 0.999999);
    EXPECT_LE(ticks.size(), 6U);
    const auto between = log_ticks(max, max * 50);
    EXPECT_GE(between.size(), 3U);
    EXPECT_LE(between.size(), 7U);
  }
}

TEST(Svg, LabelsAreMovedApartAndKeepTheirOrder) {
  EXPECT_THAT(spread_labels({10, 100}, 14, 0, 200), testing::ElementsAre(10, 100));
  const auto placed = spread_labels({50, 51, 49, 50}, 14, 0, 200);
  EXPECT_LT(placed[2], placed[0]);
  EXPECT_LT(placed[0], placed[3]);
  EXPECT_LT(placed[3], placed[1]);
  EXPECT_NEAR(placed[0] - placed[2], 14, 1e-9);
  EXPECT_NEAR((placed[2] + placed[1]) / 2, 50, 1e-9);
  for (double y : spread_labels({0, 0, 0}, 14, 0, 200)) {
    EXPECT_GE(y, 0);
  }
}

// Only where Chromium is: the page as a browser sees it. Everything else is checked without one.
class InBrowser : public testing::Test {
 protected:
  void SetUp() override {
    if (::access("/usr/bin/chromium", X_OK) != 0) {
      GTEST_SKIP() << "no /usr/bin/chromium";
    }
  }
  static std::string dom(const Page& page, const std::string& flags = "") {
    const auto profile =
        std::filesystem::temp_directory_path() / fmt::format("freelunch_chromium_{}", ::getpid());
    const Ran ran = run(fmt::format(
        "timeout 60 /usr/bin/chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync --user-data-dir='{}' {} "
        "--dump-dom 'file://{}' 2>/dev/null",
        profile.string(), flags, page.path()));
    std::filesystem::remove_all(profile);
    EXPECT_EQ(ran.status, 0);
    return ran.out;
  }
  static size_t count(const std::string& text, std::string_view what) {
    size_t n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
      ++n;
    }
    return n;
  }
};

TEST_F(InBrowser, TheScriptRunsUnderThePagesOwnPolicy) {
  const Page page(sample());
  const std::string with = dom(page);
  EXPECT_THAT(with, HasSubstr(">Enlarge</button>"));
  EXPECT_THAT(with, HasSubstr(">Copy</button>"));
  EXPECT_THAT(with, HasSubstr("data-tip="));
}

TEST_F(InBrowser, HostileTextMakesNoElements) {
  const Page page(test::hostile_document(sample()));
  const std::string text = dom(page);
  EXPECT_EQ(count(text, "<script"), 1U);
  EXPECT_EQ(count(text, "<img"), 0U);
  EXPECT_THAT(text, HasSubstr(">Enlarge</button>"));
}

}  // namespace
}  // namespace fl::report
