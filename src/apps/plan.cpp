// `freelunch plan`: where every MiB goes, whether it fits, and the largest context that does. The sums are
// the runner's own (model::plan_cpu_runner), so that a plan is what a process then takes.
#include <array>
#include <cstdlib>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/flags/flags.h"
#include "apps/load/load.h"
#include "apps/load/plan.h"
#include "apps/models/file_types.h"
#include "apps/models/synth.h"
#include "gguf/gguf.h"
#include "model/host_buffer.h"
#include "model/weights.h"

namespace fl::apps {

MemoryPlan make_plan(const Options& options, const gguf::File& file, const model::Weights& weights,
                     const ContextPlan& context, bool gpu) {
  MemoryPlan plan;
  plan.context = context;
  if (auto items = plan_memory(weights, runner_options(options, context, gpu), gpu); items) {
    plan.items = std::move(*items);
  } else {
    plan.error = items.error();
    return plan;
  }
  if (gpu) {
    plan.items.push_back({"driver's context (typical)", kDriverContextBytes, true});
  } else {
    plan.items.push_back({"tokenizer and program", process_bytes(file), false});
  }
  plan.total = total_bytes(plan.items);
  return plan;
}

uint64_t process_bytes(const gguf::File& file) {
  uint64_t strings = 0;
  for (const gguf::File::Entry& entry : file.entries()) {
    if (entry.key == "tokenizer.ggml.tokens") {
      strings += entry.count * kBytesPerToken;
    } else if (entry.key == "tokenizer.ggml.merges") {
      strings += entry.count * kBytesPerMerge;
    }
  }
  return kProgramBytes + strings;
}

int64_t largest_context(const Options& options, const gguf::File& file, const model::Weights& weights,
                        int32_t n_chats, bool gpu, uint64_t room) {
  Options with = options;
  with.parallel = n_chats;
  with.kv_unified = 0;
  with.kv_unified_per_slot = 0;
  const auto fits = [&](int64_t grains) {
    const ContextPlan context =
        divide_context(with, grains * kContextGrain * n_chats, weights.config.n_ctx_train);
    const MemoryPlan plan = make_plan(with, file, weights, context, gpu);
    return !plan.error && plan.total <= room;
  };
  int64_t low = 0;
  int64_t high = (weights.config.n_ctx_train + kContextGrain - 1) / kContextGrain;
  if (fits(high)) {
    return weights.config.n_ctx_train;
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low * kContextGrain;
}

namespace {

using nlohmann::ordered_json;

constexpr double kMiB = 1024.0 * 1024.0;
constexpr std::array<int32_t, 3> kChats{1, 2, 4};
constexpr std::string_view kUsageLine = "freelunch plan (--model FILE | --size SIZE) [flags]";
constexpr std::string_view kAbout =
    "Says where every MiB would go, whether it fits, and the largest context for one, two and four chats.\n"
    "Exit code 4 when it does not fit.";
constexpr std::string_view kExamples =
    "examples:\n"
    "  freelunch plan -m model.gguf -c 32768\n"
    "  freelunch plan --size 27B --vram 24GiB -c 131072 -np 4 -ctk q8_0 -ctv q8_0\n"
    "  freelunch plan --size 9B --type Q8_0 --vram 16GiB --json";

struct Answer {
  std::string model;
  std::string where;
  MemoryPlan plan;
  uint64_t room = 0;
  std::array<int64_t, 3> largest{};
  int64_t n_ctx_train = 0;
};

Result<Answer> answer(const Options& options) {
  std::optional<gguf::File> file;
  if (!options.size.empty()) {
    FL_ASSIGN(file, hollow_model(options.size, options.type));
  } else {
    FL_ASSIGN(const std::string path, resolve_model(options));
    FL_ASSIGN(file, gguf::File::open(path));
  }
  FL_ASSIGN(const model::Weights weights, bind_model(*file));
  Answer out;
  const bool gpu = !options.vram.empty();
  if (gpu) {
    FL_ASSIGN(out.room, parse_bytes(options.vram));
    out.where = fmt::format("a GPU with {:.1f} GiB", static_cast<double>(out.room) / 0x1p30);
  } else {
    out.room = model::available_memory();
    out.where = fmt::format("this machine, {:.1f} GiB available", static_cast<double>(out.room) / 0x1p30);
  }
  out.n_ctx_train = weights.config.n_ctx_train;
  out.model = fmt::format("{}, {}", weights.config.name,
                          file_type_name(file->get_int("general.file_type").value_or(-1)));
  bool may_shrink = false;
  int64_t wanted = wanted_context(options, out.n_ctx_train, may_shrink);
  out.plan = make_plan(options, *file, weights, divide_context(options, wanted, out.n_ctx_train), gpu);
  if (out.plan.error) {
    return tl::unexpected<Error>(*out.plan.error);
  }
  for (size_t i = 0; i < kChats.size(); ++i) {
    out.largest[i] = largest_context(options, *file, weights, kChats[i], gpu, out.room);
  }
  return out;
}

ordered_json to_json(const Answer& a, const Options& options) {
  ordered_json items = ordered_json::array();
  for (const model::MemoryItem& item : a.plan.items) {
    items.push_back({{"name", item.name}, {"bytes", item.bytes}});
  }
  ordered_json largest = ordered_json::array();
  for (size_t i = 0; i < kChats.size(); ++i) {
    largest.push_back({{"chats", kChats[i]}, {"n_ctx_per_chat", a.largest[i]}});
  }
  return {{"model", a.model},
          {"where", a.where},
          {"available_bytes", a.room},
          {"n_slots", a.plan.context.n_slots},
          {"n_ctx_per_slot", a.plan.context.n_ctx_slot},
          {"n_ctx", a.plan.context.n_ctx},
          {"unified", a.plan.context.unified},
          {"cache_type_k", dtype_info(options.cache_type_k).name},
          {"cache_type_v", dtype_info(options.cache_type_v).name},
          {"n_ctx_train", a.n_ctx_train},
          {"items", items},
          {"total_bytes", a.plan.total},
          {"fits", a.plan.total <= a.room},
          {"largest", largest}};
}

void print_text(const Answer& a, const Options& options) {
  const ContextPlan& context = a.plan.context;
  fmt::print(
      "model     {}\nwhere     {}\ncontext   {} slot{} of {} tokens ({} in all{}), cache {} and {}\n\n",
      a.model, a.where, context.n_slots, context.n_slots == 1 ? "" : "s", context.n_ctx_slot, context.n_ctx,
      context.unified ? ", shared" : "", dtype_info(options.cache_type_k).name,
      dtype_info(options.cache_type_v).name);
  for (const model::MemoryItem& item : a.plan.items) {
    fmt::print("  {:<28} {:>12.1f} MiB\n", item.name, static_cast<double>(item.bytes) / kMiB);
  }
  const double total = static_cast<double>(a.plan.total) / kMiB;
  const double room = static_cast<double>(a.room) / kMiB;
  fmt::print("  {:<28} {:>12.1f} MiB of {:.1f}: {}\n\n", "total", total, room,
             total <= room ? fmt::format("fits, {:.1f} MiB stay free", room - total)
                           : fmt::format("does not fit, {:.1f} MiB are missing", total - room));
  for (size_t i = 0; i < kChats.size(); ++i) {
    fmt::print("  largest context with {} chat{} {}\n", kChats[i], kChats[i] == 1 ? ": " : "s:",
               a.largest[i] == 0 ? std::string("none")
               : a.largest[i] >= a.n_ctx_train
                   ? fmt::format("{} tokens each (what the model was trained for)", a.largest[i])
                   : fmt::format("{} tokens each", a.largest[i]));
  }
}

}  // namespace

int run_plan(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (wants_help(arguments)) {
    fmt::print("{}", flags_help(kPlan, kUsageLine, kAbout, kExamples));
    return kOk;
  }
  const auto options = parse_flags(
      arguments, kPlan, [](const char* name) { return std::getenv(name); },
      [](const std::string& text) { fmt::print(stderr, "plan: {}\n", text); });
  if (!options) {
    return report_error("plan", options.error());
  }
  const auto result = answer(*options);
  if (!result) {
    return report_error("plan", result.error());
  }
  if (options->json) {
    fmt::print("{}\n", to_json(*result, *options).dump(2));
  } else {
    print_text(*result, *options);
  }
  return result->plan.total <= result->room ? kOk : kDoesNotFit;
}

}  // namespace fl::apps
