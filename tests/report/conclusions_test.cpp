// From records to cells, findings, knees and profiles; each with data that supports it and data that does
// not.
#include <algorithm>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/assemble.h"
#include "report/compare.h"
#include "report/profiles.h"
#include "tests/report/synthetic.h"

namespace fl::report {
namespace {

using test::World;
using testing::HasSubstr;

Document document_of(const World& world) {
  return assemble(test::manifest_of(world), test::records_of(world), "stopped");
}

const Finding* finding(const Document& document, std::string_view id) {
  const auto found = std::find_if(document.findings.begin(), document.findings.end(),
                                  [&](const Finding& f) { return f.id == id; });
  return found == document.findings.end() ? nullptr : &*found;
}

TEST(Assemble, CellsAndIntegrityOfACompleteRun) {
  const Document document = document_of({});
  EXPECT_TRUE(document.run.complete);
  EXPECT_TRUE(document.integrity.valid);
  EXPECT_EQ(document.cells.size(), 45U);
  EXPECT_EQ(document.integrity.n_requests, 5 * 3 * 3 * (1 + 2 + 4));
  const Cell* cell = find_cell(document, 16384, 2, "empty");
  ASSERT_NE(cell, nullptr);
  EXPECT_NEAR(cell->decode_total->mean, 2 / 0.02202, 0.1);
  EXPECT_NEAR(cell->decode_per_chat->mean, 1 / 0.02202, 0.1);
  EXPECT_NEAR(cell->decode_total->cv, 0.005, 1e-4);
  EXPECT_EQ(cell->gap->n, 3 * 2 * 127);
  EXPECT_NEAR(cell->gap->p50, 0.02202, 1e-4);
  EXPECT_TRUE(cell->flags.empty());
}

TEST(Assemble, IsAFunctionOfTheRecordsAndKnowsNoOrderOfInterruption) {
  const World world;
  std::vector<Record> records = test::records_of(world);
  const std::string straight = to_json(assemble(test::manifest_of(world), records, ""));
  // As after a kill: every record survives its line, and one batch was measured again by mistake.
  std::vector<Record> reread;
  for (const Record& record : records) {
    auto again = record_from_line(to_line(record));
    ASSERT_TRUE(again) << again.error().message;
    reread.push_back(std::move(*again));
  }
  Batch twice = test::batch_of(world, 16384, 1, "empty", 1);
  twice.decode_total = 1;
  reread.push_back(twice);
  EXPECT_EQ(to_json(assemble(test::manifest_of(world), reread, "")), straight);
}

TEST(Assemble, WhatWasNotMeasuredSaysWhy) {
  World world;
  world.fits = [](int64_t ctx, int64_t chats) { return ctx < 131072 || chats < 4; };
  std::vector<Record> records = test::records_of(world);
  records.push_back(Lost{98304, 4, "the server ended while it was measured"});
  std::erase_if(records, [](const Record& record) {
    const auto* batch = std::get_if<Batch>(&record);
    return batch != nullptr &&
           ((batch->ctx == 98304 && batch->chats == 4) || (batch->ctx == 65536 && batch->chats == 1));
  });
  const Document document = assemble(test::manifest_of(world), records, "interrupted");
  EXPECT_EQ(find_cell(document, 131072, 4, "full")->status, "failed");
  EXPECT_THAT(find_cell(document, 131072, 4, "full")->reason, HasSubstr("does not fit"));
  EXPECT_EQ(find_cell(document, 98304, 4, "half")->status, "failed");
  EXPECT_EQ(find_cell(document, 65536, 1, "empty")->status, "missing");
  EXPECT_FALSE(document.run.complete);
  EXPECT_EQ(document.run.stop_reason, "interrupted");
  const auto& largest = document.recommendation.largest;
  ASSERT_EQ(largest.size(), 3U);
  EXPECT_EQ(largest[2].ctx, 65536);
  EXPECT_FALSE(largest[2].at_end);
}

TEST(Assemble, SpreadAndFailuresFlagTheCellAndInvalidateTheRun) {
  World world;
  world.noise = 0.1;
  std::vector<Record> records = test::records_of(world);
  int n_spoilt = 0;
  for (Record& record : records) {
    auto* batch = std::get_if<Batch>(&record);
    if (batch != nullptr && batch->ctx == 16384 && batch->chats == 4 && batch->depth == "full") {
      batch->samples.front().status = "truncated";
      batch->flags.push_back({"truncated", "the answer ended without a finish_reason"});
      ++n_spoilt;
    }
  }
  Document document = assemble(test::manifest_of(world), records, "");
  const Cell* cell = find_cell(document, 16384, 4, "full");
  EXPECT_EQ(cell->n_not_ok, n_spoilt);
  const auto has = [&](const char* code) {
    return std::any_of(cell->flags.begin(), cell->flags.end(),
                       [&](const Flag& flag) { return flag.code == code; });
  };
  EXPECT_TRUE(has("spread"));
  EXPECT_TRUE(has("truncated"));
  EXPECT_TRUE(document.integrity.valid);  // 3 of 315
  EXPECT_EQ(document.integrity.n_truncated, 3);
  for (Record& record : records) {
    if (auto* batch = std::get_if<Batch>(&record);
        batch != nullptr && batch->ctx == 32768 && batch->chats == 1) {
      batch->samples.front().status = "error";
    }
  }
  document = assemble(test::manifest_of(world), records, "");
  EXPECT_FALSE(document.integrity.valid);
  EXPECT_THAT(document.integrity.reason, HasSubstr("12 of 315"));
  EXPECT_THAT(document.headline.verdict, HasSubstr("not valid"));
}

TEST(Assemble, AWarningOfSomeBatchesSaysOfHowMany) {
  World world;
  world.ctx = {16384};
  world.chats = {1};
  world.depths = {"full"};
  const auto text_with = [&](int64_t n_spoilt) {
    std::vector<Record> records = test::records_of(world);
    for (Record& record : records) {
      if (auto* batch = std::get_if<Batch>(&record); batch != nullptr && batch->repeat <= n_spoilt) {
        batch->flags.push_back({"refilled", "read again"});
      }
    }
    return assemble(test::manifest_of(world), records, "").cells.front().flags.front().text;
  };
  EXPECT_EQ(text_with(1), "read again (in 1 of 3 batches)");
  EXPECT_EQ(text_with(3), "read again");
}

// Each measure that varies has a code of its own, and the others none.
TEST(Assemble, SpreadIsFlaggedForTheMeasureThatVaries) {
  const auto flags_with = [](double decode, double prefill, double energy) {
    World world;
    world.ctx = {16384};
    world.chats = {1};
    world.depths = {"empty"};
    std::vector<Record> records = test::records_of(world);
    for (Record& record : records) {
      if (auto* batch = std::get_if<Batch>(&record)) {
        const auto away = static_cast<double>(batch->repeat - 2);
        batch->decode_total = 100 * (1 + decode * away);
        batch->prefill_total = 2000 * (1 + prefill * away);
        batch->joules = 1 + energy * away;
      }
    }
    const Document document = assemble(test::manifest_of(world), records, "");
    std::vector<std::string> codes;
    for (const Flag& flag : document.cells.front().flags) {
      codes.push_back(flag.code);
    }
    EXPECT_EQ(document.integrity.n_cells_flagged, codes.empty() ? 0 : 1);
    return codes;
  };
  using testing::ElementsAre;
  EXPECT_THAT(flags_with(0.04, 0.04, 0.04), ElementsAre());
  EXPECT_THAT(flags_with(0.06, 0.04, 0.04), ElementsAre("spread"));
  EXPECT_THAT(flags_with(0.04, 0.06, 0.04), ElementsAre("spread_prefill"));
  EXPECT_THAT(flags_with(0.04, 0.04, 0.06), ElementsAre("spread_energy"));
  EXPECT_THAT(flags_with(0.06, 0.06, 0.06), ElementsAre("spread", "spread_prefill", "spread_energy"));
}

TEST(Findings, SayWhatTheCellsShow) {
  const Document document = document_of({});
  ASSERT_NE(finding(document, "context_size"), nullptr);
  EXPECT_THAT(finding(document, "context_size")->title, HasSubstr("costs no speed"));
  ASSERT_NE(finding(document, "depth"), nullptr);
  EXPECT_THAT(finding(document, "depth")->title, HasSubstr("costs speed"));
  ASSERT_NE(finding(document, "chats"), nullptr);
  EXPECT_THAT(finding(document, "chats")->title,
              HasSubstr("4 chats together are 3.5 times as fast as one chat"));
}

TEST(Findings, SayTheOppositeWhenThatIsTrue) {
  World world;
  world.step = [](int64_t ctx, int64_t chats, int64_t) {
    return static_cast<double>(chats) * (0.02 + 1e-7 * static_cast<double>(ctx));
  };
  const Document document = document_of(world);
  EXPECT_THAT(finding(document, "context_size")->title, HasSubstr("costs speed even when it is empty"));
  EXPECT_THAT(finding(document, "depth")->title, HasSubstr("as fast as an empty one"));
  EXPECT_THAT(finding(document, "chats")->title, HasSubstr("add no speed"));
}

TEST(Findings, AreNotPrintedWhenTheRepeatsVaryTooMuch) {
  World world;
  world.noise = 0.6;
  world.step = [](int64_t ctx, int64_t chats, int64_t depth) {
    return (0.02 + 4e-8 * static_cast<double>(ctx) + 2e-8 * static_cast<double>(depth)) *
           (1 - 0.05 * static_cast<double>(chats));
  };
  world.chats = {1};
  const Document document = document_of(world);
  EXPECT_EQ(finding(document, "context_size"), nullptr);
  EXPECT_EQ(finding(document, "depth"), nullptr);
  EXPECT_EQ(finding(document, "chats"), nullptr);  // one number of chats says nothing about chats
}

TEST(Recommendation, NamesWhatLimitsFromTheCeilings) {
  World world;
  world.step = [](int64_t, int64_t, int64_t) { return 0.020; };
  Manifest manifest = test::manifest_of(world);
  manifest.model.weight_bytes_per_step = 16'000'000'000;
  manifest.model.ops_per_token = 54'000'000'000;
  std::vector<Record> records = test::records_of(world);
  const auto limit = [&](double bytes, double ops) {
    std::get<RunRecord>(records.front()).ceilings = Ceilings{bytes, ops, "test"};
    return assemble(manifest, records, "").recommendation.knees.front();
  };
  EXPECT_EQ(limit(1e12, 1e15).limit, "bytes");         // 16 ms of 20
  EXPECT_EQ(limit(1e13, 1.2e13).limit, "operations");  // 18 ms of 20
  EXPECT_EQ(limit(1e13, 1e15).limit, "launches");
  EXPECT_EQ(limit(1e11, 1e15).limit, "launches");  // eight times the bandwidth: the weights are in a cache
  EXPECT_TRUE(limit(1e12, 1e15).at_end);
}

TEST(Recommendation, AContextLeftOutForTimeIsNotOneThatDoesNotFit) {
  World world;
  std::vector<Record> records = test::records_of(world);
  const auto largest_with = [&](const char* code) {
    std::vector<Record> cut = records;
    std::erase_if(cut, [](const Record& record) {
      const auto* batch = std::get_if<Batch>(&record);
      return batch != nullptr && batch->ctx == 131072 && batch->chats == 1;
    });
    cut.push_back(ConfigPlan{
        131072, 1, {}, 3, 0, {{"empty", code, "why"}, {"half", code, "why"}, {"full", code, "why"}}});
    return assemble(test::manifest_of(world), cut, "").recommendation.largest.front();
  };
  EXPECT_EQ(largest_with(kCutBudget).ctx, 98304);
  EXPECT_TRUE(largest_with(kCutBudget).at_end);
  EXPECT_FALSE(largest_with(kCutWindow).at_end);
}

TEST(Recommendation, FindsTheKneeAndMemory) {
  World world;
  world.step = [](int64_t, int64_t chats, int64_t) { return chats <= 2 ? 0.02 : 0.039; };
  const Document document = document_of(world);
  EXPECT_EQ(document.recommendation.knees.front().chats, 2);
  EXPECT_FALSE(document.recommendation.knees.front().at_end);
  EXPECT_EQ(document.recommendation.knees.front().limit, "unknown");  // no ceilings: no name
  World small;
  small.fits = [](int64_t, int64_t chats) { return chats < 4; };
  EXPECT_EQ(document_of(small).recommendation.knees.front().limit, "memory");
}

TEST(Profiles, CommandsAreThoseThatWereMeasured) {
  const Document document = document_of({});
  const auto& profiles = document.recommendation.profiles;
  ASSERT_EQ(profiles.size(), 4U);
  for (const Profile& profile : profiles) {
    EXPECT_THAT(profile.args, testing::ElementsAre("--model", "/models/test 27B.gguf", "--ctx-size",
                                                   std::to_string(profile.ctx), "--parallel",
                                                   std::to_string(profile.chats), "-ctk", "q8_0"));
    EXPECT_THAT(profile.serve_command, HasSubstr("freelunch serve --model '/models/test 27B.gguf'"));
    EXPECT_THAT(profile.systemd_unit,
                HasSubstr("ExecStart=/usr/bin/freelunch serve --model '/models/test 27B.gguf'"));
    const Cell* cell = nullptr;
    for (const Cell& candidate : document.cells) {
      cell = candidate.id == profile.cell ? &candidate : cell;
    }
    ASSERT_NE(cell, nullptr);
    EXPECT_EQ(profile.expected_decode_per_chat, cell->decode_per_chat->mean);
  }
  EXPECT_EQ(profiles[2].ctx, 131072);
  EXPECT_EQ(profiles[3].chats, 4);
  // What many agents get in filled windows is said beside it, as far as it was measured.
  EXPECT_THAT(profiles[3].reason,
              testing::ContainsRegex("empty window, and [0-9]+ tok/s with [0-9]+ tokens in it"));
  World empty;
  empty.depths = {"empty"};
  EXPECT_THAT(document_of(empty).recommendation.profiles.back().reason,
              HasSubstr("filled ones were not measured"));
}

TEST(Profiles, ClientsNameTheModelAsItIsServed) {
  for (const auto& [more_args, name] :
       {std::pair{"", "test-27B"}, {" --alias qwen35", "qwen35"}, {" -a qwen35,local", "qwen35"}}) {
    World world;
    world.more_args = more_args;
    for (const Profile& profile : document_of(world).recommendation.profiles) {
      EXPECT_THAT(profile.client_snippet, HasSubstr(fmt::format("model=\"{}\"", name)));
    }
  }
}

TEST(Profiles, AreReadFromAReport) {
  const std::string path = testing::TempDir() + "/profiles-report.json";
  std::ofstream(path) << to_json(document_of({}));
  const auto coding = read_profile(path, "coding");
  ASSERT_TRUE(coding) << coding.error().message;
  EXPECT_EQ(coding->chats, 1);
  const auto none = read_profile(path, "gaming");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(none.error().message, HasSubstr("chat, long-files, coding, agents"));
  EXPECT_EQ(read_profile("/nowhere/report.json", "chat").error().code, ErrorCode::not_found);
}

TEST(Compare, ShowsWhatChangedAndWhatItDid) {
  const World world;
  World faster;
  faster.step = [](int64_t, int64_t chats, int64_t) { return 0.010 + 0.0005 * static_cast<double>(chats); };
  Manifest manifest = test::manifest_of(world);
  const Document before = assemble(manifest, test::records_of(world), "");
  manifest.machine.cpu = "Other CPU";
  const Document after = assemble(manifest, test::records_of(faster), "");
  const Comparison comparison = compare(before, after);
  ASSERT_EQ(comparison.changes.size(), 1U);
  EXPECT_EQ(comparison.changes[0].before, "Test CPU");
  EXPECT_EQ(comparison.cells.size(), 45U);
  EXPECT_NEAR(*comparison.cells[0].decode_change, 1, 0.05);
  EXPECT_TRUE(comparison.cells[0].beyond_spread);
  EXPECT_FALSE(compare(before, before).cells[0].beyond_spread);
  EXPECT_THAT(comparison_text(compare(before, before)), HasSubstr("Nothing that the reports record changed"));
}

TEST(Records, ADifferenceNamesTheFields) {
  Manifest before = test::manifest_of({});
  Manifest now = before;
  EXPECT_EQ(difference(before, now), "");
  now.options.repeats = 5;
  now.machine.cpu = "Other CPU";
  const std::string text = difference(before, now);
  EXPECT_THAT(text, HasSubstr("options/repeats was 3, now 5"));
  EXPECT_THAT(text, HasSubstr(R"(machine/cpu was "Test CPU", now "Other CPU")"));
  EXPECT_FALSE(record_from_line(R"({"type": "nobody"})"));
  EXPECT_FALSE(record_from_line("[]"));
  EXPECT_FALSE(record_from_line(R"({"type": "lost", "ctx": 1, "chats": 2})"));
}

}  // namespace
}  // namespace fl::report
