// One batch: P chats at once, each timed on its own, the machine watched meanwhile.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "client/completion.h"
#include "report/prompts.h"
#include "report/requests.h"
#include "report/target.h"

namespace fl::report {
namespace {

using Clock = std::chrono::steady_clock;
using client::Completion;
using client::Outcome;

constexpr auto kPoll = std::chrono::milliseconds(10);
// A server that sends more chunks than this many times the asked tokens does not stop by itself.
constexpr int64_t kRunawayFactor = 2;
constexpr int64_t kRunawaySlack = 64;
constexpr double kCountTolerance = 0.1;    // between usage and the server's tokenizer, for one answer
constexpr double kLeastOverlap = 0.25;     // share of the mean decoding time in which all chats decode
constexpr double kMostCachedShare = 0.1;   // of a prompt that should be new
constexpr int64_t kMostCachedTokens = 64;  // the template's own beginning may be cached
constexpr double kUsefulReuse = 0.5;

struct Chat {
  Completion completion;
  std::string prefix;
  std::string prompt;
  std::atomic<bool> stop = false;
  std::atomic<int64_t> n_chunks = 0;
  bool runaway = false;
};

bool timed(const BatchSpec& spec) {
  return spec.kind == "measure" || spec.kind == "anchor";
}

void add_flag(std::vector<Flag>& flags, const char* code, std::string text) {
  const bool known =
      std::any_of(flags.begin(), flags.end(), [&](const Flag& flag) { return flag.code == code; });
  if (!known) {
    flags.push_back({code, std::move(text)});
  }
}

// The number of answer tokens, by the way that this run counts.
int64_t answer_tokens(const client::Endpoint& endpoint, const Facts& facts, const Chat& chat, int64_t asked,
                      const std::atomic<bool>* cancel, std::vector<Flag>& flags) {
  const auto n_chunks = static_cast<int64_t>(chat.completion.chunk_seconds.size());
  const int64_t stated = chat.completion.usage.completion_tokens;
  // A chunk with text holds at least one token, except that a last one may flush held-back bytes.
  const bool possible = stated >= n_chunks - 1 && stated <= asked;
  if (facts.token_counts == "usage" && stated >= 0 && possible) {
    return stated;
  }
  if (facts.token_counts == "usage") {
    add_flag(flags, "usage_disagrees",
             stated < 0 ? "the server left out usage"
                        : fmt::format("usage says {} answer tokens where {} were asked and {} chunks came",
                                      stated, asked, n_chunks));
  }
  if (!facts.tokenizer.empty()) {
    const int64_t n =
        count_tokens(endpoint, facts, chat.completion.reasoning + chat.completion.content, cancel);
    if (n > 0) {
      return n;
    }
  }
  add_flag(flags, "counted_by_chunks", "answer tokens are the number of chunks");
  return n_chunks;
}

Sample sample_of(const BatchSpec& spec, int64_t index, const Facts& facts, const client::Endpoint& endpoint,
                 const Chat& chat, const std::atomic<bool>* cancel, std::vector<Flag>& flags) {
  const Completion& got = chat.completion;
  Sample out;
  out.cell = fmt::format("{}x{} {}", spec.ctx, spec.chats, spec.depth);
  out.kind = spec.kind;
  out.repeat = spec.repeat;
  out.chat = index;
  out.status = std::string(client::outcome_name(got.outcome));
  out.error = got.error;
  if (chat.runaway) {
    out.status = "error";
    out.error = fmt::format("the server did not stop at max_tokens {}", spec.shape.answer);
  }
  out.total_seconds = got.total;
  out.cached_tokens = got.usage.cached_tokens;
  const double estimated =
      facts.overhead_tokens +
      facts.tokens_per_byte * static_cast<double>(chat.prefix.size() + chat.prompt.size());
  const bool believed = facts.token_counts == "usage" && got.usage.prompt_tokens > 0;
  out.prompt_tokens = believed ? got.usage.prompt_tokens : std::llround(estimated);
  if (believed && out.status == "ok" &&
      std::abs(static_cast<double>(out.prompt_tokens) - estimated) >
          kCountTolerance * estimated + static_cast<double>(kMostCachedTokens)) {
    add_flag(flags, "usage_disagrees",
             fmt::format("usage says {} prompt tokens where the calibration expects {:.0f}",
                         out.prompt_tokens, estimated));
    out.prompt_tokens = std::llround(estimated);
  }
  if (got.first_token >= 0) {
    out.ttft_seconds = got.first_token;
  }
  if (got.first_answer >= 0) {
    out.ttfa_seconds = got.first_answer;
  }
  if (out.status != "ok") {
    return out;
  }
  out.completion_tokens = spec.kind == "fill"
                              ? std::max<int64_t>(got.usage.completion_tokens, 0)
                              : answer_tokens(endpoint, facts, chat, spec.shape.answer, cancel, flags);
  const int64_t read = out.prompt_tokens - std::max<int64_t>(out.cached_tokens, 0);
  if (out.ttft_seconds && *out.ttft_seconds > 0 && read > 0) {
    out.prefill_rate = static_cast<double>(read) / *out.ttft_seconds;
  }
  const std::vector<double>& times = got.chunk_seconds;
  if (out.completion_tokens > 1 && times.size() > 1 && times.back() > times.front()) {
    out.decode_rate = static_cast<double>(out.completion_tokens - 1) / (times.back() - times.front());
  }
  return out;
}

// Tokens of all chats in the time in which all of them decode, a second: the prompts of others do not slow
// it.
std::optional<double> total_rate(const std::vector<std::unique_ptr<Chat>>& chats,
                                 const std::vector<Sample>& samples, std::vector<Flag>& flags) {
  double begin = 0;
  double end = INFINITY;
  double mean = 0;
  for (size_t i = 0; i < chats.size(); ++i) {
    const std::vector<double>& times = chats[i]->completion.chunk_seconds;
    if (!samples[i].decode_rate) {
      return std::nullopt;
    }
    begin = std::max(begin, times.front());
    end = std::min(end, times.back());
    mean += (times.back() - times.front()) / static_cast<double>(chats.size());
  }
  if (end - begin < kLeastOverlap * mean) {
    add_flag(flags, "no_overlap",
             fmt::format("all chats decoded together for only {:.2f} s of {:.2f} s",
                         std::max(0.0, end - begin), mean));
    return std::nullopt;
  }
  double tokens = 0;
  for (size_t i = 0; i < chats.size(); ++i) {
    const std::vector<double>& times = chats[i]->completion.chunk_seconds;
    const auto n = std::count_if(times.begin(), times.end(), [&](double t) { return t > begin && t <= end; });
    // A chunk may hold several tokens: the first chunk is the time zero of (tokens - 1) over (chunks - 1).
    tokens += static_cast<double>(n) * static_cast<double>(samples[i].completion_tokens - 1) /
              static_cast<double>(times.size() - 1);
  }
  return tokens / (end - begin);
}

std::optional<double> prefill_total(const std::vector<Sample>& samples) {
  int64_t tokens = 0;
  double last = 0;
  for (const Sample& sample : samples) {
    if (sample.status != "ok" || !sample.ttft_seconds) {
      return std::nullopt;
    }
    tokens += sample.prompt_tokens - std::max<int64_t>(sample.cached_tokens, 0);
    last = std::max(last, *sample.ttft_seconds);
  }
  return last > 0 && tokens > 0 ? std::optional(static_cast<double>(tokens) / last) : std::nullopt;
}

void judge(const BatchSpec& spec, Batch& batch) {
  for (const Sample& sample : batch.samples) {
    if (sample.status != "ok") {
      add_flag(batch.flags, sample.status.c_str(), sample.error);
      continue;
    }
    const auto cached = static_cast<double>(std::max<int64_t>(sample.cached_tokens, 0));
    const auto prompt = static_cast<double>(sample.prompt_tokens);
    if (timed(spec) && spec.shape.filled == 0 && sample.cached_tokens > kMostCachedTokens &&
        cached > kMostCachedShare * prompt) {
      add_flag(batch.flags, "cache_hit",
               fmt::format("{} of {} prompt tokens came from a cache although they are new",
                           sample.cached_tokens, sample.prompt_tokens));
    }
    if (timed(spec) && spec.shape.filled > 0 && sample.cached_tokens >= 0 && cached < kUsefulReuse * prompt) {
      add_flag(batch.flags, "refilled",
               fmt::format(
                   "the server had not kept the window's content and read it again ({} of {} prompt tokens "
                   "were cached): first tokens waited for that, the speed of all chats together does "
                   "not count it",
                   sample.cached_tokens, sample.prompt_tokens));
    }
    if (timed(spec) && sample.completion_tokens < spec.shape.answer / 2) {
      add_flag(
          batch.flags, "short_answer",
          fmt::format("the answer ended after {} of {} tokens", sample.completion_tokens, spec.shape.answer));
    }
  }
  if (batch.n_foreign_gpu > 0) {
    add_flag(batch.flags, "gpu_load", fmt::format("{} other programs were on the GPU", batch.n_foreign_gpu));
  }
  if (!batch.throttled.empty()) {
    add_flag(batch.flags, "throttled", "clocks were held down: " + batch.throttled);
  }
}

std::string place_of(const BatchSpec& spec, int64_t chat) {
  return fmt::format("{}x{}/{}/{}", spec.ctx, spec.chats, chat, spec.visit);
}

}  // namespace

Result<Batch> measure(const client::Endpoint& endpoint, const Facts& facts, const Options& options,
                      const BatchSpec& spec, TextSizes& sizes, const Nvml* nvml, pid_t server,
                      const std::atomic<bool>* cancel) {
  const bool fill = spec.kind == "fill";
  const int64_t max_tokens = fill ? 1 : spec.shape.answer;
  const auto text = [&](const std::string& place, int64_t tokens) {
    const uint64_t seed = seed_of(spec.run_id, place);
    return make_text(seed, sizes.bytes(endpoint, facts, seed, tokens, cancel));
  };
  std::vector<std::unique_ptr<Chat>> chats;
  std::vector<int64_t> indices;
  for (int64_t i = fill ? spec.only : 0; i < (fill ? spec.only + 1 : spec.chats); ++i) {
    auto chat = std::make_unique<Chat>();
    if (spec.shape.filled > 0) {
      chat->prefix = text(place_of(spec, i), spec.shape.filled);
    }
    if (!fill) {
      chat->prompt = text(fmt::format("{}/{}/{}/{}.{}.{}", place_of(spec, i), spec.depth, spec.kind,
                                      spec.anchor, spec.repeat, spec.part),
                          spec.shape.prompt);
    }
    indices.push_back(i);
    chats.push_back(std::move(chat));
  }

  Batch batch;
  batch.ctx = spec.ctx;
  batch.chats = spec.chats;
  batch.depth = spec.depth;
  batch.repeat = spec.repeat;
  batch.part = spec.part;
  batch.anchor = spec.anchor;
  batch.kind = spec.kind;
  batch.at = now_utc();
  const auto start = Clock::now();
  Watch watch(nvml, server);
  std::atomic<size_t> n_done = 0;
  std::vector<std::thread> threads;
  threads.reserve(chats.size());
  for (auto& chat : chats) {
    threads.emplace_back([&, raw = chat.get()] {
      client::CompletionOptions how;
      how.length_is_ok = true;
      how.limits.total_seconds = options.request_seconds;
      how.limits.cancel = &raw->stop;
      how.on_text = [raw, max_tokens](std::string_view, bool) {
        if (++raw->n_chunks > kRunawayFactor * max_tokens + kRunawaySlack) {
          raw->runaway = true;
          raw->stop = true;
        }
      };
      raw->completion = client::complete(
          endpoint, "/v1/chat/completions",
          chat_body(facts.model, raw->prefix, raw->prompt, max_tokens, facts.extensions), how);
      ++n_done;
    });
  }
  while (n_done < threads.size()) {
    if (cancel->load()) {
      for (auto& chat : chats) {
        chat->stop = true;
      }
    }
    std::this_thread::sleep_for(kPoll);
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const Watched seen = watch.stop();
  batch.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (cancel->load()) {
    return fail(ErrorCode::unavailable, "interrupted");
  }
  const bool nobody = std::all_of(chats.begin(), chats.end(), [](const auto& chat) {
    return chat->completion.http_status == 0 && chat->completion.outcome == Outcome::error;
  });
  if (nobody) {
    return fail(ErrorCode::network, chats.front()->completion.error);
  }

  for (size_t i = 0; i < chats.size(); ++i) {
    batch.samples.push_back(sample_of(spec, indices[i], facts, endpoint, *chats[i], cancel, batch.flags));
    const std::vector<double>& times = chats[i]->completion.chunk_seconds;
    if (timed(spec) && batch.samples.back().status == "ok") {
      for (size_t t = 1; t < times.size(); ++t) {
        batch.gaps_us.push_back(std::llround(1e6 * (times[t] - times[t - 1])));
      }
    }
  }
  if (timed(spec)) {
    batch.decode_total = total_rate(chats, batch.samples, batch.flags);
  }
  batch.prefill_total = prefill_total(batch.samples);
  batch.foreign_cpu = seen.foreign_cpu;
  batch.n_foreign_gpu = seen.n_foreign_gpu;
  batch.throttled = seen.throttled;
  batch.memory_bytes = seen.memory_bytes;
  batch.memory_basis = seen.memory_basis;
  batch.memory_reason = seen.memory_reason;
  const int64_t n_tokens =
      std::accumulate(batch.samples.begin(), batch.samples.end(), int64_t{0},
                      [](int64_t sum, const Sample& sample) { return sum + sample.completion_tokens; });
  if (seen.joules && n_tokens > 0 && timed(spec)) {
    batch.joules = *seen.joules / static_cast<double>(n_tokens);
  }
  judge(spec, batch);
  return batch;
}

}  // namespace fl::report
