// The server under measurement, as a client sees it: what it says about itself, how it counts tokens, and one
// batch of timed requests.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "client/http.h"
#include "report/machine.h"
#include "report/records.h"

namespace fl::report {

/// What /v1/models, /props and /version say, those that exist. Errors: network (nothing answers),
/// unavailable (cancelled).
Result<Facts> describe_server(const client::Endpoint& endpoint, const Options& options,
                              const std::atomic<bool>* cancel);

/// describe_server, then finds the tokenizer and sends two short chats to learn tokens per byte, the
/// template's tokens and a first speed. `seed` makes their texts new. Errors: also network when the chats
/// fail.
Result<Facts> ask_server(const client::Endpoint& endpoint, const Options& options, uint64_t seed,
                         const std::atomic<bool>* cancel);

/// Tokens of a text by the server's own tokenizer; -1: it has none or it failed.
int64_t count_tokens(const client::Endpoint& endpoint, const Facts& facts, std::string_view text,
                     const std::atomic<bool>* cancel);

/// What the prompts of a cell are made of, in tokens.
struct Shape {
  int64_t window = 0;
  int64_t filled = 0;  ///< of the prefix that fills the window; 0: none
  int64_t prompt = 0;  ///< of the part that is new in every request
  int64_t answer = 0;
};

/// Answers may be made longer than asked, to this (see stretched() in plan.h): full windows leave room for
/// it.
int64_t longest_answer(const Shape& shape);

/// The parts for one filling. Full leaves room for the prompt, the answer, the template and the error of the
/// estimate; half is half of that. Parts shrink in windows too small for them.
Shape shape_of(std::string_view depth, int64_t window, const Options& options, const Facts& facts);

/// How many bytes of make_text(seed, ...) are a wanted number of tokens: by the server's tokenizer when it
/// has one, otherwise by the calibration. Remembers its answers.
class TextSizes {
 public:
  size_t bytes(const client::Endpoint& endpoint, const Facts& facts, uint64_t seed, int64_t n_tokens,
               const std::atomic<bool>* cancel);

 private:
  std::map<std::pair<uint64_t, int64_t>, size_t> known_;
};

struct BatchSpec {
  int64_t ctx = 0;
  int64_t chats = 0;
  std::string depth;
  /// "measure", "anchor", "warm-up": all chats at once; "fill": chat `only`, its prefix alone
  std::string kind;
  int64_t repeat = 0;
  int64_t part = 1;
  int64_t anchor = 0;
  int64_t only = -1;
  Shape shape;
  std::string run_id;
  int64_t visit = 0;  ///< of the run's starts: a running server may still hold the texts of the last one
};

/// Sends the requests of one batch, watches the machine meanwhile, and judges what came back. A batch that
/// was cancelled is unavailable; when no request found a server it is network. Everything else is data.
Result<Batch> measure(const client::Endpoint& endpoint, const Facts& facts, const Options& options,
                      const BatchSpec& spec, TextSizes& sizes, const Nvml* nvml, pid_t server,
                      const std::atomic<bool>* cancel);

}  // namespace fl::report
