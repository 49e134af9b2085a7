// The end that is said, on machines whose speed changes while they are measured, and the visits for profiles
// that make it true.
#include <fstream>
#include <memory>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/assemble.h"
#include "report/forecast.h"
#include "tests/report/demo.h"

namespace fl::report {
namespace {

using test::Forecasts;
using test::ReplayedMachine;

// How much longer everything takes, for 20 to 60 s each; what it begins with, and what it ends with from
// `last_from` on.
struct Changes {
  const char* name;
  std::vector<double> slowness;
  double first = 0;
  double first_until = 0;
  double last = 0;
  double last_from = 1e9;
};

void PrintTo(const Changes& changes, std::ostream* out) {
  *out << changes.name;
}

std::function<double(double)> changing(uint64_t seed, const Changes& changes) {
  struct Piece {
    double end;
    double slowness;
  };
  auto pieces = std::make_shared<std::vector<Piece>>();
  std::mt19937_64 random(seed);
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  double at = changes.first_until;
  pieces->push_back({at, changes.first});
  while (at < 1200) {
    const auto n = static_cast<double>(changes.slowness.size());
    const double slowness = changes.slowness[static_cast<size_t>(uniform() * n)];
    pieces->push_back({at += 20 + 40 * uniform(), slowness});
  }
  return [pieces, last = changes.last, last_from = changes.last_from](double now) {
    const auto piece =
        std::find_if(pieces->begin(), pieces->end(), [&](const Piece& p) { return now < p.end; });
    return now >= last_from ? last : piece->slowness;
  };
}

Options demo(double budget) {
  Options out = test::matrix({1024, 2048, 4096, 6144, 8192}, {1, 2, 4}, budget);
  out.tasks = "builtin";
  return out;
}

class ChangingMachine : public testing::TestWithParam<Changes> {};

// From a tenth of the run on every time left is within 20 % of the truth, or within 2 s.
TEST_P(ChangingMachine, EndsWhenItWasSaid) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    ReplayedMachine machine =
        test::recorded(seed % 2 == 0 ? "demo_matrix.csv" : "demo_matrix_slower_later.csv");
    machine.slowness = changing(seed, GetParam());
    const Forecasts run = test::replay(machine, demo(1200));
    for (const Forecasts::One& one : run.all) {
      const double left = run.total - one.at;
      if (one.at >= 0.1 * run.total) {
        EXPECT_NEAR(one.left, left, std::max(0.2 * left, 2.0))
            << "seed " << seed << " at " << one.at << " of " << run.total << " s: " << one.now;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forecast, ChangingMachine,
                         testing::Values(Changes{"BetweenTwoSpeeds", {1.0, 1.3}},
                                         Changes{"BetweenThreeSpeeds", {1.0, 1.3, 0.8}},
                                         Changes{"SeldomMuchSlower", {1.0, 1.0, 1.45}},
                                         Changes{"FromASlowMinute", {1.0, 1.3, 0.8}, 1.3, 60},
                                         Changes{"ToASlowEnd", {1.0, 1.3, 0.8}, 0, 0, 1.3, 300}),
                         [](const auto& info) { return std::string(info.param.name); });

std::set<std::string> profile_ids(const Document& document) {
  std::set<std::string> out;
  for (const Profile& profile : document.recommendation.profiles) {
    out.insert(profile.cell);
  }
  return out;
}

double visits_share(const Forecasts& run) {
  const auto first = std::find_if(run.all.begin(), run.all.end(),
                                  [](const Forecasts::One& one) { return one.now.ends_with(", again"); });
  return first == run.all.end() ? 0 : 1 - first->at / run.total;
}

TEST(ProfileVisits, ProfilesRestOnMoreRepeatsThanOtherCells) {
  ReplayedMachine machine = test::recorded();
  machine.slowness = changing(3, {"", {1.0, 1.3}});
  const Forecasts run = test::replay(machine, demo(1200));
  const std::set<std::string> profiles = profile_ids(run.document);
  EXPECT_EQ(run.document.recommendation.profiles.size(), 4U);
  for (const Cell& cell : run.document.cells) {
    if (profiles.contains(cell.id)) {
      EXPECT_GE(cell.n_repeats, 6) << cell.id;
    } else {
      EXPECT_EQ(cell.n_repeats, 3) << cell.id;
    }
  }
  EXPECT_GT(visits_share(run), 0.1);
  EXPECT_LT(visits_share(run), 0.5);
}

TEST(ProfileVisits, EndBeforeTheBudgetDoes) {
  ReplayedMachine machine = test::recorded();
  for (const double budget : {440.0, 480.0}) {
    machine.slowness = changing(1, {"", {1.0, 1.3}});
    EXPECT_LE(test::replay(machine, demo(budget)).total, budget);
  }
}

// Killed in the visits: what was measured stays, and they go on for the rest of their time.
TEST(ProfileVisits, GoOnWhereTheyWere) {
  const std::string dir = testing::TempDir() + "profile-visits";
  std::filesystem::remove_all(dir);
  ReplayedMachine machine = test::recorded();
  machine.slowness = changing(3, {"", {1.0, 1.3}});
  const double straight = test::replay(machine, demo(1200)).total;
  std::atomic<bool> cancel = false;
  machine.cancel = &cancel;
  RunJob job;
  job.cancel = &cancel;
  job.manifest.options = demo(1200);
  job.out_dir = dir;
  job.ceilings.emplace();
  job.write = [](const Document&) { return Status(); };
  int n_steps = 0;
  job.on_progress = [&](const RunProgress& now) {
    n_steps += now.now.ends_with(", again") ? 1 : 0;
    cancel = cancel || n_steps == 60 || n_steps == 200;
  };
  double total = 0;
  int n_interrupted = 0;
  std::string journal;
  Document document;
  const auto run = [&] {
    cancel = false;
    test::Replay instruments(machine);
    Result<RunOutcome> outcome = run_matrix(job, instruments);
    ASSERT_TRUE(outcome);
    total += instruments.now();
    n_interrupted += outcome->interrupted ? 1 : 0;
    EXPECT_TRUE(outcome->document.run.complete);  // every cell has what was asked
    document = std::move(outcome->document);
  };
  for (int i = 0; i < 3; ++i) {
    run();
  }
  EXPECT_EQ(n_interrupted, 2);
  EXPECT_NEAR(total, straight, 0.05 * straight);
  for (const std::string& id : profile_ids(document)) {
    const auto cell = std::find_if(document.cells.begin(), document.cells.end(),
                                   [&](const Cell& each) { return each.id == id; });
    EXPECT_GE(cell->n_repeats, 6) << id;
  }
  std::set<std::tuple<int64_t, int64_t, std::string, int64_t, int64_t>> seen;
  std::ifstream file(dir + "/" + kJournalName);
  std::string line;
  std::getline(file, line);  // the manifest
  while (std::getline(file, line)) {
    constexpr size_t kChecksum = 17;
    const Result<Record> record = record_from_line(line.substr(kChecksum));
    ASSERT_TRUE(record);
    if (const auto* batch = std::get_if<Batch>(&*record); batch != nullptr && batch->kind == "measure") {
      EXPECT_TRUE(seen.insert({batch->ctx, batch->chats, batch->depth, batch->repeat, batch->part}).second);
    }
  }
  EXPECT_GT(seen.size(), 1000U);
  std::filesystem::remove_all(dir);
}

TEST(Promise, StaysWhereEveryTimeLeftThatWasSaidIsRight) {
  Promise promise;
  EXPECT_DOUBLE_EQ(promise.end(40, 300, 400, 500), 400);
  double end = 400;
  for (double now = 41; now <= 300; ++now) {
    end = promise.end(now, 200, 900, 1000);  // as much longer as would be liked
  }
  EXPECT_NEAR(end, (400 - 0.18 * 40) / (1 - 0.18), 10);
  for (double now = 301; now <= 400; ++now) {
    end = promise.end(now, 200, 250, 1000);
  }
  EXPECT_GT(end, 400);
}

TEST(Promise, MovesWhenItMust) {
  Promise promise;
  promise.end(0, 400, 400, 400);
  double end = 0;
  for (double now = 100; now <= 300; ++now) {
    end = promise.end(now, 700, 700, 700);
  }
  EXPECT_NEAR(end, 700, 1);
  // It is said smoothly.
  const double before = end;
  EXPECT_NEAR(promise.end(301, 800, 800, 800), before, 10);
}

TEST(Scatter, IsTheDeviationOfLogarithmsWithinPlaces) {
  Scatter scatter;
  EXPECT_EQ(scatter.pooled(), 0);
  const StepPlace a{1024, 1, "empty", "measure"};
  const StepPlace b{8192, 4, "full", "measure"};
  scatter.add(a, 100);
  scatter.add(b, 3);
  EXPECT_EQ(scatter.pooled(), 0);
  scatter.add(a, 100 * std::exp(0.2));
  EXPECT_NEAR(scatter.pooled(), 0.2 / std::sqrt(2), 1e-12);
  scatter.add(b, 3);
  EXPECT_NEAR(scatter.pooled(), 0.1, 1e-12);
}

}  // namespace
}  // namespace fl::report
