// A run on a clock that only batches move: what a batch takes comes from a function. The walk, its plan and
// its forecasts are the program's own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <xxhash.h>

#include "report/instruments.h"

namespace fl::report::test {

struct ReplayedMachine {
  Facts facts;
  /// Of one start of a server.
  std::function<double(const ConfigSize&)> start_seconds;
  /// Its seconds, its total rate and the first sample's counts and first token; the rest is filled in.
  std::function<Batch(const BatchSpec&)> batch;
  /// The machine itself at a time of the run; none: no yardstick.
  std::function<Yardstick(double now)> yardstick;
  /// How much longer everything takes that begins then.
  std::function<double(double now)> slowness;
  double between_batches = 0.005;  // texts, the journal
  double task_seconds = 0.06;
  const std::atomic<bool>* cancel = nullptr;
  double noise = 0;  // batches take up to so much more or less
};

class Replay final : public Instruments {
 public:
  explicit Replay(ReplayedMachine machine) : machine_(std::move(machine)) {}

  double now() override { return now_; }

  Status open(const ConfigSize& size, const std::vector<std::string>& /*more*/, Session& session) override {
    machine_.facts.window = size.window;
    machine_.facts.n_slots = size.chats;
    session.startup_seconds = slowness() * machine_.start_seconds(size);
    now_ += session.startup_seconds;
    return {};
  }

  Result<Facts> ask(const Session& /*session*/, uint64_t /*seed*/) override { return machine_.facts; }
  Result<Facts> describe(const Session& /*session*/) override { return machine_.facts; }

  Result<Batch> measure(const Session& /*session*/, const Facts& /*facts*/, const BatchSpec& spec) override {
    if (machine_.cancel != nullptr && machine_.cancel->load()) {
      return fail(ErrorCode::unavailable, "interrupted");
    }
    Batch out = machine_.batch(spec);
    // The same disturbance each time that the test runs.
    const double share = static_cast<double>(XXH3_64bits_withSeed(&n_batches_, sizeof n_batches_, 0) % 2001);
    const double factor = slowness() * (1 + machine_.noise * (share / 1000 - 1));
    ++n_batches_;
    out.ctx = spec.ctx;
    out.chats = spec.chats;
    out.depth = spec.depth;
    out.kind = spec.kind;
    out.repeat = spec.repeat;
    out.part = spec.part;
    out.anchor = spec.anchor;
    out.at = "2026-01-01T00:00:00Z";
    out.seconds *= factor;
    if (out.decode_total) {
      *out.decode_total /= factor;
    }
    Sample& sample = out.samples.front();
    sample.status = "ok";
    sample.kind = spec.kind;
    sample.completion_tokens = spec.kind == "fill" ? 1 : spec.shape.answer;
    sample.ttft_seconds = factor * sample.ttft_seconds.value_or(0);
    if (spec.kind != "fill") {
      const Sample first = sample;
      out.samples.resize(static_cast<size_t>(spec.chats), first);
    }
    now_ += out.seconds + machine_.between_batches;
    return out;
  }

  std::optional<Yardstick> yardstick() override {
    return machine_.yardstick ? std::optional(machine_.yardstick(now_)) : std::nullopt;
  }

  std::optional<Glance> glance() override {
    const auto reading = yardstick();
    return reading ? std::optional(Glance{reading->handover_seconds, reading->multiplies_per_second,
                                          reading->cached_bytes_per_second.value_or(0)})
                   : std::nullopt;
  }

  Result<Quality> score(const QualityJob& job) override {
    constexpr int64_t kTasks = 20;
    for (int64_t done = 0; done < kTasks; ++done) {
      job.on_progress(done, kTasks);
      now_ += slowness() * machine_.task_seconds;
    }
    return Quality();
  }

 private:
  double slowness() const { return machine_.slowness ? machine_.slowness(now_) : 1; }

  ReplayedMachine machine_;
  double now_ = 0;
  uint64_t n_batches_ = 0;
};

struct Forecasts {
  struct One {
    double at = 0;
    double left = 0;
    std::string now;
  };
  std::vector<One> all;
  double total = 0;
  Document document;
};

inline Forecasts replay(const ReplayedMachine& machine, const Options& options) {
  const std::string dir =
      testing::TempDir() + "replay-" + testing::UnitTest::GetInstance()->current_test_info()->name();
  std::filesystem::remove_all(dir);
  Forecasts out;
  Replay instruments(machine);
  RunJob job;
  const std::atomic<bool> cancel = false;
  job.cancel = &cancel;
  job.manifest.options = options;
  job.out_dir = dir;
  job.ceilings.emplace();
  job.on_progress = [&](const RunProgress& now) {
    out.all.push_back({instruments.now(), now.seconds_left, now.now});
  };
  job.write = [](const Document&) { return Status(); };
  Result<RunOutcome> outcome = run_matrix(job, instruments);
  EXPECT_TRUE(outcome && !outcome->error);
  out.total = instruments.now();
  if (outcome) {
    out.document = std::move(outcome->document);
  }
  std::filesystem::remove_all(dir);
  return out;
}

}  // namespace fl::report::test
