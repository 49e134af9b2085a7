// Ten thousand random schedules against the fake model: every request answered once, every answer what it is
// alone, every block and row free at the end.
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <deque>

#include "tests/engine/harness.h"

namespace fl::engine {
namespace {

using test::Answer;
using test::FakeModel;
using test::FakeRunner;
using test::Recorder;

constexpr int32_t kVocab = 61;

struct Job {
  Request request;
  std::shared_ptr<Recorder> sink;
  int cancel_after = -1;  ///< rounds after its start
  bool started = false;
  bool cancelled = false;
};

class Schedule {
 public:
  Schedule(uint64_t seed, bool lineage) : rng_(seed), lineage_(lineage), model_(kVocab, seed, lineage) {}

  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng_); }
  bool chance(double p) { return std::bernoulli_distribution(p)(rng_); }

  SamplingParams sampling() {
    SamplingParams p;
    p.seed = static_cast<uint32_t>(rng_()) & 0x7FFFFFFFU;
    switch (pick(0, 5)) {
      case 0:
        p.temperature = 0;
        break;
      case 1:
        p.repeat_penalty = 1.3F;
        p.presence_penalty = 0.5F;
        break;
      case 2:
        p.mirostat = 2;
        break;
      case 3:
        p.top_k = 0;
        p.dry_multiplier = 0.8F;
        break;
      default:
        p.top_k = pick(1, 30);
        p.top_p = 0.9F;
        p.temperature = 0.7F;
    }
    if (chance(0.3)) {  // sometimes more than the device takes
      for (int n = pick(1, FakeRunner::kDeviceBias + 1); n > 0; --n) {
        p.logit_bias.emplace_back(pick(0, kVocab - 1),
                                  chance(0.5) ? -std::numeric_limits<float>::infinity() : 2.0F);
      }
    }
    return p;
  }

  Job job(int32_t n_ctx, int32_t n_slots) {
    Job job;
    Request& r = job.request;
    job.sink = std::make_shared<Recorder>();
    r.sink = job.sink;
    // Prompts grow out of a few stems and out of what was answered before, as conversations do.
    const int kind = pick(0, 3);
    if (kind > 0 && !history_.empty()) {
      r.prompt = history_[pick(0, static_cast<int>(history_.size()) - 1)];
      if (chance(0.3)) {
        r.prompt.resize(std::max(1, pick(0, static_cast<int>(r.prompt.size()))));
      }
    }
    for (int n = pick(r.prompt.empty() ? 1 : 0, chance(0.2) ? 200 : 70); n > 0; --n) {
      r.prompt.push_back(pick(0, kVocab - 1));
    }
    if (r.prompt.size() > static_cast<size_t>(n_ctx)) {
      r.prompt.resize(n_ctx);
    }
    r.sampling = sampling();
    r.max_tokens = chance(0.05) ? -1 : pick(0, chance(0.2) ? 150 : 30);
    r.stop_tokens = {3, 7};
    r.ignore_eos = chance(0.5);
    r.cache_prompt = chance(0.9);
    r.cache_salt = chance(0.1) ? 5 : 0;
    r.slot = chance(0.1) ? pick(0, n_slots - 1) : -1;
    if (chance(0.2)) {
      r.turn_ends = {pick(0, n_ctx), pick(0, n_ctx)};
    }
    if (chance(0.2)) {
      job.sink->pause_every = pick(1, 5);
      job.sink->pause_length = pick(1, 6);
    }
    if (chance(0.15)) {
      job.cancel_after = pick(0, 20);
    }
    if (chance(0.05)) {
      job.sink->throw_at = pick(1, 5);
    }
    job.sink->throw_at_prompt = chance(0.03);
    history_.push_back(r.prompt);
    if (chance(0.5)) {
      const Answer answer = run_alone(model_, r, n_ctx);
      history_.back().insert(history_.back().end(), answer.tokens.begin(), answer.tokens.end());
    }
    return job;
  }

  /// One schedule; EXPECTs inside.
  void run(bool device, bool faults) {
    spdlog::set_level(spdlog::level::off);  // sinks that throw are part of the plan
    EngineOptions options;
    options.n_slots = pick(1, 4);
    options.n_ctx_slot = pick(1, 6) * 64 + pick(0, 1) * pick(0, 63);
    options.max_step_tokens = pick(1, 300);
    options.max_chunk_tokens = pick(1, 200);
    options.n_checkpoints = pick(0, 5);
    options.cache_generated = chance(0.8);
    model::RunnerOptions runner = runner_options(options, {});
    if (chance(0.3)) {
      runner.n_blocks = pick(1, runner.n_blocks);  // a pool that cannot hold all slots
    }
    auto fake = std::make_unique<FakeRunner>(model_, runner, device ? 2 : 1, device ? 20 : 0);
    FakeRunner* fake_runner = fake.get();
    fake->on_step = [&](const FakeRunner::Seen& seen) { check_step(seen, options); };
    if (faults) {
      fake->fault = [&](char) {
        if (chance(0.02)) {
          throw model::DeviceError("injected", false);
        }
      };
    }
    Loop loop(std::move(fake), options);

    std::vector<Job> jobs;
    for (int n = pick(1, 10); n > 0; --n) {
      jobs.push_back(job(loop.n_ctx(), options.n_slots));
    }
    std::deque<size_t> queue;
    size_t arrived = 0;
    int idle_rounds = 0;
    for (int rounds = 0; rounds < 20000; ++rounds) {
      while (arrived < jobs.size() && (chance(0.3) || (loop.idle() && queue.empty()))) {
        queue.push_back(arrived++);
      }
      for (size_t n = queue.size(); n > 0; --n) {
        const size_t i = queue.front();
        queue.pop_front();
        if (loop.start(test::ticket(i + 1, jobs[i].request))) {
          jobs[i].started = true;
        } else {
          queue.push_back(i);
        }
      }
      for (size_t i = 0; i < jobs.size(); ++i) {
        if (jobs[i].started && jobs[i].cancel_after >= 0 && jobs[i].cancel_after-- == 0) {
          jobs[i].cancelled = loop.cancel(i + 1);
        }
      }
      if (chance(0.02)) {
        (void)loop.erase_slot(pick(0, options.n_slots - 1));
      }
      const bool progress = loop.round();
      idle_rounds = progress ? 0 : idle_rounds + 1;
      ASSERT_LT(idle_rounds, 100) << "stuck";
      if (arrived == jobs.size() && queue.empty() && loop.idle()) {
        break;
      }
    }
    ASSERT_TRUE(loop.idle() && queue.empty() && arrived == jobs.size()) << "not all requests were answered";

    for (const Job& job : jobs) {
      check(job, loop.n_ctx(), !lineage_ || !options.cache_generated);
      total_cached += job.sink->done.timings.cached_n;
    }
    if (device) {
      max_flying = std::max(max_flying, fake_runner->max_flying);
    }
    EXPECT_LE(loop.blocks().free() + loop.prefix().n_nodes(), loop.blocks().total());
    loop.prefix().clear();
    EXPECT_EQ(loop.blocks().free(), loop.blocks().total());
    EXPECT_EQ(loop.rows().free(), loop.rows().total());
  }

  static void check_step(const FakeRunner::Seen& seen, const EngineOptions& options) {
    EXPECT_LE(seen.n_tokens, std::max(options.max_step_tokens, 64 + options.n_slots));
  }

  /// `same`: the answer must be what it is alone. Otherwise it may continue generated text, whose state
  /// differs from that of a prompt; then the fake still checks that blocks and state belong together.
  void check(const Job& job, int32_t n_ctx, bool same) {
    const Recorder& sink = *job.sink;
    ASSERT_EQ(sink.n_done, 1);
    EXPECT_EQ(sink.faults, 0);
    const auto n_prompt = static_cast<int32_t>(job.request.prompt.size());
    if (!job.request.cache_prompt) {
      EXPECT_EQ(sink.done.timings.cached_n, 0);
    }
    if (sink.done.finish == Finish::cancelled) {
      EXPECT_TRUE(job.cancelled || sink.throw_at >= 0 || sink.throw_at_prompt);
    } else {
      if (sink.done.finish == Finish::error) {
        EXPECT_EQ(sink.done.error, "the device failed: injected");
        ++n_failed;
        return;
      }
      EXPECT_FALSE(job.cancelled || sink.throw_at_prompt);
      EXPECT_EQ(sink.prompt_done, n_prompt);
      EXPECT_EQ(sink.done.timings.prompt_n + sink.done.timings.cached_n, n_prompt);
    }
    if (!same && sink.done.timings.cached_n > 0) {
      return;
    }
    const Answer alone = run_alone(model_, job.request, n_ctx);
    if (sink.done.finish == Finish::cancelled) {
      ASSERT_LE(sink.tokens.size(), alone.tokens.size());
      EXPECT_TRUE(std::equal(sink.tokens.begin(), sink.tokens.end(), alone.tokens.begin()));
    } else {
      EXPECT_EQ(sink.done.finish, alone.finish);
      EXPECT_EQ(sink.tokens, alone.tokens);
    }
  }

  int64_t total_cached = 0;
  size_t max_flying = 0;
  int n_failed = 0;

 private:
  std::mt19937_64 rng_;
  bool lineage_;
  FakeModel model_;
  std::vector<std::vector<int32_t>> history_;
};

struct Kind {
  bool device = false;   ///< the runner samples and takes two steps in flight
  bool lineage = false;  ///< generated text leaves other bits than a prompt
  bool faults = false;   ///< the device fails now and then, and recovers
};

void run_schedules(uint64_t first, uint64_t count, Kind kind) {
  int64_t cached = 0;
  size_t flying = 0;
  int failed = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    Schedule schedule(seed, kind.lineage);
    schedule.run(kind.device, kind.faults);
    failed += schedule.n_failed;
    cached += schedule.total_cached;
    flying = std::max(flying, schedule.max_flying);
    if (::testing::Test::HasFailure()) {
      FAIL() << "schedule " << seed << (kind.device ? " (device)" : " (host)")
             << (kind.lineage ? " (lineage)" : "");
    }
  }
  EXPECT_GT(cached, static_cast<int64_t>(count) * 20) << "the prefix cache was hardly used";
  EXPECT_EQ(failed > 0, kind.faults);
  if (kind.device) {
    EXPECT_EQ(flying, 2U) << "the engine never ran ahead";
  }
}

TEST(Schedule, HostSampling) {
  run_schedules(1, 2500, {});
}
TEST(Schedule, HostSamplingWithLineage) {
  run_schedules(100001, 2500, {.lineage = true});
}
TEST(Schedule, DeviceSampling) {
  run_schedules(200001, 2500, {.device = true});
}
TEST(Schedule, DeviceSamplingWithLineage) {
  run_schedules(300001, 2500, {.device = true, .lineage = true});
}
TEST(Schedule, FailingDevice) {
  run_schedules(400001, 1000, {.faults = true});
}
TEST(Schedule, FailingDeviceThatRunsAhead) {
  run_schedules(500001, 1000, {.device = true, .lineage = true, .faults = true});
}

}  // namespace
}  // namespace fl::engine
