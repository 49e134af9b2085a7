#include "report/runner.h"

#include "report/assemble.h"
#include "report/journal_file.h"
#include "report/walker.h"

namespace fl::report {

Result<RunOutcome> run_matrix(const RunJob& job) {
  RealInstruments instruments(job);
  return run_matrix(job, instruments);
}

Result<RunOutcome> run_matrix(const RunJob& job, Instruments& instruments) {
  FL_ASSIGN(OpenJournal open, open_journal(job.out_dir, job.manifest, job.fresh));
  RunOutcome out;
  out.resumed = open.resumed;
  Walker walker(job, instruments, open);
  const Status walked = walker.walk();
  std::string reason;
  if (!walked) {
    out.interrupted = walked.error().code == ErrorCode::unavailable && job.cancel->load();
    out.error = walked.error();
    reason = walked.error().message;
  }
  out.document = assemble(job.manifest, open.records, reason);
  const Status written = job.write(out.document);
  if (!written && !out.error) {
    out.error = written.error();
  }
  // The end is recorded when the report is on disk: killed in between, the next start writes it.
  if (!out.error) {
    if (const Status ended = open.journal.append(to_line(EndRecord{now_utc()})); !ended) {
      out.error = ended.error();
    }
  }
  return out;
}

}  // namespace fl::report
