// Statistics, prompts, the plan, and what is read of the machine.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/machine.h"
#include "report/plan.h"
#include "report/prompts.h"
#include "report/session.h"
#include "report/statistics.h"
#include "report/steps.h"
#include "tests/report/synthetic.h"
#include "tests/support/scripted_server.h"

namespace fl::report {
namespace {

TEST(Statistics, OfKnownValues) {
  const std::vector<double> values{2, 4, 4, 4, 5, 5, 7, 9};
  const Stat stat = stat_of(values);
  EXPECT_DOUBLE_EQ(stat.mean, 5);
  EXPECT_NEAR(stat.sd, 2.13809, 1e-5);  // n - 1
  EXPECT_NEAR(stat.cv, 0.427618, 1e-6);
  EXPECT_DOUBLE_EQ(stat.median, 4.5);
  EXPECT_EQ(stat_of({}).n, 0);
  EXPECT_EQ(stat_of(std::vector<double>{3}).sd, 0);
  // Type 7: numpy.percentile([1, 2, 3, 4], [25, 50, 95]).
  const std::vector<double> sorted{1, 2, 3, 4};
  EXPECT_DOUBLE_EQ(quantile(sorted, 0.25), 1.75);
  EXPECT_DOUBLE_EQ(quantile(sorted, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile(sorted, 0.95), 3.85);
  EXPECT_EQ(distribution_of({}).n, 0);
}

TEST(Statistics, HistogramHoldsEveryValueOnce) {
  const std::vector<double> values{0, 1e-9, 0.00015, 0.02, 0.021, 5, 1e6};
  const Histogram histogram = histogram_of(values);
  ASSERT_EQ(histogram.edges.size(), histogram.counts.size() + 1);
  int64_t n = 0;
  for (const int64_t count : histogram.counts) {
    n += count;
  }
  EXPECT_EQ(n, static_cast<int64_t>(values.size()));
  EXPECT_TRUE(std::is_sorted(histogram.edges.begin(), histogram.edges.end()));
  EXPECT_TRUE(histogram_of({}).counts.empty());
}

TEST(Statistics, LineThroughPoints) {
  const std::vector<double> x{1, 2, 4};
  const std::vector<double> y{12, 14, 18};
  const Line line = fit_line(x, y);
  EXPECT_NEAR(line.at_zero, 10, 1e-9);
  EXPECT_NEAR(line.slope, 2, 1e-9);
  EXPECT_NEAR(line.r2, 1, 1e-9);
  EXPECT_EQ(fit_line(std::vector<double>{3}, std::vector<double>{7}).at_zero, 7);
  const std::vector<double> more_x{1, 2, 3, 4, 5, 6};
  const std::vector<double> spoilt{12, 14, 16, 900, 20, 22};
  EXPECT_NEAR(fit_robust_line(more_x, spoilt).slope, 2, 1e-9);
  EXPECT_NEAR(fit_robust_line(more_x, spoilt).at_zero, 10, 1e-9);
}

TEST(Statistics, ColumnsByLeastSquares) {
  // y = 2 + 3 a - b, with a deviation that no column explains.
  const std::vector<std::vector<double>> rows{{1, 0, 0}, {1, 1, 0}, {1, 0, 1},
                                              {1, 1, 1}, {1, 2, 5}, {1, 4, 3}};
  std::vector<double> y;
  for (const auto& row : rows) {
    y.push_back(2 * row[0] + 3 * row[1] - row[2]);
  }
  Fit fit = fit_columns(rows, y);
  EXPECT_NEAR(fit.factors[0], 2, 1e-9);
  EXPECT_NEAR(fit.factors[1], 3, 1e-9);
  EXPECT_NEAR(fit.factors[2], -1, 1e-9);
  EXPECT_NEAR(fit.squares, 0, 1e-12);
  EXPECT_EQ(fit.freedom, 3);
  // A mean: its variance is 1 / n of a value's.
  fit = fit_columns({{1}, {1}, {1}, {1}}, std::vector<double>{1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(fit.factors[0], 2.5);
  EXPECT_DOUBLE_EQ(fit.variances[0], 0.25);
  EXPECT_DOUBLE_EQ(fit.squares, 5);
  // The second column is twice the first, and the third one nothing.
  fit = fit_columns({{1, 2, 0}, {2, 4, 0}, {3, 6, 0}}, std::vector<double>{2, 4, 6});
  EXPECT_DOUBLE_EQ(fit.factors[0], 2);
  EXPECT_EQ(fit.factors[1], 0);
  EXPECT_EQ(fit.variances[1], HUGE_VAL);
  EXPECT_EQ(fit.variances[2], HUGE_VAL);
  EXPECT_EQ(fit.freedom, 2);
}

TEST(Statistics, StudentsInterval) {
  EXPECT_NEAR(student(4), 2.776, 0.06);
  EXPECT_NEAR(student(10), 2.228, 0.01);
  EXPECT_NEAR(student(60), 2.000, 0.002);
}

TEST(Prompts, AreNewFromTheFirstWordsAndGrowAtTheirEnd) {
  const std::string small = make_text(7, 1000);
  const std::string large = make_text(7, 100000);
  EXPECT_LE(small.size(), 1000U);
  EXPECT_GT(small.size(), 980U);
  EXPECT_EQ(large.substr(0, small.size()), small);
  std::set<std::string> beginnings;
  constexpr int kTexts = 500;
  for (int i = 0; i < kTexts; ++i) {
    beginnings.insert(make_text(seed_of("run", std::to_string(i)), 200).substr(0, 60));
  }
  EXPECT_GE(beginnings.size(), kTexts - 1U);
  EXPECT_NE(seed_of("a", "x"), seed_of("b", "x"));
}

TEST(Plan, PartsFitIntoTheWindow) {
  Options options;
  Facts facts;
  facts.overhead_tokens = 12;
  for (const char* tokenizer : {"", "llama-server"}) {
    facts.tokenizer = tokenizer;
    for (const int64_t window : {256, 1000, 4096, 131072}) {
      for (const char* depth : {"empty", "half", "full"}) {
        const Shape shape = shape_of(depth, window, options, facts);
        EXPECT_LE(shape.filled + shape.prompt + longest_answer(shape) + 12, window)
            << depth << " of " << window;
        EXPECT_GE(shape.answer, 16);
        EXPECT_EQ(shape.filled > 0, std::string(depth) != "empty");
      }
    }
    EXPECT_GT(shape_of("full", 131072, options, facts).filled, 0.92 * 131072);
  }
}

// A cost model that has seen a machine of 10 000 tok/s prompts and 10 ms steps.
CostModel learned() {
  CostModel cost;
  Facts facts;
  facts.calibration_prefill = 10000;
  facts.calibration_decode = 100;
  cost.learn(facts);
  return cost;
}

TEST(Plan, WithoutABudgetEverythingIsMeasured) {
  Options options;
  options.depths = {"empty", "half", "full"};
  const std::vector<ConfigSize> todo{{16384, 1, 16384}, {131072, 4, 32768}};
  for (const auto& depths : choose_depths(learned(), todo, options, {}, true, -5)) {
    EXPECT_EQ(depths, options.depths);
  }
}

TEST(Plan, ABudgetKeepsEveryEmptyWindowThenTheFullOnesOfOneChat) {
  Options options;
  options.depths = {"empty", "half", "full"};
  options.budget_seconds = 1;
  Facts facts;
  facts.tokens_per_byte = 0.25;
  std::vector<ConfigSize> todo;
  for (const int64_t ctx : {16384, 32768, 65536, 98304, 131072}) {
    for (const int64_t chats : {1, 2, 4}) {
      todo.push_back({ctx, chats, ctx / chats});
    }
  }
  const CostModel cost = learned();
  double previous = 0;
  for (const double seconds : {1.0, 40.0, 150.0, 300.0, 1000.0, 5000.0}) {
    const auto chosen = choose_depths(cost, todo, options, facts, true, seconds);
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < todo.size(); ++i) {
      sum += chosen[i].empty() ? 0 : config_seconds(cost, todo[i], chosen[i], options, facts, true);
      n += chosen[i].size();
      const bool only_filled = !chosen[i].empty() && chosen[i].front() != "empty";
      EXPECT_FALSE(only_filled);
      if (todo[i].chats == 2 && chosen[i].size() > 1) {
        EXPECT_GE(chosen[i - 1].size(), 2U) << "one chat comes before two";
      }
    }
    EXPECT_LE(sum, seconds);
    EXPECT_GE(static_cast<double>(n), previous);
    previous = static_cast<double>(n);
  }
  EXPECT_EQ(previous, 45);
}

TEST(Plan, LearnsWhatReadingAndWritingCost) {
  CostModel cost = learned();
  Batch fill;
  fill.kind = "fill";
  for (const int64_t tokens : {1000, 10000, 50000}) {
    Sample sample;
    sample.status = "ok";
    sample.prompt_tokens = tokens;
    sample.ttft_seconds = static_cast<double>(tokens) * (1e-4 + 1e-9 * static_cast<double>(tokens));
    fill.samples = {sample};
    cost.learn(fill);
  }
  EXPECT_NEAR(cost.read(10000), 10000 * (1e-4 + 1e-9 * 10000), 0.02);
  EXPECT_NEAR(cost.read(30000), (1.1 + 7.5) / 2, 0.1);  // half way between 10 000 and 50 000
  EXPECT_GT(cost.read(100000), 2 * cost.read(50000));
  for (const int64_t chats : {1, 2, 4}) {
    Batch batch;
    batch.kind = "measure";
    batch.chats = chats;
    batch.depth = "empty";
    batch.samples.resize(static_cast<size_t>(chats));
    batch.decode_total = static_cast<double>(chats) / (0.01 + 0.001 * static_cast<double>(chats));
    cost.learn(batch);
  }
  EXPECT_NEAR(cost.decode(100, 3, 0), 100 * 0.013, 0.01);
  Batch filled;
  filled.kind = "measure";
  filled.chats = 2;
  filled.depth = "full";
  filled.samples.resize(2);
  filled.samples[0].prompt_tokens = 10000;
  filled.decode_total = 2 / (0.012 + 2 * 10000 * 1e-6);
  cost.learn(filled);
  EXPECT_NEAR(cost.decode(1, 4, 5000), 0.014 + 4 * 5000 * 1e-6, 1e-3);
  EXPECT_TRUE(cost.reuse());
  Batch warm_up;
  warm_up.kind = "warm-up";
  warm_up.depth = "full";
  Sample again;
  again.status = "ok";
  again.ttft_seconds = 1;
  again.prompt_tokens = 10000;
  again.cached_tokens = 0;
  warm_up.samples = {again, again};
  cost.learn(warm_up);
  EXPECT_FALSE(cost.reuse());
}

TEST(Steps, SpreadTheEmptyWindowsAndRepeatNothing) {
  const ConfigPlan plan{4096, 2, {"empty", "half", "full"}, 3, 0, {}};
  const auto words = [](const std::vector<Step>& steps) {
    std::string out;
    for (const Step& step : steps) {
      out += step.depth.substr(0, 1) + (step.kind == "fill"      ? "f"
                                        : step.kind == "warm-up" ? "w"
                                                                 : std::to_string(step.repeat));
      out += ' ';
    }
    return out;
  };
  EXPECT_EQ(words(steps_of(plan, {})), "ew e1 hf hf hw h1 h2 h3 e2 ff ff fw f1 f2 f3 e3 ");
  const DoneBatches some{{4096, 2, "empty", 1, 1}, {4096, 2, "half", 1, 1}, {4096, 2, "half", 2, 1},
                         {4096, 2, "half", 3, 1},  {4096, 2, "full", 1, 1}, {8192, 2, "full", 2, 1}};
  EXPECT_EQ(words(steps_of(plan, some)), "ew e2 ff ff fw f2 f3 e3 ");
  DoneBatches all;
  for (const char* depth : {"empty", "half", "full"}) {
    for (int64_t repeat = 1; repeat <= 3; ++repeat) {
      all.insert({4096, 2, depth, repeat, 1});
    }
  }
  EXPECT_TRUE(steps_of(plan, all).empty());
}

TEST(Steps, ARepeatHasItsParts) {
  ConfigPlan plan{1024, 1, {"empty"}, 2, 0, {}};
  plan.parts = 3;
  const std::vector<Step> left = steps_of(plan, {{1024, 1, "empty", 1, 1}, {1024, 1, "empty", 1, 3}});
  std::vector<std::pair<int64_t, int64_t>> found;
  for (const Step& step : left) {
    if (step.kind == "measure") {
      found.emplace_back(step.repeat, step.part);
    }
  }
  EXPECT_EQ(found, (std::vector<std::pair<int64_t, int64_t>>{{1, 2}, {2, 1}, {2, 2}, {2, 3}}));
}

// A second of writing a repeat where there is time for it; less before a cell is left out.
TEST(Plan, ShortensSamplesBeforeItLeavesCellsOut) {
  Options options;
  options.depths = {"empty"};
  options.tokens_per_request = 100;
  options.budget_seconds = 1000;
  Facts facts;
  facts.calibration_prefill = 1e6;
  facts.calibration_decode = 1000;  // a batch writes for 0.1 s
  CostModel cost;
  cost.learn(facts);
  const auto parts_in = [&](double seconds) {
    std::vector<ConfigSize> todo{{4096, 1, 4096}, {8192, 1, 8192}};
    const auto chosen = choose_cells(cost, todo, options, facts, false, seconds);
    return std::tuple(todo[0].parts, chosen[0].size() + chosen[1].size());
  };
  EXPECT_EQ(parts_in(1000), std::tuple(10, 2U));
  EXPECT_EQ(parts_in(6), std::tuple(6, 2U));
  EXPECT_EQ(parts_in(3), std::tuple(3, 2U));
  EXPECT_EQ(parts_in(1.4), std::tuple(1, 2U));
  EXPECT_EQ(std::get<1>(parts_in(0.1)), 0U);
}

TEST(Session, ExpandsEveryPlace) {
  const auto words = expand_command("srv -m {model} -c{ctx} --len={window} -np {chats} --port {port}",
                                    {32768, 4, 8192}, 1234, "/a b/{ctx}.gguf");
  ASSERT_TRUE(words);
  EXPECT_THAT(*words, testing::ElementsAre("srv", "-m", "/a b/{ctx}.gguf", "-c32768", "--len=8192", "-np",
                                           "4", "--port", "1234"));
  EXPECT_FALSE(expand_command("srv 'open", {}, 1, ""));
}

TEST(Machine, DescribesThisOne) {
  const Machine machine = describe_machine(nullptr);
  EXPECT_GT(machine.n_cores, 0);
  EXPECT_GT(machine.memory_bytes, 64 << 20);
  EXPECT_NE(machine.host, "");
}

TEST(Machine, SeesAProcessTreeItsMemoryAndWhoListens) {
  const pid_t child = ::fork();
  if (child == 0) {
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      ::pause();
    }
    ::pause();
    ::_exit(0);
  }
  std::vector<pid_t> tree;
  for (int i = 0; i < 200 && tree.size() < 2; ++i) {
    tree = process_tree(child);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(tree.size(), 2U);
  Watch watch(nullptr, child);
  const Watched seen = watch.stop();
  EXPECT_GT(seen.memory_bytes.value_or(0), 0);
  EXPECT_EQ(seen.memory_basis, "process tree RSS");
  for (const pid_t pid : tree) {
    ::kill(pid, SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(process_tree(-1).empty());

  const fl::test::ScriptedServer server(
      [](const std::string&) { return std::vector<fl::test::ScriptedServer::Piece>{}; });
  const std::string url = server.url();
  EXPECT_EQ(process_listening(static_cast<uint16_t>(std::stoi(url.substr(url.rfind(':') + 1)))), ::getpid());
}

TEST(Machine, WithoutAServerHereMemoryHasAReason) {
  Watch watch(nullptr, -1);
  const Watched seen = watch.stop();
  EXPECT_FALSE(seen.memory_bytes);
  EXPECT_NE(seen.memory_reason, "");
}

TEST(Nvml, ReadsDevicesMemoryEnergyAndThrottling) {
  const auto nvml = Nvml::open(FL_FAKE_NVML);
  ASSERT_NE(nvml, nullptr);
  const std::vector<Gpu> devices = nvml->devices();
  ASSERT_EQ(devices.size(), 1U);
  EXPECT_EQ(devices[0].name, "Fake GPU");
  EXPECT_EQ(devices[0].memory_bytes, int64_t{24} << 30);
  EXPECT_EQ(devices[0].power_limit_watts, 450);
  const Nvml::Usage usage = nvml->usage({::getpid()});
  EXPECT_EQ(usage.by_processes, int64_t{18} << 30);
  EXPECT_EQ(usage.n_foreign, 1);
  EXPECT_EQ(nvml->throttle_reasons(), "power cap");
  Watch watch(nvml.get(), ::getpid());
  const Watched seen = watch.stop();
  EXPECT_EQ(seen.memory_bytes, int64_t{18} << 30);
  EXPECT_GT(seen.joules.value_or(0), 0);
  EXPECT_EQ(seen.n_foreign_gpu, 1);
  EXPECT_EQ(Nvml::open("/nowhere/libnvidia-ml.so"), nullptr);
}

}  // namespace
}  // namespace fl::report
