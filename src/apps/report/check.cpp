#include "apps/report/check.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "apps/command.h"
#include "apps/report/facts.h"
#include "client/server_process.h"
#include "report/again.h"
#include "report/format.h"
#include "report/machine.h"
#include "report/profiles.h"
#include "report/states.h"
#include "report/statistics.h"
#include "report/write.h"

namespace fl::apps::report {
namespace {

namespace rep = fl::report;
// No turn begins that would end later, unless --budget says otherwise.
constexpr double kMostSeconds = 300;

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
  options.repeats = document.run.plan.repeats;
  options.tokens_per_request = document.run.plan.tokens_per_request;
  options.prompt_tokens = document.run.plan.prompt_tokens;
  options.tasks = "none";
  options.start_seconds = flags.start_timeout;
  options.request_seconds = flags.request_timeout;
  out.machine = rep::describe_machine(rep::Nvml::open().get());
  return out;
}

// `serve --profile`, as its user types it.
std::string profile_command(const Flags& flags, const std::string& program, const rep::Profile& profile) {
  std::error_code error;
  const std::string from = std::filesystem::absolute(flags.from, error).string();
  return client::join_command({program, "serve", "--profile", profile.name, "--from", from}) +
         " --model {model} --host 127.0.0.1 --port {port}";
}

// The report's own command, with this program: the one of then may lie elsewhere now.
Result<std::string> reported_command(const rep::Document& document, const std::string& program) {
  FL_ASSIGN(std::vector<std::string> words, client::split_command(document.server.command_template));
  if (words.empty()) {
    return fail(ErrorCode::invalid_argument, "the report does not say how it started its server");
  }
  words.front() = program;
  return client::join_command(words);
}

rep::CellsRepeats others_of(const rep::Document& document, const rep::Cell& cell) {
  rep::CellsRepeats out;
  for (const rep::Cell& other : document.cells) {
    if (other.id != cell.id && other.repeats) {
      out.push_back(*other.repeats);
    }
  }
  return out;
}

std::string rate_text(const std::optional<rep::Stat>& stat) {
  return stat ? fmt::format("{} tok/s ({} repeats, spread {:.1f} %)", rep::format_rate(stat->mean), stat->n,
                            100 * stat->cv)
              : std::string("nothing");
}

std::string mean_text(const std::vector<double>& rates) {
  return rates.empty() ? "-"
                       : fmt::format("{} ({})", rep::format_rate(rep::stat_of(rates).mean), rates.size());
}

void print_states(const rep::Checked& checked) {
  if (checked.report.states.size() == 1 && checked.report.states.front().text.empty()) {
    fmt::print("  the machine:     no measurement of it then or now, so all repeats are compared\n");
    return;
  }
  fmt::print(
      "  the machine, by what a word takes between its cores: tok/s (repeats that were in it throughout)\n");
  fmt::print("    {:<20} {:>14} {:>14}\n", "", "the report", "again");
  for (const rep::StateRates& state : checked.report.states) {
    fmt::print("    {:<20} {:>14} {:>14}\n", state.text, mean_text(state.then), mean_text(state.now));
  }
}

std::string change_text(const rep::Alike& alike) {
  return alike.change ? fmt::format("{:+.1f} % (+- {:.1f})", 100 * *alike.change, 100 * alike.error)
                      : std::string("not known: the machine was never alike");
}

void print_result(const rep::Profile& profile, const rep::Cell& cell, const rep::Checked& checked) {
  const rep::Cell* again = rep::find_cell(checked.profile, cell.ctx, cell.chats, cell.depth);
  const rep::Cell* reference = rep::find_cell(checked.reference, cell.ctx, cell.chats, cell.depth);
  fmt::print("profile {}, {}\n  the report:      {}\n  again:           {}, {:+.1f} %\n", profile.name,
             cell.id, rate_text(cell.decode_total), rate_text(again->decode_total), 100 * checked.change);
  fmt::print("  as the report started it: {}\n",
             rate_text(reference != nullptr ? reference->decode_total : std::nullopt));
  print_states(checked);
  fmt::print(
      "  in {} turns, {:.0f} s; beside what the machine's state explains: {} against the report, {} against "
      "the "
      "report's start now\n",
      checked.n_turns, checked.seconds, change_text(checked.report), change_text(checked.start));
  for (const rep::Flag& flag : again->flags) {
    fmt::print("  {}: {}\n", flag.code, rep::one_line(flag.text));
  }
}

Result<int> verdict(const rep::Profile& profile, const rep::Cell& cell, const rep::Checked& checked) {
  rep::Alike report = checked.report;
  if (!cell.repeats) {  // a report of an earlier version has no repeats to compare
    report.change = checked.change;
    report.error = 0;
  }
  const rep::Judgement judgement = rep::judge(report);
  if (judgement == rep::Judgement::holds) {
    return kOk;
  }
  if (judgement == rep::Judgement::unknown) {
    return fail(
        ErrorCode::integrity,
        report.change
            ? fmt::format(
                  "the profile '{}' cannot be judged: it differs by {:+.1f} %, and the {} repeats of the "
                  "report and {} now tell that to {:.1f} %; {:.0f} % are allowed",
                  profile.name, 100 * *report.change, report.n_then, report.n_now, 100 * report.error,
                  100 * rep::kProfileTolerance)
            : fmt::format(
                  "the profile '{}' cannot be judged: the machine was never now as it was beside the report; "
                  "measured again it is {:+.1f} %",
                  profile.name, 100 * checked.change));
  }
  std::string text = fmt::format(
      "the profile '{}' is {:.1f} % {} than its report says, beside what the machine's state explains; "
      "{:.0f} % are "
      "allowed",
      profile.name, 100 * std::abs(*report.change), *report.change < 0 ? "slower" : "faster",
      100 * rep::kProfileTolerance);
  if (checked.reported.change && checked.start.change &&
      std::abs(*checked.start.change) <= rep::kProfileTolerance) {
    text += fmt::format(
        ". Started as the report did it is {:+.1f} %: the profile is what the report measured, and the "
        "program "
        "or the machine is not what it was, in a way that the machine's measurement does not show",
        100 * *checked.reported.change);
  }
  return fail(ErrorCode::integrity, std::move(text));
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
  double most_seconds = kMostSeconds;
  if (!flags.budget.empty()) {
    FL_ASSIGN(most_seconds, parse_duration(flags.budget));
  }
  FL_ASSIGN(job.manifest, manifest_for(flags, program, document, profile, *cell));
  job.ceilings = document.ceilings;
  rep::RunJob reported = job;
  job.manifest.options.command_template = profile_command(flags, program, profile);
  FL_ASSIGN(reported.manifest.options.command_template, reported_command(document, program));
  rep::RealInstruments tools(job);
  rep::RealInstruments reported_tools(reported);
  rep::CellAgain with_profile(job, tools, "profile");
  rep::CellAgain as_reported(reported, reported_tools, "as-reported");
  const auto on_turn = [&](const rep::Checked& so_far) {
    const auto mean = [&](const rep::Document& of) {
      const rep::Cell* now = rep::find_cell(of, cell->ctx, cell->chats, cell->depth);
      return now != nullptr && now->decode_total ? rep::format_rate(now->decode_total->mean) : "-";
    };
    job.say(fmt::format("{}: {} tok/s, as the report started it {} tok/s so far", profile.name,
                        mean(so_far.profile), mean(so_far.reference)));
  };
  FL_ASSIGN(const rep::Checked checked,
            rep::check_cell(
                *cell, others_of(document, *cell), rep::reads_memory(document), with_profile, as_reported,
                most_seconds, [&] { return tools.now(); }, on_turn));
  FL_TRY(rep::write_report(job.out_dir, checked.profile));
  FL_TRY(rep::write_report(job.out_dir + "/as-reported", checked.reference));
  print_result(profile, *cell, checked);
  return verdict(profile, *cell, checked);
}

}  // namespace fl::apps::report
