#include "apps/report/check.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "apps/command.h"
#include "apps/report/facts.h"
#include "client/server_process.h"
#include "report/format.h"
#include "report/machine.h"
#include "report/profiles.h"
#include "report/write.h"

namespace fl::apps::report {
namespace {

namespace rep = fl::report;
// One disturbed repeat of five does not decide.
constexpr int64_t kLeastRepeats = 5;

Result<rep::Manifest> manifest_for(const Flags& flags, const std::string& program,
                                   const rep::Document& document, const rep::Profile& profile,
                                   const rep::Cell& cell) {
  rep::Manifest out;
  out.program_version = FREELUNCH_VERSION;
  std::error_code error;
  const std::string model =
      std::filesystem::absolute(flags.model.empty() ? document.model.path : flags.model, error).string();
  auto facts = model_facts(model);
  if (!facts) {
    return fail(std::move(facts.error()), "the report's model (--model says where it is)");
  }
  out.model = std::move(*facts);
  if (!document.model.hash.empty() && document.model.hash != out.model.hash) {
    return fail(ErrorCode::bad_file,
                fmt::format("{}: the report was made with {} ({}), this file is {}", model,
                            document.model.name, document.model.hash, out.model.hash));
  }
  FL_ASSIGN(out.server_program, file_hash(program));
  rep::Options& options = out.options;
  options.ctx = {profile.ctx};
  options.chats = {profile.chats};
  options.depths = {cell.depth};
  options.repeats = std::max({kLeastRepeats, flags.repeats, document.run.plan.repeats});
  options.tokens_per_request = document.run.plan.tokens_per_request;
  options.prompt_tokens = document.run.plan.prompt_tokens;
  options.tasks = "none";
  options.start_seconds = flags.start_timeout;
  options.request_seconds = flags.request_timeout;
  const std::string from = std::filesystem::absolute(flags.from, error).string();
  options.command_template =
      client::join_command({program, "serve", "--profile", profile.name, "--from", from});
  options.command_template += " --model {model} --host 127.0.0.1 --port {port}";
  out.machine = rep::describe_machine(rep::Nvml::open().get());
  return out;
}

std::string rate_text(const std::optional<rep::Stat>& stat) {
  return stat ? fmt::format("{} tok/s ({} repeats, spread {:.1f} %)", rep::format_rate(stat->mean), stat->n,
                            100 * stat->cv)
              : std::string("nothing");
}

}  // namespace

Result<int> check_profile(const Flags& flags, const std::string& program, rep::RunJob job) {
  FL_ASSIGN(const rep::Document document, rep::read_document(flags.from));
  FL_ASSIGN(const rep::Profile profile, rep::read_profile(flags.from, flags.check_profile));
  const auto cell = std::find_if(document.cells.begin(), document.cells.end(),
                                 [&](const rep::Cell& each) { return each.id == profile.cell; });
  if (document.server.kind != "model" || cell == document.cells.end() || !cell->decode_total) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("'{}' does not hold a measurement of this program for the profile '{}'",
                            flags.from, profile.name));
  }
  FL_ASSIGN(job.manifest, manifest_for(flags, program, document, profile, *cell));
  job.fresh = true;
  job.ceilings = document.ceilings;
  job.write = [&](const rep::Document& again) { return rep::write_report(job.out_dir, again); };
  FL_ASSIGN(const rep::RunOutcome outcome, rep::run_matrix(job));
  const rep::Cell* again = rep::find_cell(outcome.document, profile.ctx, profile.chats, cell->depth);
  if (outcome.error || again == nullptr || !again->decode_total) {
    return tl::unexpected(outcome.error.value_or(
        Error{ErrorCode::integrity, again != nullptr ? again->reason : std::string("nothing was measured")}));
  }
  const double change = again->decode_total->mean / cell->decode_total->mean - 1;
  fmt::print("profile {}, {}\n  the report: {}\n  again:      {}\n  difference: {:+.1f} %\n", profile.name,
             cell->id, rate_text(cell->decode_total), rate_text(again->decode_total), 100 * change);
  for (const rep::Flag& flag : again->flags) {
    fmt::print("  {}: {}\n", flag.code, rep::one_line(flag.text));
  }
  if (std::abs(change) <= kProfileTolerance) {
    return kOk;
  }
  return fail(ErrorCode::integrity,
              fmt::format("the profile '{}' is {:.1f} % {} than its report says; {:.0f} % are "
                          "allowed",
                          profile.name, 100 * std::abs(change), change < 0 ? "slower" : "faster",
                          100 * kProfileTolerance));
}

}  // namespace fl::apps::report
