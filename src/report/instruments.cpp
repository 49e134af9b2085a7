#include "report/instruments.h"

namespace fl::report {

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

Result<Quality> RealInstruments::score(const QualityJob& job) {
  return measure_quality(job);
}

}  // namespace fl::report
