// What a walk through the matrix works with: servers, batches of requests, the coding tasks, and a clock.
// A replay of a recorded run has others than a real one.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "report/plan.h"
#include "report/quality.h"
#include "report/runner.h"
#include "report/session.h"
#include "report/target.h"
#include "report/yardstick.h"

namespace fl::report {

class Instruments {
 public:
  Instruments() = default;
  virtual ~Instruments() = default;
  Instruments(const Instruments&) = delete;
  Instruments& operator=(const Instruments&) = delete;

  /// Seconds since any moment; never backwards.
  virtual double now() = 0;
  /// open_session()
  virtual Status open(const ConfigSize& size, const std::vector<std::string>& more, Session& session) = 0;
  /// ask_server()
  virtual Result<Facts> ask(const Session& session, uint64_t seed) = 0;
  /// describe_server()
  virtual Result<Facts> describe(const Session& session) = 0;
  /// measure()
  virtual Result<Batch> measure(const Session& session, const Facts& facts, const BatchSpec& spec) = 0;
  /// The machine itself, while the server has nothing to do; nullopt: it says nothing about this server.
  virtual std::optional<Yardstick> yardstick() = 0;
  /// In a few milliseconds.
  virtual std::optional<Glance> glance() = 0;
  /// measure_quality()
  virtual Result<Quality> score(const QualityJob& job) = 0;
};

/// measure(), with the yardstick before the first part of a timed repeat and after its last one, and a
/// glance before the others.
Result<Batch> measure_beside(Instruments& tools, const Session& session, const Facts& facts,
                             const BatchSpec& spec, int64_t n_parts);

/// Those of a real run.
class RealInstruments final : public Instruments {
 public:
  explicit RealInstruments(const RunJob& job);

  double now() override;
  Status open(const ConfigSize& size, const std::vector<std::string>& more, Session& session) override;
  Result<Facts> ask(const Session& session, uint64_t seed) override;
  Result<Facts> describe(const Session& session) override;
  Result<Batch> measure(const Session& session, const Facts& facts, const BatchSpec& spec) override;
  std::optional<Yardstick> yardstick() override;
  std::optional<Glance> glance() override;
  Result<Quality> score(const QualityJob& job) override;

 private:
  YardstickMeter* meter();  // nullptr: it says nothing about this server

  const RunJob& job_;
  const Options& options_;
  std::unique_ptr<Nvml> nvml_;
  std::unique_ptr<YardstickMeter> meter_;
  TextSizes texts_;
};

/// run_matrix() with instruments of one's own.
Result<RunOutcome> run_matrix(const RunJob& job, Instruments& instruments);

}  // namespace fl::report
