#include "report/instruments.h"

#include <utility>

namespace fl::report {

Result<Batch> measure_beside(Instruments& tools, const Session& session, const Facts& facts,
                             const BatchSpec& spec, int64_t n_parts) {
  const bool timed = spec.kind == "measure" || spec.kind == "anchor";
  std::vector<Yardstick> beside;
  const auto look = [&] {
    if (const auto reading = tools.yardstick()) {
      beside.push_back(*reading);
    }
  };
  std::optional<Glance> glance;
  if (timed && spec.part == 1) {
    look();
  } else if (timed) {
    glance = tools.glance();
  }
  FL_ASSIGN(Batch batch, tools.measure(session, facts, spec));
  if (timed && spec.part == n_parts) {
    look();
  }
  batch.beside = std::move(beside);
  batch.glance = glance;
  return batch;
}

RealInstruments::RealInstruments(const RunJob& job)
    : job_(job), options_(job.manifest.options), nvml_(Nvml::open()) {}

double RealInstruments::now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Status RealInstruments::open(const ConfigSize& size, const std::vector<std::string>& more, Session& session) {
  return open_session(options_, size, job_.manifest.model.path, job_.api_key, more, job_.cancel, session);
}

Result<Facts> RealInstruments::ask(const Session& session, uint64_t seed) {
  return ask_server(session.endpoint, options_, seed, job_.cancel);
}

Result<Facts> RealInstruments::describe(const Session& session) {
  return describe_server(session.endpoint, options_, job_.cancel);
}

Result<Batch> RealInstruments::measure(const Session& session, const Facts& facts, const BatchSpec& spec) {
  return report::measure(session.endpoint, facts, options_, spec, texts_, nvml_.get(), session.pid,
                         job_.cancel);
}

YardstickMeter* RealInstruments::meter() {
  // A server on a GPU does not depend on it, and one at a URL may be busy with others' requests.
  if (nvml_ != nullptr || options_.kind == "url") {
    return nullptr;
  }
  if (meter_ == nullptr) {
    meter_ = std::make_unique<YardstickMeter>();
  }
  return meter_.get();
}

std::optional<Yardstick> RealInstruments::yardstick() {
  YardstickMeter* known = meter();
  return known != nullptr ? std::optional(known->measure()) : std::nullopt;
}

std::optional<Glance> RealInstruments::glance() {
  YardstickMeter* known = meter();
  return known != nullptr ? std::optional(known->glance()) : std::nullopt;
}

Result<Quality> RealInstruments::score(const QualityJob& job) {
  return measure_quality(job);
}

}  // namespace fl::report
