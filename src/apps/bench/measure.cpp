#include "apps/bench/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <numeric>
#include <random>

#include <xxhash.h>

#include "engine/candidates.h"

namespace fl::apps::bench {
namespace {

using Clock = std::chrono::steady_clock;
using model::kBlockTokens;

constexpr int32_t kStepsPerRead = 8;

double mean(const std::vector<double>& values) {
  return values.empty()
             ? 0
             : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double sample_stddev(const std::vector<double>& values) {
  if (values.size() < 2) {
    return 0;
  }
  const double centre = mean(values);
  double sum = 0;
  for (double value : values) {
    sum += (value - centre) * (value - centre);
  }
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

int32_t blocks_for(int64_t n_tokens) {
  return static_cast<int32_t>((n_tokens + kBlockTokens - 1) / kBlockTokens);
}

struct Sequence {
  std::vector<int32_t> prompt;  ///< depth, then the timed prompt
  std::vector<int32_t> blocks;
  int32_t live_row = 0;
  int32_t spare_row = 0;
  int32_t n_cached = 0;
  int32_t last = 0;  ///< the token that generation continues with
};

// Sequences on one runner; every method leaves no step in flight.
class Session {
 public:
  Session(model::Runner& runner, const Test& test, uint32_t seed) : runner_(runner), test_(test) {
    std::mt19937 random(seed);
    std::uniform_int_distribution<int32_t> any_token(0, runner.config().n_vocab - 1);
    const int32_t blocks_each = blocks_for(test.context());
    int32_t next_block = 0;
    for (int32_t i = 0; i < test.n_parallel; ++i) {
      Sequence sequence;
      sequence.prompt.resize(static_cast<size_t>(test.n_depth) + static_cast<size_t>(test.n_prompt));
      std::generate(sequence.prompt.begin(), sequence.prompt.end(), [&] { return any_token(random); });
      sequence.last = any_token(random);
      sequence.blocks.resize(static_cast<size_t>(blocks_each));
      std::iota(sequence.blocks.begin(), sequence.blocks.end(), next_block);
      next_block += blocks_each;
      sequence.live_row = i;
      sequence.spare_row = test.n_parallel + i;
      sequences_.push_back(std::move(sequence));
    }
    first_tokens_.reserve(sequences_.size());
    for (const Sequence& sequence : sequences_) {
      first_tokens_.push_back(sequence.last);
    }
  }

  void fill_depth() {
    if (test_.n_depth == 0) {
      return;
    }
    prompt(test_.n_depth, false);
    for (const Sequence& sequence : sequences_) {
      runner_.copy_state(sequence.live_row, sequence.spare_row);
    }
  }

  void rewind() {
    piece_hash_ = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      Sequence& sequence = sequences_[i];
      sequence.n_cached = test_.n_depth;
      sequence.last = first_tokens_[i];
      if (test_.n_depth > 0) {
        runner_.copy_state(sequence.spare_row, sequence.live_row);
      }
    }
  }

  // Brings every sequence to `end` tokens; with logits, each one's last token chooses the next.
  void prompt(int32_t end, bool logits) {
    while (true) {
      clear();
      int32_t budget = test_.n_batch;
      for (Sequence& sequence : sequences_) {
        int32_t n = std::min(end - sequence.n_cached, budget);
        if (sequence.n_cached + n < end) {
          n = (sequence.n_cached + n) / kBlockTokens * kBlockTokens -
              sequence.n_cached;  // the grid of batch.h
        }
        if (n <= 0) {
          continue;
        }
        add_slice(sequence, {sequence.prompt.data() + sequence.n_cached, static_cast<size_t>(n)}, true,
                  logits && sequence.n_cached + n == end);
        budget -= n;
      }
      if (slices_.empty()) {
        return;
      }
      submit(false);
      collect();
    }
  }

  // Where the runner samples, the next step is submitted before the last one is read, as the engine does it.
  void generate(int32_t n_tokens) {
    const bool ahead = runner_.capacity().max_in_flight > 1 && runner_.capacity().max_device_top_k > 0;
    for (int32_t i = 0; i < n_tokens; ++i) {
      const bool from_device = ahead && i > 0;
      clear();
      for (Sequence& sequence : sequences_) {
        const int32_t token = from_device ? model::kTokenFromDevice : sequence.last;
        add_slice(sequence, {&token, 1}, false, true);
      }
      submit(from_device);
      if (!ahead || i > 0) {
        collect();
      }
    }
    if (ahead && n_tokens > 0) {
      collect();
    }
  }

  uint64_t hash() const { return hash_; }
  /// Of the tokens since the last rewind.
  uint64_t piece_hash() const { return piece_hash_; }

 private:
  void add_slice(Sequence& sequence, std::span<const int32_t> tokens, bool prompt, bool logits) {
    model::Slice slice;
    slice.first = static_cast<int32_t>(tokens_.size());
    slice.n_tokens = static_cast<int32_t>(tokens.size());
    slice.n_cached = sequence.n_cached;
    slice.state_row = sequence.live_row;
    slice.prompt = prompt;
    sequence.n_cached += slice.n_tokens;
    slice.blocks = {sequence.blocks.data(), static_cast<size_t>(blocks_for(sequence.n_cached))};
    for (int32_t i = 0; i < slice.n_tokens; ++i) {
      const int32_t at = slice.n_cached + i;
      positions_.push_back({at, at, at});
    }
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    if (logits) {
      model::Row row;
      row.token = static_cast<int32_t>(tokens_.size()) - 1;
      if (runner_.capacity().max_device_top_k > 0) {
        row.logits_to_host = false;
        row.sampling.mode = model::DeviceSampling::Mode::greedy;
      }
      rows_.push_back(row);
      chosen_.push_back(&sequence);
    }
    slices_.push_back(slice);
  }

  void clear() {
    tokens_.clear();
    positions_.clear();
    slices_.clear();
    rows_.clear();
    chosen_.clear();
  }

  // With `from_device` the tokens are those of the step before, one row for each sequence in order.
  void submit(bool from_device) {
    model::Batch batch;
    batch.tokens = tokens_;
    if (from_device) {
      feedback_.resize(tokens_.size());
      std::iota(feedback_.begin(), feedback_.end(), 0);
      batch.feedback = feedback_;
    }
    batch.positions = positions_;
    batch.slices = slices_;
    batch.rows = rows_;
    runner_.submit(batch);
    flying_.push_back(chosen_);
  }

  void collect() {
    const std::vector<Sequence*> chosen = std::move(flying_.front());
    flying_.pop_front();
    const std::span<const model::RowResult> results = runner_.collect();
    for (size_t i = 0; i < chosen.size(); ++i) {
      int32_t token = results[i].token;
      if (token < 0) {
        token = std::max(
            0, engine::argmax(results[i].logits, results[i].maxima));  // 0: logits that are not finite
      }
      chosen[i]->last = token;
      hash_ = XXH3_64bits_withSeed(&token, sizeof token, hash_);
      piece_hash_ = XXH3_64bits_withSeed(&token, sizeof token, piece_hash_);
    }
  }

  model::Runner& runner_;
  const Test& test_;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> first_tokens_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> feedback_;
  std::vector<model::Position> positions_;
  std::vector<model::Slice> slices_;
  std::vector<model::Row> rows_;
  std::vector<Sequence*> chosen_;              ///< whose rows the batch being made has
  std::deque<std::vector<Sequence*>> flying_;  ///< of the submitted steps, oldest first
  uint64_t hash_ = 0;
  uint64_t piece_hash_ = 0;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Generates n_gen tokens between reads of memory, with the clock stopped for these; seconds.
double generate_between_reads(model::Runner& runner, Session& session, int32_t n_gen, Measured& measured) {
  const auto read = [&] {
    const model::MemoryRead pass = runner.read_memory();
    measured.reads.push_back(pass.bytes / pass.seconds);
    return measured.reads.back();
  };
  double total = 0;
  double before = read();
  for (int32_t done = 0; done < n_gen; done += kStepsPerRead) {
    const int32_t n = std::min(kStepsPerRead, n_gen - done);
    const Clock::time_point start = Clock::now();
    if (done == 0) {
      session.rewind();
    }
    session.generate(n);
    const double seconds = seconds_since(start);
    const double after = read();
    measured.steps_per_byte.push_back(n / seconds / ((before + after) / 2));
    before = after;
    total += seconds;
  }
  return total;
}

uint64_t ffn_bytes(const model::FeedForward& ffn) {
  return ffn.gate.bytes() + ffn.up.bytes() + ffn.down.bytes();
}

int64_t elements(const TensorView& tensor) {
  return tensor.cols() * tensor.rows();
}

}  // namespace

double Measured::read_bandwidth() const {
  return median(reads);
}
double Measured::median_steps_per_byte() const {
  return median(steps_per_byte);
}
double Measured::mean_rate() const {
  return mean(rates);
}
double Measured::stddev_rate() const {
  return sample_stddev(rates);
}
double Measured::mean_seconds() const {
  return mean(seconds);
}
double Measured::stddev_seconds() const {
  return sample_stddev(seconds);
}

model::RunnerOptions runner_options(const Test& test) {
  model::RunnerOptions options;
  options.n_threads = test.n_threads;
  options.n_blocks = blocks_for(test.context()) * test.n_parallel;
  // The states at the depth lie in rows of steps, not in spare ones: a copy from the host's memory would
  // count.
  options.n_state_rows = test.n_parallel * (test.n_depth > 0 ? 2 : 1);
  const int64_t longest = int64_t{std::max(test.n_prompt + test.n_depth, 1)} * test.n_parallel;
  options.max_tokens = static_cast<int32_t>(std::min<int64_t>(test.n_batch, longest));
  options.max_tokens = std::max({options.max_tokens, test.n_parallel, kBlockTokens});
  options.max_slices = test.n_parallel;
  options.max_rows = test.n_parallel;
  options.kv_type_k = test.type_k;
  options.kv_type_v = test.type_v;
  return options;
}

Measured measure(model::Runner& runner, const Test& test, int repetitions, uint32_t seed) {
  Session session(runner, test, seed);
  session.fill_depth();
  const auto once = [&](int32_t n_gen) {
    session.rewind();
    if (test.n_prompt > 0) {
      session.prompt(test.n_depth + test.n_prompt, true);
    }
    session.generate(n_gen);
  };
  once(std::min(test.n_gen, 1));
  Measured measured;
  const double n_tokens = double(test.n_prompt + test.n_gen) * test.n_parallel;
  const bool reads = test.n_prompt == 0 && test.n_gen > 0 && runner.read_memory().bytes > 0;
  uint64_t first_hash = 0;
  for (int i = 0; i < repetitions; ++i) {
    const Clock::time_point start = Clock::now();
    double seconds = 0;
    if (reads) {
      seconds = generate_between_reads(runner, session, test.n_gen, measured);
    } else {
      once(test.n_gen);
      seconds = seconds_since(start);
    }
    first_hash = i == 0 ? session.piece_hash() : first_hash;
    measured.n_differing += session.piece_hash() != first_hash ? 1 : 0;
    measured.seconds.push_back(seconds);
    measured.rates.push_back(n_tokens / seconds);
  }
  measured.tokens_hash = session.hash();
  return measured;
}

double step_bytes(const model::Weights& weights, const Test& test) {
  const model::Config& config = weights.config;
  uint64_t bytes = weights.output.bytes();
  for (const model::Layer& layer : weights.layers) {
    bytes += ffn_bytes(layer.ffn);
    if (layer.kind == model::LayerKind::full_attention) {
      const model::FullAttention& a = layer.attention;
      bytes += a.q.bytes() + a.k.bytes() + a.v.bytes() + a.out.bytes();
    } else {
      const model::DeltaNet& d = layer.delta;
      bytes += d.qkv.bytes() + d.gate.bytes() + d.beta.bytes() + d.alpha.bytes() + d.out.bytes();
    }
  }
  const double state =
      2.0 * 4.0 * double(config.n_delta_layers()) * double(config.state_floats() + config.conv_floats());
  const double depth = test.n_depth + test.n_prompt + test.n_gen / 2.0;
  const auto width = static_cast<uint64_t>(config.kv_width());
  const double cache =
      depth * config.n_full_layers() * double(row_bytes(test.type_k, width) + row_bytes(test.type_v, width));
  return double(bytes) + test.n_parallel * (state + cache);
}

double prompt_token_ops(const model::Weights& weights) {
  int64_t n = 0;
  for (const model::Layer& layer : weights.layers) {
    n += elements(layer.ffn.gate) + elements(layer.ffn.up) + elements(layer.ffn.down);
    if (layer.kind == model::LayerKind::full_attention) {
      const model::FullAttention& a = layer.attention;
      n += elements(a.q) + elements(a.k) + elements(a.v) + elements(a.out);
    } else {
      const model::DeltaNet& d = layer.delta;
      n += elements(d.qkv) + elements(d.gate) + elements(d.beta) + elements(d.alpha) + elements(d.out);
    }
  }
  return 2.0 * double(n);
}

}  // namespace fl::apps::bench
