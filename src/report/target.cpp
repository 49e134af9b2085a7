#include "report/target.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "client/completion.h"
#include "report/prompts.h"
#include "report/requests.h"
#include "report/statistics.h"

namespace fl::report {
namespace {

using Json = nlohmann::json;

constexpr std::array<size_t, 2> kCalibrationBytes{600, 2400};
constexpr int64_t kCalibrationTokens = 24;
constexpr uint64_t kMostCalibrations = 5;
constexpr double kCalibrationSeconds = 1;
constexpr int64_t kRunawayFactor = 4;  // chunks over the asked tokens: it does not stop by itself
constexpr auto kPoll = std::chrono::milliseconds(10);
constexpr double kAskSeconds = 20;
constexpr double kUsualTokensPerByte = 0.25;
// English text is never outside this for any tokenizer in use: a byte is at most one token.
constexpr double kLeastTokensPerByte = 0.08;
constexpr double kMostTokensPerByte = 1.05;
constexpr double kUsageTolerance = 0.05;
constexpr int64_t kSlackTokens = 48;  // templates of several turns, the rounding of words
// Of the window: the error of the estimate, with and without a tokenizer to check it by.
constexpr double kSlackShare = 0.005;
constexpr double kEstimatedSlackShare = 0.06;
constexpr int64_t kPartOfWindow = 8;      // prompt and answer take at most this part each
constexpr int64_t kLeastPartTokens = 16;  // of a prompt or an answer

Json object_at(const client::Endpoint& endpoint, const char* path, const client::Limits& limits,
               long& status) {
  const client::HttpResult result = client::http_get(endpoint, path, limits);
  status = result.fault == client::TransportFault::none ? result.response.status : 0;
  Json json = status == 200 ? Json::parse(result.response.body, nullptr, false) : Json();
  return json.is_object() ? json : Json::object();
}

std::string text_at(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

int64_t count_at(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found != json.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

const Json& member(const Json& json, const char* name) {
  static const Json kNone = Json::object();
  const auto found = json.find(name);
  return found != json.end() && found->is_object() ? *found : kNone;
}

void read_model(const Json& models, const Options& options, Facts& facts) {
  const auto data = models.find("data");
  if (data == models.end() || !data->is_array() || data->empty() || !data->front().is_object()) {
    facts.model = options.model_name;
    return;
  }
  const Json& first = data->front();
  facts.model = options.model_name.empty() ? text_at(first, "id") : options.model_name;
  const std::string owner = text_at(first, "owned_by");
  facts.name = owner == "llamacpp" ? "llama-server" : owner;
  facts.window = count_at(first, "max_model_len");  // vLLM
  const Json& meta = member(first, "meta");
  if (const int64_t n = count_at(meta, "n_params"); n > 0) {
    facts.n_params = n;
  }
  if (const int64_t n = count_at(meta, "size"); n > 0) {
    facts.model_bytes = n;
  }
  if (const int64_t n = count_at(meta, "n_ctx_train"); n > 0) {
    facts.ctx_train = n;
  }
}

void read_props(const Json& props, Facts& facts) {
  facts.n_slots = count_at(props, "total_slots");
  if (const int64_t n = count_at(member(props, "default_generation_settings"), "n_ctx"); n > 0) {
    facts.window = n;
  }
  facts.model_path = text_at(props, "model_path");
  facts.model_type = text_at(props, "model_ftype");
  facts.version = text_at(props, "build_info");
  if (facts.version.find("freelunch") != std::string::npos) {
    facts.name = "freelunch";
  }
  for (const auto& [name, bytes] : member(props, "memory").items()) {
    if (bytes.is_number_integer() && bytes.get<int64_t>() >= 0) {
      facts.parts.push_back({name, bytes.get<int64_t>()});
    }
  }
}

void read_limits(const Json& props, Facts& facts) {
  const Json& limits = member(props, "limits");
  const auto number = [&](const char* name) {
    const auto found = limits.find(name);
    return found != limits.end() && found->is_number() ? found->get<double>() : 0;
  };
  Ceilings out{number("read_bytes_per_second"), number("operations_per_second"), ""};
  if (out.bytes_per_second > 0 && out.ops_per_second > 0) {
    out.source = "measured by the server at its start, on " + text_at(limits, "device");
    facts.ceilings = out;
  }
}

struct Calibration {
  client::Completion completion;
  std::string text;
};

Result<Calibration> calibrate(const client::Endpoint& endpoint, Facts& facts, const Options& options,
                              uint64_t seed, size_t n_bytes, const std::atomic<bool>* cancel) {
  Calibration out;
  out.text = make_text(seed, n_bytes);
  std::atomic<bool> stop = false;
  std::atomic<bool> done = false;
  int64_t n_chunks = 0;
  client::CompletionOptions how;
  how.length_is_ok = true;
  how.limits.total_seconds = options.request_seconds;
  how.limits.cancel = &stop;
  how.on_text = [&](std::string_view, bool) {
    if (++n_chunks > kRunawayFactor * kCalibrationTokens) {
      stop = true;
    }
  };
  std::thread watcher([&] {
    for (; !done; std::this_thread::sleep_for(kPoll)) {
      if (cancel->load()) {
        stop = true;
      }
    }
  });
  const auto ask = [&] {
    n_chunks = 0;
    out.completion =
        client::complete(endpoint, "/v1/chat/completions",
                         chat_body(facts.model, "", out.text, kCalibrationTokens, facts.extensions), how);
  };
  ask();
  const bool refused = out.completion.http_status == 400 || out.completion.http_status == 422;
  if (refused && facts.extensions) {
    facts.extensions = false;
    facts.notes.push_back(
        "the server refuses ignore_eos: an answer may end before the wanted number of tokens");
    ask();
  }
  done = true;
  watcher.join();
  if (cancel->load()) {
    return fail(ErrorCode::unavailable, "interrupted");
  }
  const client::Completion& got = out.completion;
  if (got.outcome == client::Outcome::cancelled) {
    return fail(ErrorCode::network, fmt::format("the server at {} does not stop at max_tokens {}",
                                                endpoint.url, kCalibrationTokens));
  }
  if (got.outcome != client::Outcome::ok) {
    return fail(ErrorCode::network, fmt::format("a first chat with {} failed ({}): {}", endpoint.url,
                                                client::outcome_name(got.outcome), got.error));
  }
  return out;
}

void find_tokenizer(const client::Endpoint& endpoint, Facts& facts, const std::atomic<bool>* cancel) {
  for (const char* shape : {"llama-server", "vllm"}) {
    facts.tokenizer = shape;
    if (count_tokens(endpoint, facts, "The river found the bridge.", cancel) > 0) {
      return;
    }
  }
  facts.tokenizer.clear();
}

// Of the calibration's texts, so that a small window holds them whatever a token is.
double share_that_fits(int64_t window) {
  if (window <= 0) {
    return 1;
  }
  const auto room = static_cast<double>(window - kSlackTokens - kCalibrationTokens);
  constexpr double kLeastShare = 0.05;
  return std::clamp(room / (kMostTokensPerByte * static_cast<double>(kCalibrationBytes[1])), kLeastShare,
                    1.0);
}

// Decides how tokens are counted, from two chats of different lengths.
void settle_counts(const client::Endpoint& endpoint, const Calibration& small, const Calibration& large,
                   Facts& facts, const std::atomic<bool>* cancel) {
  const auto bytes = static_cast<double>(large.text.size() - small.text.size());
  const int64_t used_small = small.completion.usage.prompt_tokens;
  const int64_t used_large = large.completion.usage.prompt_tokens;
  const bool stated = used_small > 0 && used_large > 0;
  const double by_usage = stated ? static_cast<double>(used_large - used_small) / bytes : 0;
  const int64_t own_small = facts.tokenizer.empty() ? -1 : count_tokens(endpoint, facts, small.text, cancel);
  const int64_t own_large = facts.tokenizer.empty() ? -1 : count_tokens(endpoint, facts, large.text, cancel);
  if (own_small > 0 && own_large > own_small) {
    const double by_tokenizer = static_cast<double>(own_large - own_small) / bytes;
    const bool agree = stated && std::abs(by_usage - by_tokenizer) <= kUsageTolerance * by_tokenizer;
    if (stated && !agree) {
      facts.notes.push_back(fmt::format(
          "usage is not believed: {} and {} prompt tokens for texts that the server's own tokenizer "
          "counts as {} and {}",
          used_small, used_large, own_small, own_large));
    }
    facts.token_counts = agree ? "usage" : "tokenizer";
    facts.tokens_per_byte = by_tokenizer;
    facts.overhead_tokens = agree ? static_cast<double>(used_small - own_small) : 0;
    return;
  }
  if (stated && by_usage >= kLeastTokensPerByte && by_usage <= kMostTokensPerByte) {
    facts.token_counts = "usage";
    facts.tokens_per_byte = by_usage;
    facts.overhead_tokens =
        static_cast<double>(used_small) - by_usage * static_cast<double>(small.text.size());
    return;
  }
  facts.token_counts = "chunks";
  facts.tokens_per_byte = kUsualTokensPerByte;
  facts.notes.push_back(
      stated
          ? fmt::format("usage is not believed: {} and {} prompt tokens for {} and {} bytes of English text; "
                        "answers are counted in chunks and prompts estimated",
                        used_small, used_large, small.text.size(), large.text.size())
          : "the server sends no usage and has no tokenizer: answers are counted in chunks and prompts "
            "estimated");
}

}  // namespace

int64_t count_tokens(const client::Endpoint& endpoint, const Facts& facts, std::string_view text,
                     const std::atomic<bool>* cancel) {
  client::Limits limits;
  limits.total_seconds = kAskSeconds;
  limits.cancel = cancel;
  const Json body =
      facts.tokenizer == "vllm" ? Json{{"model", facts.model}, {"prompt", text}} : Json{{"content", text}};
  const client::HttpResult result = client::http_post(
      endpoint, "/tokenize", body.dump(-1, ' ', false, Json::error_handler_t::replace), limits);
  if (result.response.status != 200) {
    return -1;
  }
  const Json answer = Json::parse(result.response.body, nullptr, false);
  if (!answer.is_object()) {
    return -1;
  }
  const auto tokens = answer.find("tokens");
  return tokens != answer.end() && tokens->is_array() ? static_cast<int64_t>(tokens->size()) : -1;
}

Result<Facts> describe_server(const client::Endpoint& endpoint, const Options& options,
                              const std::atomic<bool>* cancel) {
  client::Limits limits;
  limits.total_seconds = kAskSeconds;
  limits.cancel = cancel;
  Facts facts;
  const client::HttpResult models = client::http_get(endpoint, "/v1/models", limits);
  if (cancel->load()) {
    return fail(ErrorCode::unavailable, "interrupted");
  }
  if (models.fault != client::TransportFault::none) {
    return fail(ErrorCode::network, models.error);
  }
  Json list = models.response.status == 200 ? Json::parse(models.response.body, nullptr, false) : Json();
  read_model(list.is_object() ? list : Json::object(), options, facts);
  long status = 0;
  const Json props = object_at(endpoint, "/props", limits, status);
  read_props(props, facts);
  read_limits(props, facts);
  if (facts.version.empty()) {
    facts.version = text_at(object_at(endpoint, "/version", limits, status), "version");
  }
  return facts;
}

Result<Facts> ask_server(const client::Endpoint& endpoint, const Options& options, uint64_t seed,
                         const std::atomic<bool>* cancel) {
  FL_ASSIGN(Facts facts, describe_server(endpoint, options, cancel));
  find_tokenizer(endpoint, facts, cancel);
  const double fits = share_that_fits(facts.window);
  const auto ask = [&](size_t n_bytes, uint64_t text_seed) {
    return calibrate(endpoint, facts, options, text_seed,
                     static_cast<size_t>(fits * static_cast<double>(n_bytes)), cancel);
  };
  FL_ASSIGN(const Calibration small, ask(kCalibrationBytes[0], seed));
  FL_ASSIGN(const Calibration large, ask(kCalibrationBytes[1], seed + 1));
  settle_counts(endpoint, small, large, facts, cancel);
  // Of a fast server one answer says little: a few are asked while they cost next to nothing.
  std::vector<double> prefill;
  std::vector<double> decode;
  double spent = 0;
  Calibration timed = large;
  for (uint64_t n = 1;; ++n) {
    const client::Completion& got = timed.completion;
    const double prompt_tokens =
        facts.tokens_per_byte * static_cast<double>(timed.text.size()) + facts.overhead_tokens;
    if (got.first_token > 0) {
      prefill.push_back(prompt_tokens / got.first_token);
    }
    if (got.chunk_seconds.size() > 1 && got.chunk_seconds.back() > got.chunk_seconds.front()) {
      decode.push_back(static_cast<double>(got.chunk_seconds.size() - 1) /
                       (got.chunk_seconds.back() - got.chunk_seconds.front()));
    }
    spent += got.total;
    if (n == kMostCalibrations || spent > kCalibrationSeconds) {
      break;
    }
    FL_ASSIGN(timed, ask(kCalibrationBytes[1], seed + 1 + n));
  }
  facts.calibration_prefill = prefill.empty() ? 0 : median(prefill);
  facts.calibration_decode = decode.empty() ? 0 : median(decode);
  return facts;
}

size_t TextSizes::bytes(const client::Endpoint& endpoint, const Facts& facts, uint64_t seed, int64_t n_tokens,
                        const std::atomic<bool>* cancel) {
  const auto known = known_.find({seed, n_tokens});
  if (known != known_.end()) {
    return known->second;
  }
  const auto wanted = static_cast<double>(std::max<int64_t>(n_tokens, 0));
  double size = wanted / facts.tokens_per_byte;
  // Text of one kind: a second guess from the real count is right to a few tokens.
  constexpr int kGuesses = 2;
  for (int guess = 0; guess < kGuesses && !facts.tokenizer.empty() && n_tokens > 0; ++guess) {
    const int64_t counted = count_tokens(endpoint, facts, make_text(seed, static_cast<size_t>(size)), cancel);
    if (counted <= 0) {
      break;
    }
    size *= wanted / static_cast<double>(counted);
  }
  return known_[{seed, n_tokens}] = static_cast<size_t>(size);
}

int64_t longest_answer(const Shape& shape) {
  constexpr int64_t kMostStretch = 2;  // times the asked tokens
  return shape.answer + std::min(kMostStretch * shape.answer, shape.window / kPartOfWindow);
}

Shape shape_of(std::string_view depth, int64_t window, const Options& options, const Facts& facts) {
  Shape out;
  out.window = window;
  out.prompt = std::max(kLeastPartTokens, std::min(options.prompt_tokens, window / kPartOfWindow));
  out.answer = std::max(kLeastPartTokens, std::min(options.tokens_per_request, window / kPartOfWindow));
  if (depth == "empty") {
    return out;
  }
  const double share = facts.tokenizer.empty() ? kEstimatedSlackShare : kSlackShare;
  const auto slack =
      kSlackTokens +
      static_cast<int64_t>(std::ceil(2 * facts.overhead_tokens + share * static_cast<double>(window)));
  const int64_t full = std::max<int64_t>(0, window - out.prompt - longest_answer(out) - slack);
  out.filled = depth == "half" ? full / 2 : full;
  return out;
}

}  // namespace fl::report
