// A machine that changes its state: repeats are compared with repeats of the same state, and a profile that
// is measured again is judged by them.
#include <cmath>
#include <random>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/again.h"
#include "report/assemble.h"
#include "report/states.h"
#include "report/yardstick.h"
#include "tests/report/replay.h"

namespace fl::report {
namespace {

using testing::HasSubstr;

constexpr double kMicro = 1e-6;
constexpr double kGiga = 1e9;

// What was seen on two virtual cores: close to each other, and apart.
const Yardstick kNear{0.06 * kMicro, 31 * kGiga, 7.3 * kGiga};
const Yardstick kFar{0.29 * kMicro, 42 * kGiga, 7.3 * kGiga};

Repeat repeat(double rate, const Yardstick& before, const Yardstick& after, double foreign = 0) {
  return {1, rate, foreign, {before.handover_seconds}, {before, after}};
}
Repeat near(double rate) {
  return repeat(rate, kNear, kNear);
}
Repeat far(double rate) {
  return repeat(rate, kFar, kFar);
}

TEST(States, AreCutWhereReadingsLieApart) {
  Yardstick a_little = kNear;
  a_little.handover_seconds *= 1.1;
  Yardstick other_path = kFar;
  other_path.read_bytes_per_second = 57 * kGiga;
  Yardstick one_core = kNear;
  one_core.multiplies_per_second /= 2;  // both threads on one real core
  const std::vector<Yardstick> readings{kFar, kNear, other_path, a_little, one_core};
  EXPECT_EQ(states_of(readings, false).size(), 3U);
  const std::vector<MachineState> states = states_of(readings, true);
  ASSERT_EQ(states.size(), 4U);
  EXPECT_EQ(state_of(states, repeat(1, kNear, a_little)), 1U);
  EXPECT_EQ(state_of(states, repeat(1, one_core, one_core)), 0U);
  EXPECT_EQ(state_of(states, repeat(1, kFar, kFar)), 2U);
  EXPECT_EQ(state_of(states, repeat(1, kFar, kNear)), std::nullopt);  // it changed meanwhile
  EXPECT_EQ(state_of(states, repeat(1, kFar, other_path)), std::nullopt);
  EXPECT_EQ(state_of(states, repeat(1, kFar, kFar, 0.2)), std::nullopt);  // others were at work
  EXPECT_EQ(state_of(states, Repeat{1, 1, 0, {}, {}}), std::nullopt);
  Repeat there_and_back = repeat(1, kFar, kFar);
  EXPECT_TRUE(state_of(states, there_and_back));
  there_and_back.handovers = {kFar.handover_seconds, kNear.handover_seconds, kFar.handover_seconds};
  EXPECT_EQ(state_of(states, there_and_back), std::nullopt);
  EXPECT_THAT(state_text(states, 1), HasSubstr("0.06 us, 7.3 G mul/s"));
  EXPECT_THAT(state_text(states, 3), HasSubstr("0.29 us, 57 GB/s"));
  EXPECT_EQ(state_text(states_of(std::vector{kNear, kFar}, true), 1), "0.29 us");
}

TEST(States, TheSameSpeedInOtherSharesOfTheStatesIsTheSame) {
  const std::vector<Repeat> then{near(3050), near(3080), near(3010), far(2150)};
  const std::vector<Repeat> now{far(2160), far(2140), far(2170), far(2130), near(3060), near(3030)};
  const Alike alike = compare_alike(then, now, false);
  ASSERT_TRUE(alike.change);
  EXPECT_NEAR(*alike.change, 0, 0.01);
  EXPECT_GT(alike.error, std::abs(*alike.change));
  EXPECT_LT(alike.error, 0.05);
  EXPECT_EQ(alike.n_then, 4U);
  EXPECT_EQ(alike.n_now, 6U);
}

TEST(States, ASlowerProgramIsSlowerInEachOfThem) {
  const std::vector<Repeat> then{near(3050), near(3010), far(2150), far(2140)};
  const std::vector<Repeat> now{far(1940), near(2740), near(2720), near(2700), near(2730)};
  const Alike alike = compare_alike(then, now, false);
  ASSERT_TRUE(alike.change);
  EXPECT_NEAR(*alike.change, -0.1, 0.01);  // although the mean fell by less
}

TEST(States, NothingIsSaidWhereTheMachineWasNeverAlike) {
  const std::vector<Repeat> then{near(3050), near(3010)};
  std::vector<Repeat> now{far(2150), far(2140), far(2160)};
  EXPECT_FALSE(compare_alike(then, now, false).change);
  // A glimpse of the state of then says little.
  Repeat mostly_far = far(2300);
  mostly_far.handovers = {kFar.handover_seconds, kFar.handover_seconds, kNear.handover_seconds};
  now.push_back(mostly_far);
  EXPECT_EQ(judge(compare_alike(then, now, false)), Judgement::unknown);
}

// The machine changed in the middle of every repeat, in other shares then and now.
TEST(States, RepeatsInSeveralStatesAreComparedByTheirShares) {
  const auto mixed = [](double n_far, double speed) {
    Repeat out = repeat(speed / (1 + 0.4 * n_far / 8), kNear, kNear);
    out.handovers.assign(8, kNear.handover_seconds);
    std::fill_n(out.handovers.begin(), static_cast<int>(n_far), kFar.handover_seconds);
    return out;
  };
  const std::vector<Repeat> then{mixed(1, 3000), mixed(2, 3020), mixed(4, 2980), mixed(2, 3000),
                                 mixed(3, 3010)};
  std::vector<Repeat> now;
  for (int i = 0; i < 12; ++i) {
    now.push_back(mixed(4 + i % 5, i % 2 == 0 ? 3010 : 2990));
  }
  const Alike same = compare_alike(then, now, false);
  ASSERT_TRUE(same.change);
  EXPECT_NEAR(*same.change, 0, 0.015);
  EXPECT_LT(same.error, 0.05);
  EXPECT_EQ(judge(same), Judgement::holds);
  for (Repeat& each : now) {
    each.decode_total *= 0.9;
  }
  EXPECT_NEAR(compare_alike(then, now, false).change.value_or(0), -0.1, 0.015);
  EXPECT_EQ(judge(compare_alike(then, now, false)), Judgement::differs);
}

TEST(States, TheClockCounts) {
  Yardstick slow = kNear;
  slow.multiplies_per_second *= 0.8;
  std::vector<Repeat> then;
  std::vector<Repeat> now;
  for (int i = 0; i < 6; ++i) {
    const double noise = i % 2 == 0 ? 1.01 : 0.99;
    then.push_back(i < 4 ? near(noise * 3000) : repeat(noise * 2400, slow, slow));
    now.push_back(i < 1 ? near(noise * 3000) : repeat(noise * 2400, slow, slow));
  }
  const Alike alike = compare_alike(then, now, false);
  ASSERT_TRUE(alike.change);
  EXPECT_NEAR(*alike.change, 0, 0.02);
  EXPECT_LT(alike.error, 0.04);
}

// Three repeats of then lie almost in one state, and tell its factor badly; other cells know it.
TEST(States, OtherCellsTellWhatAConditionDoes) {
  std::mt19937_64 random(7);
  const auto noise = [&] { return 1 + 0.04 * (static_cast<double>(random() >> 11) * 0x1p-53 - 0.5); };
  const auto slow = [](double by) {
    Yardstick out = kNear;
    out.multiplies_per_second *= by;
    return out;
  };
  // The speed goes with half of the clock.
  const auto at = [&](double speed, double clock) {
    return repeat(noise() * speed * std::sqrt(clock), slow(clock), slow(clock));
  };
  CellsRepeats others;
  for (int cell = 0; cell < 20; ++cell) {
    others.push_back({at(100 * (cell + 1), 1), at(100 * (cell + 1), 0.9), at(100 * (cell + 1), 0.8)});
  }
  const std::vector<Repeat> then{at(3000, 0.98), at(3000, 1), at(3000, 0.99), at(3000, 0.98)};
  std::vector<Repeat> now;
  for (int i = 0; i < 8; ++i) {
    now.push_back(at(3000, 0.82 + 0.005 * i));
  }
  const Alike alone = compare_alike(then, now, false);
  const Alike helped = compare_alike(then, now, false, {}, others);
  ASSERT_TRUE(helped.change);
  EXPECT_NEAR(*helped.change, 0, 0.02);
  EXPECT_LT(helped.error, 0.03);
  ASSERT_TRUE(alone.change);
  EXPECT_GT(alone.error, 2 * helped.error);
  for (Repeat& each : now) {
    each.decode_total *= 0.9;
  }
  EXPECT_NEAR(compare_alike(then, now, false, {}, others).change.value_or(0), -0.1, 0.02);
}

// Hand-overs, clock and caches stay as they are, and the server waits for threads that wake slowly.
TEST(States, WakeUpsCount) {
  std::mt19937 random(3);
  std::normal_distribution<double> noise(0, 0.01);
  const auto with = [&](double wakeups) {
    Yardstick reading = kNear;
    reading.wakeups_per_second = wakeups;
    Repeat out = repeat(100 * std::pow(wakeups / 1e5, 0.4) * std::exp(noise(random)), reading, reading);
    out.wakeups = {wakeups, wakeups};
    return out;
  };
  std::vector<Repeat> then;
  std::vector<Repeat> now;
  for (int i = 0; i < 12; ++i) {
    then.push_back(with(i % 4 == 0 ? 1.5e5 : 1e5));
    now.push_back(with(i % 4 == 0 ? 1e5 : 1.5e5));
  }
  const Alike alike = compare_alike(then, now, false);
  ASSERT_TRUE(alike.change);
  EXPECT_NEAR(*alike.change, 0, 0.02);
  EXPECT_LT(alike.error, 0.03);
  // A report of before has none: the same factors on both sides, without it.
  for (Repeat& each : then) {
    each.wakeups.reset();
    for (Yardstick& reading : each.beside) {
      reading.wakeups_per_second.reset();
    }
  }
  EXPECT_GT(compare_alike(then, now, false).change.value_or(0), 0.05);
}

// They say nothing where they met other conditions, or none.
TEST(States, OtherCellsWithoutYardsticksSayNothing) {
  const std::vector<Repeat> then{near(3050), near(3080), near(3010), far(2150)};
  const std::vector<Repeat> now{far(2160), far(2140), far(2170), far(2130), near(3060), near(3030)};
  const CellsRepeats others{{{1, 100, 0, {}, {}}, {2, 300, 0, {}, {}}}, {}};
  const Alike alone = compare_alike(then, now, false);
  const Alike same = compare_alike(then, now, false, {}, others);
  EXPECT_EQ(same.change, alone.change);
  EXPECT_EQ(same.error, alone.error);
}

TEST(States, RepeatsBesideWhichOthersWereAtWorkAreLeftOut) {
  const std::vector<Repeat> then{near(3000), near(3010), repeat(1500, kNear, kNear, 0.3)};
  const Alike alike = compare_alike(then, std::vector<Repeat>{near(3000), near(3010)}, false);
  EXPECT_EQ(alike.n_then, 2U);
  EXPECT_NEAR(alike.change.value_or(1), 0, 0.01);
}

TEST(Judge, HoldsOnlyWhatIsKnown) {
  Alike alike;
  EXPECT_EQ(judge(alike), Judgement::unknown);
  const auto of = [&](double change, double error) {
    alike.change = change;
    alike.error = error;
    return judge(alike);
  };
  EXPECT_EQ(of(0.03, 0.04), Judgement::holds);
  EXPECT_EQ(of(-0.01, 0.08), Judgement::unknown);
  EXPECT_EQ(of(-0.07, 0.04), Judgement::differs);
  EXPECT_EQ(of(-0.08, 0.06), Judgement::unknown);
  EXPECT_EQ(of(-0.2, 0.1), Judgement::differs);
}

TEST(States, WithoutYardsticksAllRepeatsAreAlike) {
  const std::vector<Repeat> then{{1, 100, 0, {}, {}}, {2, 102, 0, {}, {}}};
  const std::vector<Repeat> now{{1, 111, 0, {}, {}}, {2, 111, 0, {}, {}}};
  const Alike alike = compare_alike(then, now, true);
  ASSERT_TRUE(alike.change);
  EXPECT_NEAR(*alike.change, 0.1, 0.005);
  EXPECT_EQ(alike.n_now, 2U);
  // One side alone has nothing to be held against.
  EXPECT_TRUE(compare_alike(then, std::vector<Repeat>{near(110)}, true).change);
}

TEST(States, ASpreadIsExplainedByThem) {
  Cell cell;
  cell.id = "1024x1 empty";
  cell.flags = {{"spread", "decode tok/s vary by 20 % over 3 repeats"}};
  cell.repeats = {near(3050), near(3010), far(2150)};
  std::vector<Cell> cells{cell};
  explain_spread(cells, false);
  EXPECT_THAT(cells.front().flags.front().text,
              HasSubstr("0.06 us: 3030 tok/s (2), 0.29 us: 2150 tok/s (1)"));
  Document document;
  document.cells = cells;
  EXPECT_THAT(run_states_text(document), HasSubstr("0.06 us beside 67 %, 0.29 us beside 33 %"));
  document.cells.front().repeats = {near(3050), near(3010)};
  EXPECT_EQ(run_states_text(document), "");
}

TEST(States, MemoryMattersToAModelThatTheCacheDoesNotHold) {
  Document document;
  document.model.file_bytes = 20'000'000;
  EXPECT_FALSE(reads_memory(document));  // no word about the cache
  document.machine.cache_bytes = 32 << 20;
  EXPECT_FALSE(reads_memory(document));
  document.model.weight_bytes_per_step = 40'000'000;
  EXPECT_TRUE(reads_memory(document));
}

// Where its memory lies makes readings up to a tenth faster or slower: they go through many places, so that
// another process reads the same.
TEST(YardstickMeter, ReadsAnotherPlaceEachTime) {
  YardstickMeter meter;
  std::set<const uint64_t*> places;
  for (int i = 0; i < 8; ++i) {
    places.insert(meter.next_cached());
  }
  EXPECT_EQ(places.size(), 8U);
  for (int i = 0; i < 200; ++i) {
    places.insert(meter.next_cached());  // and begins again in time
  }
  EXPECT_LE(places.size(), 64U);
}

TEST(YardstickMeter, ReadsThisMachine) {
  YardstickMeter meter;
  const Yardstick reading = meter.measure();
  EXPECT_GE(reading.handover_seconds, 0);
  EXPECT_LT(reading.handover_seconds, 1);
  EXPECT_GT(reading.read_bytes_per_second, 1e6);
  EXPECT_GT(reading.multiplies_per_second, 1e6);
  EXPECT_GT(reading.cached_bytes_per_second.value_or(0), 1e6);
  const Glance glance = meter.glance();
  EXPECT_GE(glance.handover_seconds, 0);
  EXPECT_GT(glance.multiplies_per_second, 1e6);
  EXPECT_GT(glance.cached_bytes_per_second, 1e6);
  EXPECT_TRUE(reading.wakeups_per_second);
  EXPECT_TRUE(glance.wakeups_per_second);
  if (std::thread::hardware_concurrency() > 1) {
    EXPECT_GT(glance.wakeups_per_second.value_or(0), 1);
  }
}

// A server whose speed follows the machine's state, which changes every 20 seconds.
constexpr double kStateSeconds = 20;

bool is_far(double now) {
  return static_cast<int64_t>(now / kStateSeconds) % 2 == 1;
}

test::ReplayedMachine changing_machine() {
  test::ReplayedMachine out;
  out.facts.token_counts = "usage";
  out.facts.tokenizer = "llama-server";
  out.facts.tokens_per_byte = 0.25;
  out.facts.overhead_tokens = 10;
  out.facts.calibration_prefill = 10000;
  out.facts.calibration_decode = 2000;
  out.start_seconds = [](const ConfigSize&) { return 0.4; };
  out.batch = [](const BatchSpec& spec) {
    Batch batch;
    batch.seconds = spec.kind == "fill" ? 1.5 : 0.1;
    if (spec.kind != "fill") {
      batch.decode_total = 3000;
    }
    Sample sample;
    sample.prompt_tokens = 600;
    sample.decode_rate = 3000;
    sample.ttft_seconds = 0.02;
    batch.samples = {sample};
    return batch;
  };
  out.slowness = [](double now) { return is_far(now) ? 1.4 : 1.0; };
  out.yardstick = [](double now) { return is_far(now) ? kFar : kNear; };
  out.noise = 0.03;
  return out;
}

class CheckedCell : public testing::Test {
 protected:
  CheckedCell() {
    Options& options = job_.manifest.options;
    options.kind = "model";
    options.command_template = "serve --port {port}";
    options.ctx = {8192};
    options.chats = {1};
    options.depths = {"full"};
    options.tasks = "none";
    job_.cancel = &cancel_;
  }

  // The report's cell: two starts in the near state of the machine.
  Cell reported() {
    test::Replay tools(changing_machine());
    CellAgain again(job_, tools, "report");
    EXPECT_TRUE(again.visit(3, 3));
    EXPECT_TRUE(again.visit(3, 3));
    const Document document = again.document();
    EXPECT_EQ(document.cells.size(), 1U);
    return document.cells.front();
  }

  Result<Checked> check(const test::ReplayedMachine& profile, const test::ReplayedMachine& reference) {
    test::Replay profile_tools(profile);
    test::Replay reference_tools(reference);
    CellAgain with_profile(job_, profile_tools, "profile");
    CellAgain as_reported(job_, reference_tools, "as-reported");
    return check_cell(
        reported(), {}, false, with_profile, as_reported, 180, [&] { return profile_tools.now(); },
        [](const Checked&) {});
  }

  const std::atomic<bool> cancel_ = false;
  RunJob job_;
};

TEST_F(CheckedCell, HoldsWhereOnlyTheMachineChanged) {
  test::ReplayedMachine now = changing_machine();
  // Mostly far, where the report met it near.
  const auto far_now = [](double at) { return static_cast<int64_t>(at / kStateSeconds) % 3 != 2; };
  now.slowness = [far_now](double at) { return far_now(at) ? 1.4 : 1.0; };
  now.yardstick = [far_now](double at) { return far_now(at) ? kFar : kNear; };
  const Result<Checked> checked = check(now, now);
  ASSERT_TRUE(checked) << checked.error().message;
  EXPECT_LT(checked->change, -0.1);
  ASSERT_TRUE(checked->report.change);
  EXPECT_NEAR(*checked->report.change, 0, 0.03);
  EXPECT_NEAR(checked->start.change.value_or(1), 0, 0.03);
}

TEST_F(CheckedCell, FindsASlowerProfileWhateverTheMachineDoes) {
  test::ReplayedMachine slower = changing_machine();
  slower.slowness = [](double at) { return (is_far(at) ? 1.4 : 1.0) * 1.1; };
  const Result<Checked> checked = check(slower, changing_machine());
  ASSERT_TRUE(checked) << checked.error().message;
  ASSERT_TRUE(checked->report.change);
  EXPECT_NEAR(*checked->report.change, -0.09, 0.03);
  EXPECT_NEAR(checked->reported.change.value_or(1), 0, 0.03);
  EXPECT_NEAR(checked->start.change.value_or(1), -0.09, 0.03);
}

// The first turns are slow, as chance has it: after the usual ones they still weigh too much, more show that
// it is nothing.
TEST_F(CheckedCell, ADifferenceThatMayBeChanceGetsMoreTurns) {
  test::ReplayedMachine now = changing_machine();
  now.yardstick = [](double) { return kNear; };
  now.slowness = [](double at) { return at < 40 ? 1.08 : 1.0; };
  const Result<Checked> checked = check(now, now);
  ASSERT_TRUE(checked) << checked.error().message;
  EXPECT_GT(checked->n_turns, 6);
  EXPECT_EQ(judge(checked->report), Judgement::holds);
}

TEST_F(CheckedCell, TwoTurnsAreEnoughWhereNothingChanges) {
  test::ReplayedMachine steady = changing_machine();
  steady.slowness = nullptr;
  steady.yardstick = nullptr;
  steady.noise = 0.001;
  test::Replay report_tools(steady);
  CellAgain again(job_, report_tools, "report");
  ASSERT_TRUE(again.visit(6, 6));
  test::Replay tools(steady);
  CellAgain with_profile(job_, tools, "profile");
  test::Replay reference_tools(steady);
  CellAgain as_reported(job_, reference_tools, "as-reported");
  const Result<Checked> checked = check_cell(
      again.document().cells.front(), {}, false, with_profile, as_reported, 180, [&] { return tools.now(); },
      [](const Checked&) {});
  ASSERT_TRUE(checked) << checked.error().message;
  EXPECT_EQ(checked->n_turns, 2);
  EXPECT_EQ(judge(checked->report), Judgement::holds);
}

TEST_F(CheckedCell, SaysNothingOfStatesThatTheReportDidNotMeet) {
  test::ReplayedMachine now = changing_machine();
  now.slowness = [](double) { return 1.0; };  // as fast as then, and no proof of what it is
  now.yardstick = [](double) { return kFar; };
  const Result<Checked> checked = check(now, now);
  ASSERT_TRUE(checked) << checked.error().message;
  EXPECT_NEAR(checked->change, 0, 0.03);
  EXPECT_EQ(judge(checked->report), Judgement::unknown);
}

TEST_F(CheckedCell, WithoutAYardstickAllRepeatsCount) {
  test::ReplayedMachine now = changing_machine();
  now.yardstick = nullptr;
  now.slowness = [](double) { return 1.1; };
  const Result<Checked> checked = check(now, now);
  ASSERT_TRUE(checked) << checked.error().message;
  ASSERT_TRUE(checked->report.change);
  EXPECT_NEAR(*checked->report.change, checked->change, 0.01);
  EXPECT_NEAR(checked->change, -0.09, 0.03);
}

TEST_F(CheckedCell, AServerWithAnotherWindowIsNotTheCell) {
  job_.manifest.options.chats = {2};
  test::ReplayedMachine machine = changing_machine();
  class Smaller final : public Instruments {
   public:
    explicit Smaller(test::ReplayedMachine machine) : of_(std::move(machine)) {}
    double now() override { return of_.now(); }
    Status open(const ConfigSize& size, const std::vector<std::string>& more, Session& session) override {
      return of_.open(size, more, session);
    }
    Result<Facts> ask(const Session& session, uint64_t seed) override { return of_.ask(session, seed); }
    Result<Facts> describe(const Session& session) override {
      FL_ASSIGN(Facts facts, of_.describe(session));
      facts.window /= 2;
      return facts;
    }
    Result<Batch> measure(const Session& session, const Facts& facts, const BatchSpec& spec) override {
      return of_.measure(session, facts, spec);
    }
    std::optional<Yardstick> yardstick() override { return std::nullopt; }
    std::optional<Glance> glance() override { return std::nullopt; }
    Result<Quality> score(const QualityJob& job) override { return of_.score(job); }

   private:
    test::Replay of_;
  } tools(machine);
  CellAgain again(job_, tools, "profile");
  const Status visited = again.visit(3, 3);
  ASSERT_FALSE(visited);
  EXPECT_THAT(visited.error().message, HasSubstr("2 slots of 2048 tokens, the cell 2 of 4096"));
}

}  // namespace
}  // namespace fl::report
