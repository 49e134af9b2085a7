#include "report/assemble.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "report/machine.h"
#include "report/states.h"
#include "report/statistics.h"

namespace fl::report {
namespace {

// The largest context of the usual matrix.
constexpr int64_t kUsualContext = 131072;

// The kernel counts in ticks of 10 ms: over less time than this a share of 5 % is noise.
constexpr double kLeastLoadSeconds = 0.5;

using ConfigKey = std::pair<int64_t, int64_t>;

// The records, sorted by what they are about. Of two records of one thing the first complete batch counts,
// and the last start and plan.
struct Sorted {
  RunRecord run;
  Facts facts;
  bool has_facts = false;
  std::map<ConfigKey, Start> starts;
  std::map<ConfigKey, Lost> lost;
  std::map<ConfigKey, ConfigPlan> plans;
  std::vector<const Batch*> batches;
  std::map<const Batch*, int64_t> start_of;  // counted from 1
  int64_t n_starts = 0;                      // before visits
  std::optional<QualityRecord> quality;
  ChosenCells chosen;
  int64_t n_visits = 0;  // for profiles, after everything else
  double start_seconds = 0;
};

Sorted sort_records(const std::vector<Record>& records) {
  Sorted out;
  std::set<std::tuple<int64_t, int64_t, std::string, int64_t, int64_t>> seen;
  for (const Record& record : records) {
    if (const auto* run = std::get_if<RunRecord>(&record)) {
      out.run = *run;
    } else if (const auto* facts = std::get_if<Facts>(&record)) {
      out.facts = *facts;
      out.has_facts = true;
    } else if (const auto* start = std::get_if<Start>(&record)) {
      out.starts[{start->ctx, start->chats}] = *start;
      out.lost.erase({start->ctx, start->chats});
      out.start_seconds += start->startup_seconds;
      ++(out.chosen.empty() ? out.n_starts : out.n_visits);
    } else if (const auto* lost = std::get_if<Lost>(&record)) {
      out.lost[{lost->ctx, lost->chats}] = *lost;
    } else if (const auto* plan = std::get_if<ConfigPlan>(&record)) {
      out.plans.insert_or_assign({plan->ctx, plan->chats}, *plan);
    } else if (const auto* batch = std::get_if<Batch>(&record)) {
      const bool once = batch->kind == "measure";
      if (!once || seen.insert({batch->ctx, batch->chats, batch->depth, batch->repeat, batch->part}).second) {
        out.batches.push_back(batch);
        out.start_of[batch] = out.n_starts + out.n_visits;
      }
    } else if (const auto* visits = std::get_if<ProfileVisits>(&record)) {
      for (const ChosenCell& each : visits->chosen) {
        out.chosen[each.profile] = each.cell;
      }
    } else if (const auto* quality = std::get_if<QualityRecord>(&record)) {
      out.quality = *quality;
    }
  }
  return out;
}

void merge_flags(std::vector<Flag>& into, const std::vector<Flag>& flags) {
  for (const Flag& flag : flags) {
    if (std::none_of(into.begin(), into.end(), [&](const Flag& known) { return known.code == flag.code; })) {
      into.push_back(flag);
    }
  }
}

void merge_memory(Memory& into, const Batch& batch) {
  if (batch.memory_bytes && *batch.memory_bytes > into.bytes.value_or(0)) {
    into.bytes = batch.memory_bytes;
    into.basis = batch.memory_basis;
  }
  into.reason = into.bytes ? "" : batch.memory_reason;
}

// What the parts of one repeat are together.
struct RepeatSums {
  int64_t start = 0;  // of its first part
  HarmonicMean total;
  HarmonicMean per_chat;
  HarmonicMean prefill;
  std::vector<double> joules;
  std::vector<Yardstick> beside;
  std::vector<Glance> glances;
  double seconds = 0;
  double foreign_seconds = 0;
};

// Foreign load over a whole repeat, or over all of them: over one short batch it would be the ticks of two
// clocks.
void judge_load(Cell& cell, const std::map<int64_t, RepeatSums>& repeats) {
  double most = 0;
  RepeatSums all;
  const auto judge = [&](const RepeatSums& repeat) {
    most =
        repeat.seconds >= kLeastLoadSeconds ? std::max(most, repeat.foreign_seconds / repeat.seconds) : most;
  };
  for (const auto& [n, repeat] : repeats) {
    judge(repeat);
    all.seconds += repeat.seconds;
    all.foreign_seconds += repeat.foreign_seconds;
  }
  judge(all);
  if (most > kMaxForeignCpu) {
    cell.flags.push_back({"cpu_load", fmt::format("other programs used {:.0f} % of the CPU", 100 * most)});
  }
}

// What some batches of a cell met says how many they were.
void count_flags(Cell& cell, const std::vector<const Batch*>& batches) {
  for (Flag& flag : cell.flags) {
    const auto n = std::count_if(batches.begin(), batches.end(), [&](const Batch* batch) {
      return std::any_of(batch->flags.begin(), batch->flags.end(),
                         [&](const Flag& each) { return each.code == flag.code; });
    });
    if (static_cast<size_t>(n) < batches.size()) {
      flag.text += fmt::format(" (in {} of {} batches)", n, batches.size());
    }
  }
}

// Each of a cell's headline measures has a code of its own, so that a speed that can be trusted is not taken
// for one that can not.
void judge_spread(Cell& cell) {
  const auto judge = [&](const std::optional<Stat>& stat, const char* code, const char* what) {
    if (stat && stat->cv > kMaxCv) {
      cell.flags.push_back(
          {code, fmt::format("{} vary by {:.1f} % over {} repeats", what, 100 * stat->cv, stat->n)});
    }
  };
  judge(cell.decode_total ? cell.decode_total : cell.decode_per_chat, "spread", "decode tok/s");
  judge(cell.prefill, "spread_prefill", "prefill tok/s");
  judge(cell.joules_per_token, "spread_energy", "joules per token");
}

// The measured batches of one cell to its figures.
void fill_cell(Cell& cell, const std::vector<const Batch*>& batches, const Sorted& sorted) {
  std::vector<double> per_chat;
  std::vector<double> total;
  std::vector<double> prefill;
  std::vector<double> joules;
  std::vector<double> ttft;
  std::vector<double> gaps;
  std::vector<double> whole;
  std::vector<double> cached;
  std::vector<double> depth;
  std::map<int64_t, RepeatSums> repeats;
  for (const Batch* batch : batches) {
    RepeatSums& repeat = repeats[batch->repeat];
    repeat.start = repeat.start == 0 ? sorted.start_of.at(batch) : repeat.start;
    repeat.seconds += batch->seconds;
    repeat.foreign_seconds += batch->foreign_cpu * batch->seconds;
    std::vector<double> rates;
    for (const Sample& sample : batch->samples) {
      ++cell.n_requests;
      if (sample.status != "ok") {
        ++cell.n_not_ok;
        continue;
      }
      depth.push_back(static_cast<double>(sample.prompt_tokens));
      whole.push_back(sample.total_seconds);
      if (sample.ttft_seconds) {
        ttft.push_back(*sample.ttft_seconds);
      }
      if (sample.decode_rate) {
        rates.push_back(*sample.decode_rate);
      }
      if (sample.cached_tokens >= 0 && sample.prompt_tokens > 0) {
        cached.push_back(static_cast<double>(sample.cached_tokens) /
                         static_cast<double>(sample.prompt_tokens));
      }
    }
    if (batch->decode_total) {
      repeat.total.add(*batch->decode_total);
      repeat.per_chat.add(*batch->decode_total / static_cast<double>(cell.chats));
    } else if (!rates.empty()) {
      repeat.per_chat.add(stat_of(rates).mean);
    }
    if (batch->prefill_total) {
      repeat.prefill.add(*batch->prefill_total);
    }
    repeat.beside.insert(repeat.beside.end(), batch->beside.begin(), batch->beside.end());
    if (batch->glance) {
      repeat.glances.push_back(*batch->glance);
    }
    if (batch->joules) {
      repeat.joules.push_back(*batch->joules);
    }
    for (const int64_t gap : batch->gaps_us) {
      gaps.push_back(static_cast<double>(gap) * 1e-6);
    }
    merge_memory(cell.memory, *batch);
    merge_flags(cell.flags, batch->flags);
  }
  const auto keep = [](std::vector<double>& into, const std::optional<double>& value) {
    if (value) {
      into.push_back(*value);
    }
  };
  cell.repeats.emplace();
  for (const auto& [n, repeat] : repeats) {
    keep(total, repeat.total.value());
    if (const auto rate = repeat.total.value()) {
      // Over a short time the kernel's ticks say nothing.
      const bool long_enough = repeat.seconds >= kLeastLoadSeconds;
      cell.repeats->push_back(repeat_of(n, *rate, long_enough ? repeat.foreign_seconds / repeat.seconds : 0,
                                        repeat.beside, repeat.glances, repeat.start));
    }
    keep(per_chat, repeat.per_chat.value());
    keep(prefill, repeat.prefill.value());
    if (!repeat.joules.empty()) {
      joules.push_back(stat_of(repeat.joules).mean);
    }
  }
  count_flags(cell, batches);
  cell.n_repeats = static_cast<int64_t>(repeats.size());
  judge_load(cell, repeats);
  const auto stat = [](const std::vector<double>& values) {
    return values.empty() ? std::nullopt : std::optional(stat_of(values));
  };
  const auto distribution = [](const std::vector<double>& values) {
    return values.empty() ? std::nullopt : std::optional(distribution_of(values));
  };
  cell.decode_per_chat = stat(per_chat);
  cell.decode_total = stat(total);
  cell.prefill = stat(prefill);
  cell.joules_per_token = stat(joules);
  cell.ttft = distribution(ttft);
  cell.gap = distribution(gaps);
  cell.end_to_end = distribution(whole);
  if (!gaps.empty()) {
    cell.gap_histogram = histogram_of(gaps);
  }
  if (!cached.empty()) {
    cell.cached_share = median(cached);
  }
  cell.depth_tokens = depth.empty() ? 0 : static_cast<int64_t>(median(depth));
  cell.status = per_chat.empty() ? "failed" : "ok";
  if (per_chat.empty()) {
    cell.reason = cell.flags.empty() ? "no answer with two tokens" : cell.flags.front().text;
  }
  judge_spread(cell);
  if (cell.n_repeats < kLeastRepeats) {
    merge_flags(cell.flags, {{"few_samples",
                              fmt::format("only {} of at least {} repeats", cell.n_repeats, kLeastRepeats)}});
  }
}

// Why a cell has no measured batch.
void explain(Cell& cell, const Sorted& sorted) {
  const ConfigKey key{cell.ctx, cell.chats};
  if (const auto plan = sorted.plans.find(key); plan != sorted.plans.end()) {
    for (const Cut& cut : plan->second.cut) {
      if (cut.depth == cell.depth) {
        cell.status = "cut";
        cell.reason = cut.text;
        cell.reason_code = cut.code;
        return;
      }
    }
  }
  if (const auto start = sorted.starts.find(key); start != sorted.starts.end() && !start->second.started) {
    cell.status = "failed";
    cell.reason = start->second.error;
    return;
  }
  if (const auto lost = sorted.lost.find(key); lost != sorted.lost.end()) {
    cell.status = "failed";
    cell.reason = lost->second.error;
    return;
  }
  cell.status = "missing";
  cell.reason = "not reached";
}

void add_cells(Document& document, const Sorted& sorted) {
  for (const int64_t ctx : document.ctx) {
    for (const int64_t chats : document.chats) {
      for (const std::string& depth : document.depths) {
        Cell cell;
        cell.id = fmt::format("{}x{} {}", ctx, chats, depth);
        cell.ctx = ctx;
        cell.chats = chats;
        cell.depth = depth;
        std::vector<const Batch*> batches;
        for (const Batch* batch : sorted.batches) {
          if (batch->kind == "measure" && batch->ctx == ctx && batch->chats == chats &&
              batch->depth == depth) {
            batches.push_back(batch);
          }
        }
        if (batches.empty()) {
          explain(cell, sorted);
        } else {
          fill_cell(cell, batches, sorted);
        }
        document.integrity.n_cells_flagged += cell.flags.empty() ? 0 : 1;
        document.cells.push_back(std::move(cell));
      }
    }
  }
}

void add_configurations(Document& document, const Sorted& sorted) {
  for (const auto& [key, start] : sorted.starts) {
    Configuration configuration;
    configuration.ctx = start.ctx;
    configuration.chats = start.chats;
    configuration.window = start.window;
    configuration.command = start.command;
    configuration.started = start.started;
    configuration.error = start.error;
    configuration.startup_seconds = start.startup_seconds;
    if (const auto lost = sorted.lost.find(key); lost != sorted.lost.end()) {
      configuration.error = lost->second.error;
    }
    configuration.memory.reason = start.started ? "not measured" : "the server did not start";
    for (const Batch* batch : sorted.batches) {
      if (ConfigKey{batch->ctx, batch->chats} == key) {
        merge_memory(configuration.memory, *batch);
      }
    }
    configuration.memory.parts = start.parts;
    for (Cell& cell : document.cells) {
      if (ConfigKey{cell.ctx, cell.chats} == key) {
        cell.memory.parts = start.parts;
      }
    }
    document.configurations.push_back(std::move(configuration));
  }
}

void add_requests(Document& document, const Sorted& sorted) {
  constexpr double kUncached = 0.02;
  for (const Batch* batch : sorted.batches) {
    for (const Sample& sample : batch->samples) {
      document.samples.push_back(sample);
      Integrity& integrity = document.integrity;
      ++integrity.n_requests;
      integrity.n_ok += sample.status == "ok" ? 1 : 0;
      integrity.n_truncated += sample.status == "truncated" ? 1 : 0;
      integrity.n_timeout += sample.status == "timeout" ? 1 : 0;
      integrity.n_error += sample.status == "error" ? 1 : 0;
      const auto prompt = static_cast<double>(sample.prompt_tokens);
      const bool alone = batch->samples.size() == 1;
      const bool fresh = static_cast<double>(sample.cached_tokens) <= kUncached * prompt;
      const bool counts = batch->kind == "fill" || (batch->kind == "measure" && batch->depth == "empty");
      if (sample.status == "ok" && alone && fresh && counts && sample.ttft_seconds && sample.prefill_rate) {
        document.prompts.push_back(
            {batch->ctx, batch->chats, sample.prompt_tokens, *sample.ttft_seconds, *sample.prefill_rate});
      }
    }
  }
}

void judge(Document& document, const Sorted& sorted) {
  Integrity& integrity = document.integrity;
  const int64_t n_not_ok = integrity.n_requests - integrity.n_ok;
  const bool any = std::any_of(document.cells.begin(), document.cells.end(),
                               [](const Cell& cell) { return cell.status == "ok"; });
  if (static_cast<double>(n_not_ok) > kMaxNotOk * static_cast<double>(integrity.n_requests)) {
    integrity.valid = false;
    integrity.reason =
        fmt::format("{} of {} requests were not ok ({} truncated, {} errors, {} time-outs)", n_not_ok,
                    integrity.n_requests, integrity.n_truncated, integrity.n_error, integrity.n_timeout);
  } else if (!any) {
    integrity.valid = false;
    integrity.reason = "no cell was measured";
  }
  for (const Cell& cell : document.cells) {
    merge_flags(integrity.flags, cell.flags);
  }
  if (document.drift) {
    for (const DriftPoint& point : document.drift->points) {
      if (point.moved) {
        integrity.flags.push_back(
            {"drift",
             fmt::format("{} measured again after {} configurations: {:.1f} tok/s, before {:.1f} ({:+.0f} %)",
                         document.drift->cell, point.after, point.again.median, document.drift->first.median,
                         100 * point.change)});
      }
    }
  }
  if (const std::string states = run_states_text(document); !states.empty()) {
    integrity.flags.push_back(
        {"machine_states", "the machine did not stay the same: a word between its cores took " + states +
                               " of the repeats; a speed is the mean of those that its cell met"});
  }
  if (sorted.has_facts) {
    for (const std::string& note : sorted.facts.notes) {
      integrity.flags.push_back({"server", note});
    }
  }
}

std::string reuse_word(const Sorted& sorted) {
  bool stated = false;
  bool reused = false;
  for (const Batch* batch : sorted.batches) {
    for (const Sample& sample : batch->samples) {
      stated = stated || sample.cached_tokens >= 0;
      reused = reused || (batch->depth != "empty" && sample.cached_tokens > sample.prompt_tokens / 2);
    }
  }
  return reused ? "reported" : stated ? "none" : "unstated";
}

void describe_server(Document& document, const Manifest& manifest, const Sorted& sorted) {
  const Facts& facts = sorted.facts;
  Server& server = document.server;
  server.kind = manifest.options.kind;
  server.url = manifest.options.url;
  server.command_template = manifest.options.command_template;
  server.name = facts.name;
  server.version = facts.version;
  server.token_counts = facts.token_counts;
  server.notes = facts.notes;
  server.prefix_reuse = reuse_word(sorted);
  Model& model = document.model;
  model = manifest.model;
  if (model.name.empty()) {
    model.name = facts.model;
  }
  if (model.path.empty()) {
    model.path = facts.model_path;
  }
  if (model.quantisation.empty()) {
    model.quantisation = facts.model_type;
  }
  const auto keep = [](std::optional<int64_t>& into, const std::optional<int64_t>& value) {
    if (!into) {
      into = value;
    }
  };
  keep(model.n_params, facts.n_params);
  keep(model.file_bytes, facts.model_bytes);
  keep(model.ctx_train, facts.ctx_train);
}

// One sentence for each reason, with every place that it holds for: "…: 16k with 1 chat (full), 32k with 1
// chat".
std::vector<std::string> left_out(const Sorted& sorted, size_t n_depths, double budget) {
  std::vector<std::pair<std::string, std::string>> reasons;  // and its places
  for (const auto& [key, config] : sorted.plans) {
    std::vector<std::pair<std::string, std::vector<std::string>>> here;  // reason, depths
    for (const Cut& cut : config.cut) {
      const std::string reason = cut.code == kCutBudget
                                     ? fmt::format("left out to stay within the budget of {:.0f} s", budget)
                                     : cut.text;
      auto at =
          std::find_if(here.begin(), here.end(), [&](const auto& each) { return each.first == reason; });
      if (at == here.end()) {
        at = here.insert(here.end(), {reason, {}});
      }
      at->second.push_back(cut.depth);
    }
    for (const auto& one : here) {
      const std::string& reason = one.first;
      const std::vector<std::string>& depths = one.second;
      std::string place = fmt::format("{} with {} {}", short_tokens(key.first), key.second,
                                      key.second == 1 ? "chat" : "chats");
      if (depths.size() < n_depths) {
        place += fmt::format(" ({})", fmt::join(depths, ", "));
      }
      auto at = std::find_if(reasons.begin(), reasons.end(),
                             [&](const auto& each) { return each.first == reason; });
      if (at == reasons.end()) {
        reasons.emplace_back(reason, place);
      } else {
        at->second += ", ";
        at->second += place;
      }
    }
  }
  std::vector<std::string> out;
  out.reserve(reasons.size());
  for (const auto& [reason, places] : reasons) {
    out.push_back(fmt::format("{}: {}", reason, places));
  }
  return out;
}

void describe_run(Document& document, const Manifest& manifest, const Sorted& sorted,
                  const std::string& stop_reason) {
  Run& run = document.run;
  run.id = sorted.run.id;
  run.started_at = sorted.run.started_at;
  run.command = sorted.run.command;
  run.quick = manifest.options.quick;
  run.program_version = manifest.program_version;
  run.seconds = sorted.start_seconds;
  for (const Batch* batch : sorted.batches) {
    run.seconds += batch->seconds;
    run.finished_at = std::max(run.finished_at, batch->at);
  }
  if (sorted.quality) {
    run.seconds += sorted.quality->seconds;
  }
  Plan& plan = run.plan;
  plan.budget_seconds = manifest.options.budget_seconds;
  plan.repeats = manifest.options.repeats;
  plan.tokens_per_request = manifest.options.tokens_per_request;
  plan.prompt_tokens = manifest.options.prompt_tokens;
  for (const auto& [key, config] : sorted.plans) {
    plan.estimated_seconds += config.estimated_seconds;
  }
  plan.decisions = left_out(sorted, document.depths.size(), plan.budget_seconds);
  describe_repeats(plan, document.configurations.size() > 1 ? count_walks(sorted.batches) : 0,
                   sorted.n_visits);
  const Model& model = document.model;
  if (model.ctx_train && *model.ctx_train < kUsualContext && !document.ctx.empty() &&
      document.ctx.back() <= *model.ctx_train) {
    plan.decisions.insert(
        plan.decisions.begin(),
        fmt::format("the model was trained for {} tokens: larger contexts are not in the matrix",
                    *model.ctx_train));
  }
  const bool tasks_done = manifest.options.tasks == "none" || sorted.quality.has_value();
  run.complete = tasks_done && !document.cells.empty() &&
                 std::none_of(document.cells.begin(), document.cells.end(), [&](const Cell& cell) {
                   const auto plan_of = sorted.plans.find({cell.ctx, cell.chats});
                   const bool short_of = cell.status == "ok" && plan_of != sorted.plans.end() &&
                                         cell.n_repeats < plan_of->second.repeats &&
                                         !sorted.lost.contains({cell.ctx, cell.chats});
                   const bool stopped = cell.status == "failed" && !stop_reason.empty();
                   return cell.status == "missing" || short_of || stopped;
                 });
  run.stop_reason = run.complete ? "" : stop_reason;
}

}  // namespace

std::string short_tokens(int64_t n_tokens) {
  constexpr int64_t kKibi = 1024;
  return n_tokens >= kKibi && n_tokens % kKibi == 0 ? fmt::format("{}k", n_tokens / kKibi)
                                                    : fmt::format("{}", n_tokens);
}

Document assemble(const Manifest& manifest, const std::vector<Record>& records,
                  const std::string& stop_reason) {
  const Sorted sorted = sort_records(records);
  Document document;
  document.machine = manifest.machine;
  document.ceilings = sorted.run.ceilings ? sorted.run.ceilings : sorted.facts.ceilings;
  std::set<int64_t> ctx(manifest.options.ctx.begin(), manifest.options.ctx.end());
  std::set<int64_t> chats(manifest.options.chats.begin(), manifest.options.chats.end());
  for (const auto& [key, plan] : sorted.plans) {
    ctx.insert(key.first);
    chats.insert(key.second);
  }
  document.ctx.assign(ctx.begin(), ctx.end());
  document.chats.assign(chats.begin(), chats.end());
  document.depths = manifest.options.depths;
  describe_server(document, manifest, sorted);
  add_cells(document, sorted);
  add_configurations(document, sorted);
  add_requests(document, sorted);
  document.drift = drift_of(records);
  explain_spread(document.cells, reads_memory(document));
  judge(document, sorted);
  describe_run(document, manifest, sorted, stop_reason);
  if (sorted.quality) {
    document.quality = sorted.quality->quality;
  } else if (manifest.options.tasks == "none" && document.model.random_weights) {
    Quality none;
    none.tasks = "none";
    none.reason = "random weights: an answer would mean nothing";
    document.quality = none;
  }
  document.definitions = definitions(document);
  conclude(document, sorted.chosen);
  return document;
}

void conclude(Document& document, const ChosenCells& chosen) {
  document.findings = find_findings(document);
  document.recommendation = recommend(document, chosen);
  document.headline = summarize(document);
}

}  // namespace fl::report
